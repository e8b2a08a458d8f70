package httpapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/opscenter-go/sdk/internal/jsonkeep"
	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/network"
	"github.com/opscenter-go/sdk/opscenter/system"
)

var errNoSystem = errors.New("changes of servers are not set up here")

// shownChange is the document of a change.
type shownChange struct {
	UUID                string               `json:"uuid"`
	Server              string               `json:"server"`
	Cluster             string               `json:"cluster"`
	Batch               string               `json:"batch"`
	Section             string               `json:"section"`
	RequestedBy         string               `json:"requested_by"`
	Status              system.Status        `json:"status"`
	StatusReason        string               `json:"status_reason"`
	Differences         []network.Difference `json:"differences"`
	OldConnectionURL    string               `json:"old_connection_url"`
	ConnectionURL       string               `json:"connection_url"`
	ConfirmationTimeout string               `json:"confirmation_timeout"`
	StartedAt           time.Time            `json:"started_at"`
	SentAt              time.Time            `json:"sent_at"`
	EndedAt             time.Time            `json:"ended_at"`
}

func showChange(c *system.Change) shownChange {
	out := shownChange{UUID: c.ID, Server: c.Server, Cluster: c.Cluster, Batch: c.Batch, Section: c.Section, RequestedBy: c.By, Status: c.Status, StatusReason: c.Reason,
		Differences: c.Differences, OldConnectionURL: c.OldURL, ConnectionURL: c.URL, StartedAt: c.StartedAt, SentAt: c.SentAt, EndedAt: c.EndedAt}
	if out.Differences == nil {
		out.Differences = []network.Difference{}
	}
	if c.Timeout > 0 {
		out.ConfirmationTimeout = c.Timeout.String()
	}
	return out
}

// shownBatch is the document of a change of a whole cluster.
type shownBatch struct {
	UUID        string        `json:"uuid"`
	Cluster     string        `json:"cluster"`
	Section     string        `json:"section"`
	RequestedBy string        `json:"requested_by"`
	Members     []batchMember `json:"members"`
	Failure     string        `json:"failure"`
	StartedAt   time.Time     `json:"started_at"`
	EndedAt     time.Time     `json:"ended_at"`
}

type batchMember struct {
	Server string        `json:"server"`
	Change string        `json:"change"`
	Status system.Status `json:"status"`
}

func showBatch(b *system.Batch) shownBatch {
	out := shownBatch{UUID: b.ID, Cluster: b.Cluster, Section: b.Section, RequestedBy: b.By, Failure: b.Failed, StartedAt: b.StartedAt, EndedAt: b.EndedAt, Members: []batchMember{}}
	for _, m := range b.Members {
		out.Members = append(out.Members, batchMember{m.Server, m.Change, m.Status})
	}
	return out
}

func changePath(id string) string { return "/1.0/provisioning/changes/" + id }
func batchPath(id string) string  { return "/1.0/provisioning/batches/" + id }

func (h *Handler) changes() resource[*system.Change] {
	return resource[*system.Change]{h: h, path: func(c *system.Change) string { return changePath(c.ID) }, show: always(showChange)}
}

func (h *Handler) batches() resource[*system.Batch] {
	return resource[*system.Batch]{h: h, path: func(b *system.Batch) string { return batchPath(b.ID) }, show: always(showBatch)}
}

func (h *Handler) getNetwork(w http.ResponseWriter, r *http.Request) {
	n, err := h.options.System.Network(r.Context(), r.PathValue("name"))
	if err != nil {
		h.fail(w, r, err)
		return
	}
	w.Header().Set("ETag", `"`+n.ETag+`"`)
	respond(w, n)
}

// applyOptions reads the options of a change of a network.
func applyOptions(r *http.Request) (o system.ApplyOptions, dry bool, err error) {
	q := queryOf(r)
	for name, into := range map[string]*bool{"force": &o.Force, "accept-risk": &o.AcceptRisk, "allow-unmanaged": &o.Rules.AllowUnmanaged, "dry-run": &dry} {
		if *into, err = q.flagOr(name, false); err != nil {
			return o, false, err
		}
	}
	if text := q.values.Get("confirmation-timeout"); text != "" {
		if o.Timeout, err = time.ParseDuration(text); err != nil || o.Timeout <= 0 {
			return o, false, fmt.Errorf("%w: confirmation-timeout %.40q is not a duration above 0, as 5m", errBody, text)
		}
	}
	o.IfMatch = r.Header.Get("If-Match")
	return o, dry, nil
}

// putNetwork changes the network of a server, and answers when the change is final. With dry-run=1 it shows the differences. If the
// client leaves, the change goes on.
func (h *Handler) putNetwork(w http.ResponseWriter, r *http.Request) {
	options, dry, err := applyOptions(r)
	var body network.Network
	if err == nil {
		err = decode(r, &body)
	}
	if err == nil {
		err = onlyConfig(&body)
	}
	name := r.PathValue("name")
	if err == nil && dry {
		var plan *network.Plan
		if plan, err = h.options.System.PlanNetwork(r.Context(), name, body.Config, options); err == nil {
			respond(w, plan)
			return
		}
	}
	if err == nil {
		var change *system.Change
		h.patient(w, func() { change, err = h.options.System.ApplyNetwork(r.Context(), name, body.Config, options) })
		if change != nil {
			w.Header().Set("Location", changePath(change.ID))
		}
	}
	h.done(w, r, err)
}

// onlyConfig refuses fields beside a network's configuration. The server judges the fields within it.
func onlyConfig(n *network.Network) error {
	for name := range jsonkeep.Unknown(n) {
		return fmt.Errorf("%w: field %.60s is not known", errBody, name)
	}
	if n.Config == nil {
		return fmt.Errorf("%w: field config: it is wanted", errBody)
	}
	return nil
}

// getSettings answers with the settings of a section.
func getSettings[C any](h *Handler, read func(*system.Manager, context.Context, string) (*system.Settings[C], error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		s, err := read(h.options.System, r.Context(), r.PathValue("name"))
		if err != nil {
			h.fail(w, r, err)
			return
		}
		w.Header().Set("ETag", `"`+s.ETag+`"`)
		respond(w, s)
	}
}

// configPut is the new configuration of a section.
type configPut[C any] struct {
	Config *C `json:"config"`
}

// putSettings changes the settings of a section, and answers when the change is final.
func putSettings[C any](h *Handler, set func(*system.Manager, context.Context, string, C, system.SetOptions) (*system.Change, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var body configPut[C]
		force, err := forced(r)
		if err == nil {
			err = decode(r, &body, fields{shown: []string{"state"}})
		}
		if err == nil && body.Config == nil {
			err = fmt.Errorf("%w: field config: it is wanted", errBody)
		}
		if err == nil {
			var change *system.Change
			options := system.SetOptions{IfMatch: r.Header.Get("If-Match"), Force: force}
			h.patient(w, func() { change, err = set(h.options.System, r.Context(), r.PathValue("name"), *body.Config, options) })
			if change != nil {
				w.Header().Set("Location", changePath(change.ID))
			}
		}
		h.done(w, r, err)
	}
}

// forced reads the parameter force.
func forced(r *http.Request) (bool, error) { return queryOf(r).flagOr("force", false) }

func (h *Handler) suspend(w http.ResponseWriter, r *http.Request) {
	force, err := forced(r)
	if err == nil {
		err = h.options.System.Suspend(r.Context(), r.PathValue("name"), system.PowerOptions{Force: force})
	}
	h.done(w, r, err)
}

// factoryReset resets a server to its state after installation. It registers again with the given token, or a fresh one.
func (h *Handler) factoryReset(w http.ResponseWriter, r *http.Request) {
	q := queryOf(r)
	force, err := q.flagOr("force", false)
	if err == nil && q.values.Get("tokenSeedName") != "" && q.values.Get("token") == "" {
		err = fmt.Errorf("%w: tokenSeedName needs token: it names one of the seeds of that token", errBody)
	}
	if err == nil {
		options := system.ResetOptions{Token: q.values.Get("token"), TokenSeed: q.values.Get("tokenSeedName"), Force: force}
		h.patient(w, func() { err = h.options.System.FactoryReset(r.Context(), r.PathValue("name"), options) })
	}
	h.done(w, r, err)
}

// resyncServer requests a poll of a server at once.
func (h *Handler) resyncServer(w http.ResponseWriter, r *http.Request) {
	name := r.PathValue("name")
	_, err := h.registry.Server(r.Context(), name)
	if err == nil {
		err = h.registry.Observer().RequestPoll(r.Context(), name)
	}
	h.done(w, r, err)
}

// bulkPost is a change of all members of a cluster.
type bulkPost struct {
	Action    string          `json:"action"`
	Arguments json.RawMessage `json:"arguments"`
}

// bulkUpdate changes all members of a cluster, one after another, and stops at the first failure. The actions are those of
// Operations Center for settings that the control plane manages, and edit_network with a network.Edit.
func (h *Handler) bulkUpdate(w http.ResponseWriter, r *http.Request) {
	options, _, err := applyOptions(r)
	var body bulkPost
	if err == nil {
		err = decode(r, &body)
	}
	var change func() (*system.Batch, error)
	if err == nil {
		change, err = h.bulkAction(r.Context(), r.PathValue("name"), body.Action, body.Arguments, options)
	}
	if err == nil {
		var batch *system.Batch
		h.patient(w, func() { batch, err = change() })
		if batch != nil {
			w.Header().Set("Location", batchPath(batch.ID))
		}
	}
	h.done(w, r, err)
}

func (h *Handler) bulkAction(ctx context.Context, cluster, action string, arguments json.RawMessage, options system.ApplyOptions) (func() (*system.Batch, error), error) {
	read := func(into any) error {
		if err := decodeStrict(arguments, into, "arguments"); err != nil {
			return fmt.Errorf("field arguments: %w", err)
		}
		return nil
	}
	set := system.SetOptions{Force: options.Force}
	switch action {
	case "add_network_interface_vlan_tags", "remove_network_interface_vlan_tags":
		var tags struct {
			Interface string `json:"interface_name"`
			VLANTags  []int  `json:"vlan_tags"`
		}
		if err := read(&tags); err != nil {
			return nil, err
		}
		if tags.Interface == "" || len(tags.VLANTags) == 0 {
			return nil, fmt.Errorf("%w: field arguments: interface_name and vlan_tags are wanted", errBody)
		}
		edit := network.Edit{Interface: tags.Interface, AddVLANTags: tags.VLANTags}
		if action == "remove_network_interface_vlan_tags" {
			edit.AddVLANTags, edit.RemoveVLANTags = nil, tags.VLANTags
		}
		return func() (*system.Batch, error) { return h.options.System.EditClusterNetwork(ctx, cluster, edit, options) }, nil
	case "edit_network":
		var edit network.Edit
		if err := read(&edit); err != nil {
			return nil, err
		}
		return func() (*system.Batch, error) { return h.options.System.EditClusterNetwork(ctx, cluster, edit, options) }, nil
	case "update_system_kernel":
		config, err := bulkConfig[system.KernelConfig](arguments)
		if err != nil {
			return nil, err
		}
		return func() (*system.Batch, error) { return h.options.System.SetClusterKernel(ctx, cluster, *config, set) }, nil
	case "update_system_logging":
		config, err := bulkConfig[system.LoggingConfig](arguments)
		if err != nil {
			return nil, err
		}
		return func() (*system.Batch, error) {
			return h.options.System.SetClusterLogging(ctx, cluster, *config, set)
		}, nil
	}
	return nil, fmt.Errorf("%w: field action: %.80q is not known here", errBody, action)
}

// bulkConfig reads the configuration in the arguments of an action.
func bulkConfig[C any](arguments json.RawMessage) (*C, error) {
	var body struct {
		Config *C `json:"config"`
	}
	err := decodeStrict(arguments, &body, "arguments")
	if err == nil && body.Config == nil {
		err = fmt.Errorf("%w: config is wanted", errBody)
	}
	if err != nil {
		return nil, fmt.Errorf("field arguments: %w", err)
	}
	return body.Config, nil
}

func (h *Handler) getConfigurationChanges(w http.ResponseWriter, r *http.Request) {
	q := queryOf(r)
	h.changes().list(w, r, q, nil, func(page opscenter.Page) ([]*system.Change, string, error) {
		found, err := h.options.System.Changes(r.Context(), q.values.Get("server"), page.Cursor, page.Limit)
		return found, behind(found, page.Limit, func(c *system.Change) string { return c.ID }), err
	})
}

func (h *Handler) getBatches(w http.ResponseWriter, r *http.Request) {
	h.batches().list(w, r, queryOf(r), nil, func(page opscenter.Page) ([]*system.Batch, string, error) {
		found, err := h.options.System.Batches(r.Context(), page.Cursor, page.Limit)
		return found, behind(found, page.Limit, func(b *system.Batch) string { return b.ID }), err
	})
}
