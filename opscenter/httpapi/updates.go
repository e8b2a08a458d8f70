package httpapi

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/access"
	"github.com/opscenter-go/sdk/opscenter/updates"
)

var errNoUpdates = errors.New("the update feed is not set up here")

const (
	updatesPath       = "/1.0/provisioning/updates"
	postUpdatePattern = "POST " + updatesPath
)

// update is the document of an update.
type update struct {
	UUID             string    `json:"uuid"`
	Version          string    `json:"version"`
	PublishedAt      time.Time `json:"published_at"`
	Severity         string    `json:"severity"`
	Origin           string    `json:"origin"`
	URL              string    `json:"url"`
	Channels         []string  `json:"channels"`
	UpstreamChannels []string  `json:"upstream_channels"`
	Status           string    `json:"update_status"`
	// Problem says why a pending update is not ready, why a ready one is held back from a channel, or how many files were not
	// uploaded.
	Problem string `json:"problem,omitempty"`
}

type updateFile struct {
	Filename     string `json:"filename"`
	Size         int64  `json:"size"`
	SHA256       string `json:"sha256"`
	Component    string `json:"component"`
	Type         string `json:"type"`
	Architecture string `json:"architecture"`
}

// showUpdate returns the document of an update. Its problem, which may name servers and tokens, is for principals of the whole fleet.
func showUpdate(u *updates.Update, problem bool) update {
	out := publicUpdate(u)
	if problem {
		out.Problem = u.Problem
		if u.Described > len(u.Files) {
			in := fmt.Sprintf("has %d of the %d files that its description names", len(u.Files), u.Described)
			out.Problem = strings.TrimPrefix(out.Problem+"; "+in, "; ")
		}
	}
	return out
}

// updateFor is showUpdate for the client of a request.
func (h *Handler) updateFor(r *http.Request, u *updates.Update) update {
	p, trusted := h.principal(r)
	return showUpdate(u, trusted && p.Scope.All())
}

// publicUpdate returns the document of an update for clients that are no principals.
func publicUpdate(u *updates.Update) update {
	return update{UUID: u.UUID, Version: u.Version, PublishedAt: u.PublishedAt, Severity: string(u.Severity), Origin: u.Origin, URL: u.URL,
		Channels: orEmpty(u.Channels), UpstreamChannels: orEmpty(u.UpstreamChannels), Status: string(u.Status)}
}

// orEmpty returns a list that JSON does not show as null.
func orEmpty(list []string) []string {
	if list == nil {
		return []string{}
	}
	return list
}

// getUpdates lists updates, the newest first. It lists ready updates only without the query status, and always for clients that are
// no principals.
func (h *Handler) getUpdates(w http.ResponseWriter, r *http.Request) {
	query := queryOf(r)
	switch updates.Status(query.valueOf("status")) {
	case "", updates.StatusPending, updates.StatusReady, "unknown":
	default:
		h.fail(w, r, fmt.Errorf("%w: status %.40q is neither unknown, pending nor ready", errBody, query.valueOf("status")))
		return
	}
	show, snapshot := publicUpdate, h.options.Updates.Snapshot()
	p, trusted := h.principal(r)
	if trusted {
		show = func(u *updates.Update) update { return showUpdate(u, p.Scope.All()) }
	}
	build := func() []byte {
		status := cmp.Or(updates.Status(query.valueOf("status")), updates.StatusReady)
		metadata := []any{}
		for _, u := range snapshot.Updates() {
			if u.Status != status || !trusted && status != updates.StatusReady || query.valueOf("origin") != "" && u.Origin != query.valueOf("origin") ||
				query.valueOf("channel") != "" && !slices.Contains(u.UpstreamChannels, query.valueOf("channel")) {
				continue
			}
			if query.recursion {
				metadata = append(metadata, show(u))
			} else {
				metadata = append(metadata, updatesPath+"/"+u.UUID)
			}
		}
		return encoded(metadata)
	}
	if !trusted && query.valueOf("status") == "" && query.valueOf("origin") == "" && query.valueOf("channel") == "" {
		sendCached(w, snapshot, fmt.Sprintf("updates %t", query.recursion), build)
		return
	}
	sendEncoded(w, build())
}

// sendCached sends an answer that is built once for all clients, until the feed changes.
func sendCached(w http.ResponseWriter, s *updates.Snapshot, name string, build func() []byte) {
	sendEncoded(w, s.Cached(name, build))
}

// encoded returns a whole answer.
func encoded(metadata any) []byte {
	data, err := json.Marshal(envelope{Type: "sync", Status: "Success", StatusCode: http.StatusOK, Metadata: metadata})
	if err != nil {
		return []byte(`{"type":"error","error_code":500,"error":"the answer could not be encoded","metadata":null}`)
	}
	return append(data, '\n')
}

func sendEncoded(w http.ResponseWriter, data []byte) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", fmt.Sprint(len(data)))
	_, _ = w.Write(data)
}

// shownUpdate returns the update that the path names. Only principals see one that is not ready.
func (h *Handler) shownUpdate(r *http.Request, s *updates.Snapshot) (*updates.Update, error) {
	u, err := s.Update(strings.ToLower(r.PathValue("uuid")))
	if err == nil && u.Status != updates.StatusReady {
		if _, trusted := h.principal(r); !trusted {
			return nil, fmt.Errorf("update %s is not all here: %w", u.Version, opscenter.ErrNotFound)
		}
	}
	return u, err
}

func (h *Handler) getUpdate(w http.ResponseWriter, r *http.Request) {
	u, err := h.shownUpdate(r, h.options.Updates.Snapshot())
	if err != nil {
		h.fail(w, r, err)
		return
	}
	shown := h.updateFor(r, u)
	w.Header().Set("ETag", etag(shown))
	respond(w, shown)
}

func (h *Handler) getUpdateFiles(w http.ResponseWriter, r *http.Request) {
	snapshot := h.options.Updates.Snapshot()
	u, err := h.shownUpdate(r, snapshot)
	if err == nil && u.Status != updates.StatusReady {
		err = fmt.Errorf("update %s is not all here: %w", u.Version, opscenter.ErrNotFound)
	}
	if err != nil {
		h.fail(w, r, err)
		return
	}
	sendCached(w, snapshot, "files "+u.UUID, func() []byte {
		files := []updateFile{}
		for _, f := range u.Files {
			files = append(files, updateFile{f.Filename, f.Size, f.SHA256, f.Component, string(f.Type), f.Architecture})
		}
		return encoded(files)
	})
}

// getUpdateFile sends a file as it is, without a Content-Encoding: a packed file is packed for the server.
func (h *Handler) getUpdateFile(w http.ResponseWriter, r *http.Request) {
	u, f, content, err := h.options.Updates.Open(r.Context(), strings.ToLower(r.PathValue("uuid")), r.PathValue("name"))
	if err != nil {
		h.fail(w, r, err)
		return
	}
	defer content.Close()
	end, ok := h.place(w, r)
	if !ok {
		return
	}
	defer end()
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("ETag", `"`+f.SHA256+`"`)
	w.Header().Set("X-Content-Type-Options", "nosniff")
	paced := &pacedWriter{ResponseWriter: w, ctx: r.Context(), rate: h.downloads.rate, timeout: h.options.WriteTimeout}
	http.ServeContent(paced, r, "", u.PublishedAt, content)
}

// place waits for a place among the downloads, and answers the request itself if none becomes free. Unknown clients, and servers that
// have not registered yet, have places of their own, so that they leave those of registered servers and operators free.
func (h *Handler) place(w http.ResponseWriter, r *http.Request) (end func(), ok bool) {
	places := h.downloads
	if h.isKnown(r) {
		places = h.known
	}
	_ = http.NewResponseController(w).SetWriteDeadline(time.Time{})
	end, err := places.begin(r.Context(), r.RemoteAddr)
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(h.options.WriteTimeout))
	if err != nil {
		w.Header().Set("Retry-After", "60")
		h.fail(w, r, err)
		return nil, false
	}
	return end, true
}

// isKnown reports whether the client is a principal or a registered server.
func (h *Handler) isKnown(r *http.Request) bool {
	if _, trusted := h.principal(r); trusted {
		return true
	}
	return h.isRegistered(r)
}

// changelogShown is the document of a changelog.
type changelogShown struct {
	Channel        string                      `json:"channel"`
	CurrentVersion string                      `json:"current_version"`
	PriorVersion   string                      `json:"prior_version"`
	Components     map[string]changelogEntries `json:"components"`
}

type changelogEntries struct {
	Added   []string `json:"added"`
	Updated []string `json:"updated"`
	Removed []string `json:"removed"`
}

func showChangelog(c *updates.Changelog) changelogShown {
	out := changelogShown{Channel: c.Channel, CurrentVersion: c.Version, PriorVersion: c.PriorVersion, Components: map[string]changelogEntries{}}
	for name, changes := range c.Components {
		out.Components[name] = changelogEntries{orEmpty(changes.Added), orEmpty(changes.Updated), orEmpty(changes.Removed)}
	}
	return out
}

func (h *Handler) getUpdateChangelog(w http.ResponseWriter, r *http.Request) {
	if err := h.changelogs.Acquire(r.Context(), 1); err != nil { // it unpacks the manifests of two updates
		h.fail(w, r, err)
		return
	}
	defer h.changelogs.Release(1)
	query := queryOf(r)
	upstream, err := query.flagOr("upstream", false)
	var found *updates.Changelog
	switch {
	case err != nil:
	case query.valueOf("since") != "":
		found, err = h.options.Updates.ChangelogSince(r.Context(), strings.ToLower(r.PathValue("uuid")), strings.ToLower(query.valueOf("since")), cmp.Or(query.valueOf("architecture"), updates.ArchitectureX8664))
	default:
		found, err = h.options.Updates.Changelog(r.Context(), strings.ToLower(r.PathValue("uuid")), query.valueOf("channel"), upstream,
			cmp.Or(query.valueOf("architecture"), updates.ArchitectureX8664))
	}
	if err != nil {
		h.fail(w, r, err)
		return
	}
	respond(w, showChangelog(found))
}

func (h *Handler) getChannelChangelog(w http.ResponseWriter, r *http.Request) {
	query := queryOf(r)
	_, err := h.registry.Channels().Get(r.Context(), r.PathValue("name"))
	var found []*updates.Changelog
	if err == nil {
		found, err = h.options.Updates.ChannelChangelog(r.Context(), r.PathValue("name"), cmp.Or(query.valueOf("architecture"), updates.ArchitectureX8664))
	}
	if err != nil {
		h.fail(w, r, err)
		return
	}
	out := []changelogShown{}
	for _, one := range found {
		out = append(out, showChangelog(one))
	}
	respond(w, out)
}

// getServerChangelog shows the packages that change with the next update of a server.
func (h *Handler) getServerChangelog(w http.ResponseWriter, r *http.Request) {
	info, err := h.registry.Server(r.Context(), r.PathValue("name"))
	var found *updates.Changelog
	if err == nil {
		found, err = h.options.Updates.ServerChangelog(r.Context(), info)
	}
	if err != nil {
		h.fail(w, r, err)
		return
	}
	respond(w, showChangelog(found))
}

// postUpdate takes in an archive. The upload has no time limit as long as each part of it comes in time, see livelyReader.
func (h *Handler) postUpdate(w http.ResponseWriter, r *http.Request) {
	var made *updates.Update
	var err error
	control := http.NewResponseController(w)
	h.patient(w, func() {
		made, err = h.options.Updates.Upload(r.Context(), &livelyReader{from: r.Body, more: func() { _ = control.SetReadDeadline(time.Now().Add(h.options.WriteTimeout)) }})
	})
	if err != nil {
		h.fail(w, r, err)
		return
	}
	respondCreated(w, updatesPath+"/"+made.UUID, h.updateFor(r, made))
}

// livelyReader calls more for each livelyPart of a body, to give the part its time. It stops at the end of the body: net/http reads
// ahead from there, which must have no deadline.
type livelyReader struct {
	from io.Reader
	more func()
	came int // since the last call of more
	over error
}

// livelyPart is the part of a body that must come within Options.WriteTimeout, in bytes. Single bytes now and then do not keep an
// upload alive.
const livelyPart = 16 << 10

func (l *livelyReader) Read(p []byte) (n int, err error) {
	if l.over != nil {
		return 0, l.over
	}
	if l.came == 0 || l.came >= livelyPart {
		l.more()
		l.came = 0
	}
	n, l.over = l.from.Read(p)
	l.came += n
	return n, l.over
}

func (h *Handler) deleteUpdates(w http.ResponseWriter, r *http.Request) {
	h.done(w, r, h.options.Updates.Remove(r.Context()))
}

// deleteUpdate removes an update. One that a channel offers is removed by force only.
func (h *Handler) deleteUpdate(w http.ResponseWriter, r *http.Request) {
	force, err := forced(r)
	snapshot := h.options.Updates.Snapshot()
	var u *updates.Update
	if err == nil {
		u, err = snapshot.Update(strings.ToLower(r.PathValue("uuid")))
	}
	if err == nil && !force {
		for _, channel := range u.Channels {
			if updates.Offered(snapshot.Updates(), channel) == u {
				err = fmt.Errorf("channel %s offers update %s: take it out of the channel, or force it: %w", channel, u.Version, opscenter.ErrInUse)
				break
			}
		}
	}
	if err == nil {
		err = h.options.Updates.Remove(r.Context(), u.UUID)
	}
	h.done(w, r, err)
}

// updatePut names the channels that offer an update.
type updatePut struct {
	Channels *[]string `json:"channels"`
}

func (h *Handler) putUpdate(w http.ResponseWriter, r *http.Request) {
	force, err := forced(r)
	var body updatePut
	if err == nil {
		err = decode(r, &body, shownBy[update]())
	}
	if err == nil && body.Channels == nil {
		err = fmt.Errorf("%w: field channels is missing", errBody)
	}
	if err == nil {
		err = h.options.Updates.SetChannels(r.Context(), strings.ToLower(r.PathValue("uuid")), *body.Channels, updates.SetOptions{Force: force, Check: func(u *updates.Update) error {
			return matches(r, etag(h.updateFor(r, u)))
		}})
	}
	h.done(w, r, err)
}

// refreshUpdates asks the source for updates. With wait it answers at the end of the refresh.
func (h *Handler) refreshUpdates(w http.ResponseWriter, r *http.Request) {
	query, older := queryOf(r), false
	wait, err := query.flagOr("wait", false)
	if err == nil {
		older, err = query.flagOr("force", false)
	}
	if p, _ := access.From(r.Context()); err == nil && older && !p.Role.Includes(access.RoleAdmin) {
		err = fmt.Errorf("an older index is accepted by the role %s alone: %w", access.RoleAdmin, access.ErrForbidden)
	}
	if err == nil && !h.options.Updates.HasSource() {
		err = updates.ErrNoSource
	}
	switch {
	case err != nil:
	case wait || older:
		h.patient(w, func() { err = h.options.Updates.Refresh(r.Context(), updates.RefreshOptions{AcceptOlder: older}) })
		if err != nil && !errors.Is(err, updates.ErrReplay) && !errors.Is(err, updates.ErrDiskFull) && !errors.Is(err, context.Canceled) {
			err = fmt.Errorf("%w: %w", errRefresh, err) // the request was right
		}
	default:
		h.options.Updates.RefreshSoon()
	}
	h.done(w, r, err)
}

// errRefresh: the source, or its content, is at fault.
var errRefresh = errors.New("the updates could not all be fetched")

// refreshProgress is the document of a refresh.
type refreshProgress struct {
	Running   bool      `json:"running"`
	StartedAt time.Time `json:"started_at"`
	EndedAt   time.Time `json:"ended_at"`
	Version   string    `json:"version"`
	Files     int       `json:"files"`
	FilesDone int       `json:"files_done"`
	Bytes     int64     `json:"bytes"`
	BytesDone int64     `json:"bytes_done"`
	Problems  []string  `json:"problems"`
}

// getRefresh shows the progress of a refresh.
func (h *Handler) getRefresh(w http.ResponseWriter, _ *http.Request) {
	p := h.options.Updates.Progress()
	respond(w, refreshProgress{p.Running, p.Started, p.Ended, p.Version, p.Files, p.FilesDone, p.Bytes, p.BytesDone, orEmpty(p.Problems)})
}

// updateSettings are the settings of the feed, by the names of Operations Center.
type updateSettings struct {
	Source         string `json:"source"`
	Root           string `json:"signature_verification_root_ca"`
	Filter         string `json:"filter_expression"`
	FileFilter     string `json:"file_filter_expression"`
	DefaultChannel string `json:"updates_default_channel"`
	ServerChannel  string `json:"server_default_channel"`
	TokenInQuery   bool   `json:"image_server_authentication_by_query_param"`
	Keep           int    `json:"keep"`
}

func (h *Handler) updateSettings() updateSettings {
	s := h.options.Updates.Settings()
	return updateSettings{s.Source, s.Root, s.Filter, s.FileFilter, s.DefaultChannel, h.registry.Channels().Default(), s.TokenInQuery, s.Keep}
}

func (h *Handler) getUpdateSettings(w http.ResponseWriter, _ *http.Request) {
	shown := h.updateSettings()
	w.Header().Set("ETag", etag(shown))
	respond(w, shown)
}

// putUpdateSettings edits the settings. A field that is left out keeps its value.
func (h *Handler) putUpdateSettings(w http.ResponseWriter, r *http.Request) {
	next := h.updateSettings()
	err := decode(r, &next)
	if err == nil {
		h.patient(w, func() {
			err = h.options.Updates.SetSettings(r.Context(), updates.Settings{Source: next.Source, Root: next.Root, Filter: next.Filter, FileFilter: next.FileFilter,
				DefaultChannel: next.DefaultChannel, ServerDefaultChannel: next.ServerChannel, TokenInQuery: next.TokenInQuery, Keep: next.Keep},
				func(updates.Settings) error { return matches(r, etag(h.updateSettings())) })
		})
	}
	if err != nil && statusOf(err) == http.StatusInternalServerError {
		err = fmt.Errorf("%w: %w", errRefresh, err)
	}
	h.done(w, r, err)
}
