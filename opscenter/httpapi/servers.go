package httpapi

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/access"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
	"github.com/opscenter-go/sdk/storage"
)

// server is the document of a server: Operations Center's fields, and behind them the recommended action and its reason.
type server struct {
	Name                string               `json:"name"`
	ConnectionURL       string               `json:"connection_url"`
	SystemUUID          string               `json:"system_uuid"`
	MachineID           string               `json:"machine_id"`
	PublicConnectionURL string               `json:"public_connection_url"`
	PublicURLTrusted    bool                 `json:"public_connection_url_trusted"`
	Channel             string               `json:"channel"`
	Description         string               `json:"description"`
	Properties          map[string]string    `json:"properties"`
	Certificate         string               `json:"certificate"`
	Fingerprint         string               `json:"fingerprint"`
	ServedFingerprint   string               `json:"served_fingerprint"`
	Presented           string               `json:"presented_fingerprint"`
	Cluster             string               `json:"cluster"`
	MemberName          string               `json:"member_name"`
	MemberRoles         []string             `json:"member_roles"`
	Type                lifecycle.ServerType `json:"server_type"`
	HardwareData        json.RawMessage      `json:"hardware_data,omitempty"` // sent as it is stored, see serversFor
	OSData              json.RawMessage      `json:"os_data,omitempty"`       // likewise
	VersionData         versionData          `json:"version_data"`
	Status              lifecycle.Status     `json:"server_status"`
	StatusDetail        string               `json:"server_status_detail"`
	LastUpdated         time.Time            `json:"last_updated"`
	LastSeen            time.Time            `json:"last_seen"`
	Trusted             bool                 `json:"system_state_is_trusted"`

	RecommendedAction       lifecycle.Action      `json:"recommended_action"`
	UpdateState             lifecycle.UpdateState `json:"update_state"`
	RecommendedActionReason string                `json:"recommended_action_reason"`
	StatusReason            string                `json:"server_status_reason"`
}

type versionData struct {
	OS            osVersion                  `json:"os"`
	Applications  []applicationVersion       `json:"applications"`
	UpdateChannel string                     `json:"update_channel"`
	NeedsUpdate   bool                       `json:"needs_update"`
	NeedsReboot   bool                       `json:"needs_reboot"`
	InMaintenance lifecycle.MaintenanceState `json:"in_maintenance"`
}

type osVersion struct {
	Name             string `json:"name"`
	Version          string `json:"version"`
	VersionNext      string `json:"version_next"`
	BackupImage      bool   `json:"backup_image"` // because version_next did not boot
	AvailableVersion string `json:"available_version,omitempty"`
	NeedsReboot      bool   `json:"needs_reboot"`
	NeedsUpdate      bool   `json:"needs_update"`
}

type applicationVersion struct {
	Name             string                     `json:"name"`
	Version          string                     `json:"version"`
	FriendlyVersion  string                     `json:"friendly_version,omitempty"`
	AvailableVersion string                     `json:"available_version,omitempty"`
	NeedsUpdate      bool                       `json:"needs_update"`
	InMaintenance    lifecycle.MaintenanceState `json:"in_maintenance"`
}

// showServer returns the document of a server without the facts, which are members of it, too: hardware_data and os_data.
func showServer(info *opscenter.ServerInfo) *server {
	s := &info.State
	recommended := info.Recommendation()
	out := &server{
		Name: info.Name, ConnectionURL: info.ConnectionURL, SystemUUID: info.SystemUUID, MachineID: info.MachineID,
		PublicConnectionURL: info.PublicConnectionURL, PublicURLTrusted: info.PublicURLTrusted, Channel: info.Channel, Description: info.Description,
		Properties: info.Properties, Certificate: info.Certificate, Fingerprint: info.Fingerprint, ServedFingerprint: info.ServedFingerprint, Presented: s.Presented, Cluster: info.Cluster,
		MemberName: s.MemberName, MemberRoles: s.MemberRoles,
		Type: s.Type, VersionData: showVersions(info), Status: s.Status, StatusDetail: string(s.StatusDetail), StatusReason: s.StatusReason,
		LastUpdated: slices.MaxFunc([]time.Time{info.LastUpdated, s.LastUpdated}, time.Time.Compare), LastSeen: info.LastSeen, Trusted: s.SystemStateTrusted,
		RecommendedAction: recommended.Action, UpdateState: recommended.UpdateState, RecommendedActionReason: recommended.Reason,
	}
	if out.Properties == nil {
		out.Properties = map[string]string{}
	}
	return out
}

func showVersions(info *opscenter.ServerInfo) versionData {
	v, outdated := info.State.Versions, info.Outdated()
	out := versionData{
		OS: osVersion{Name: v.OS.Name, Version: v.OS.Version, VersionNext: v.OS.VersionNext, BackupImage: v.OS.BackupImage, NeedsReboot: v.NeedsReboot()},
		// Never null.
		Applications:  []applicationVersion{},
		UpdateChannel: v.UpdateChannel,
		NeedsUpdate:   len(outdated) > 0, NeedsReboot: v.NeedsReboot(), InMaintenance: info.State.Maintenance,
	}
	if _, ok := v.Staged(lifecycle.ComponentOS); ok || v.NeedsReboot() {
		out.OS.AvailableVersion = info.Available[lifecycle.ComponentOS]
		_, out.OS.NeedsUpdate = outdated[lifecycle.ComponentOS]
	}
	for _, a := range v.Applications {
		shown := applicationVersion{Name: a.Name, Version: a.Version, FriendlyVersion: a.FriendlyVersion, AvailableVersion: info.Available[a.Name]}
		_, shown.NeedsUpdate = outdated[a.Name]
		if a.Primary {
			shown.InMaintenance = info.State.Maintenance
		}
		out.Applications = append(out.Applications, shown)
	}
	return out
}

// servers shows servers. Their ETags cover the server's identity and the fields that a PUT replaces.
func (h *Handler) servers() resource[*opscenter.ServerInfo] {
	return resource[*opscenter.ServerInfo]{h: h, path: func(info *opscenter.ServerInfo) string { return serverPath(info.Name) },
		show: always(showServer),
		covers: func(info *opscenter.ServerInfo) any {
			return []any{info.ID, info.Name, info.Description, info.Properties, info.PublicConnectionURL, info.PublicURLTrusted, info.ConnectionURL, info.Channel, info.Cluster}
		}}
}

// serversFor shows servers to the client of w. withFacts: with their facts, which are sent as they are stored.
func (h *Handler) serversFor(w http.ResponseWriter, withFacts bool) resource[*opscenter.ServerInfo] {
	out := h.servers()
	if !withFacts {
		return out
	}
	_, zstd := w.(*zstdWriter)
	var shown document // of one server at a time
	out.show = func(ctx context.Context, info *opscenter.ServerInfo) (any, error) {
		rest, err := json.Marshal(showServer(info))
		if err != nil {
			return nil, err
		}
		shown.before = append(append(shown.before[:0], rest[:len(rest)-1]...), ',')
		shown.frame, shown.after = nil, closing
		err = h.registry.Read(ctx, func(s *opscenter.Snapshot) (err error) {
			if zstd {
				shown.frame, err = s.ZstdFacts(info)
			} else {
				shown.before, err = s.AppendFacts(shown.before, info)
			}
			return err
		})
		if errors.Is(err, storage.ErrCorrupt) {
			// One server's facts must not hide the others.
			h.options.Logger.ErrorContext(ctx, "facts can't be read", "server", info.Name, "error", err)
			shown.before, err = append(shown.before, noFacts...), nil
		}
		return &shown, err
	}
	return out
}

var closing, noFacts = []byte("}"), []byte(`"os_data":{}`)

func (q *query) serverFilter() (opscenter.ServerFilter, error) {
	v := q.values
	f := opscenter.ServerFilter{
		Status: lifecycle.Status(v.Get("status")), StatusDetail: lifecycle.StatusDetail(v.Get("status_detail")),
		Type: lifecycle.ServerType(v.Get("type")), Cluster: v.Get("cluster"), Channel: v.Get("channel"), Fingerprint: v.Get("fingerprint"),
		Expression: v.Get("filter"),
	}
	for name, into := range map[string]**bool{"needs_update": &f.NeedsUpdate, "needs_reboot": &f.NeedsReboot, "in_maintenance": &f.InMaintenance} {
		var err error
		if *into, err = q.flag(name); err != nil {
			return f, err
		}
	}
	return f, nil
}

// getServers lists servers. With facts=0 it leaves out the facts, which are large.
func (h *Handler) getServers(w http.ResponseWriter, r *http.Request) {
	query, withFacts := queryOf(r), true
	filter, err := query.serverFilter()
	filter.Scope = scopeOf(r.Context())
	if err == nil {
		withFacts, err = query.flagOr("facts", true)
	}
	if err == nil && !query.recursion {
		h.listServerNames(w, r, query, filter)
		return
	}
	w, flush := zstdFor(w, r, withFacts)
	defer flush()
	h.serversFor(w, withFacts).list(w, r, query, err, func(page opscenter.Page) ([]*opscenter.ServerInfo, string, error) {
		found, err := h.registry.ListServers(r.Context(), filter, page)
		return found.Servers, found.Next, cmp.Or(err, r.Context().Err())
	})
}

// listServerNames lists the paths of servers.
func (h *Handler) listServerNames(w http.ResponseWriter, r *http.Request, query *query, filter opscenter.ServerFilter) {
	names := resource[string]{h: h, show: always(serverPath), step: opscenter.MaxPageSize}
	names.list(w, r, query, nil, func(page opscenter.Page) (names []string, next string, err error) {
		err = h.registry.Read(r.Context(), func(s *opscenter.Snapshot) (err error) {
			names, next, err = s.ServerNames(r.Context(), filter, page)
			return err
		})
		return names, next, cmp.Or(err, r.Context().Err())
	})
}

func (h *Handler) getServerByName(w http.ResponseWriter, r *http.Request) {
	withFacts, err := queryOf(r).flagOr("facts", true)
	var info *opscenter.ServerInfo
	if err == nil {
		info, err = h.registry.Server(r.Context(), r.PathValue("name"))
	}
	w, flush := zstdFor(w, r, withFacts)
	defer flush()
	h.serversFor(w, withFacts).answer(w, r, info, err)
}

// serverEdit is an edit of a server. Fields that can't be edited may be sent back as they are.
type serverEdit struct {
	serverPut
	unchanged
}

func (h *Handler) putServer(w http.ResponseWriter, r *http.Request) {
	var body serverEdit
	err := decode(r, &body, shownBy[server](), bmcConfig)
	if err == nil {
		err = h.registry.EditServer(r.Context(), r.PathValue("name"), func(info *opscenter.ServerInfo, spec *opscenter.ServerSpec) error {
			before := *spec
			body.edit(spec)
			// The URLs decide on the machine that is trusted as the server: a publicly trusted certificate at the public URL is accepted.
			p, _ := access.From(r.Context())
			if trusts := spec.ConnectionURL != "" && before.ConnectionURL != spec.ConnectionURL || before.PublicConnectionURL != spec.PublicConnectionURL || before.PublicURLTrusted != spec.PublicURLTrusted; trusts && !p.Role.Includes(access.RoleAdmin) {
				return fmt.Errorf("connection URLs are changed by the role %s alone: %w", access.RoleAdmin, access.ErrForbidden)
			}
			return cmp.Or(body.check(unchangedOf(info)), h.servers().matches(r, info))
		})
	}
	h.done(w, r, err)
}

func (h *Handler) deleteServer(w http.ResponseWriter, r *http.Request) {
	force, err := forced(r)
	if err == nil {
		err = h.registry.DeleteServer(r.Context(), r.PathValue("name"), force)
	}
	h.done(w, r, err)
}

// acceptPost names the certificate that is accepted.
type acceptPost struct {
	Fingerprint *string `json:"fingerprint"`
}

// acceptCertificate accepts another certificate of a server, beside the one with which it registered. An empty fingerprint takes
// that back.
func (h *Handler) acceptCertificate(w http.ResponseWriter, r *http.Request) {
	var body acceptPost
	err := decode(r, &body)
	if err == nil && body.Fingerprint == nil {
		err = fmt.Errorf("%w: field fingerprint: it is wanted", errBody)
	}
	if err == nil {
		err = h.registry.AcceptCertificate(r.Context(), r.PathValue("name"), *body.Fingerprint)
	}
	h.done(w, r, err)
}

// getFactsHistory lists how the facts of a server changed, the newest change first.
func (h *Handler) getFactsHistory(w http.ResponseWriter, r *http.Request) {
	history := []lifecycle.FactsRevision{}
	err := h.registry.Read(r.Context(), func(s *opscenter.Snapshot) error {
		found, err := s.FactsHistory(r.PathValue("name"))
		history = append(history, found...)
		return err
	})
	h.answer(w, r, history, err)
}
