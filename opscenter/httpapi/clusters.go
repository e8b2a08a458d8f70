package httpapi

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/access"
	clusters "github.com/opscenter-go/sdk/opscenter/cluster"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
	"github.com/opscenter-go/sdk/opscenter/rolling"
	"github.com/opscenter-go/sdk/opscenter/rollout"
	"github.com/opscenter-go/sdk/opscenter/system"
)

// Former forms clusters; cluster.Manager does.
type Former interface {
	FormAs(ctx context.Context, name string, spec opscenter.ClusterSpec, servers ...string) error
	AddServers(ctx context.Context, name string, servers ...string) error
	RemoveServers(ctx context.Context, name string, options clusters.RemoveOptions, servers ...string) error
}

// clusterPut holds the fields of a cluster that an operator edits. A field that is left out, or null, keeps its value. So does an
// empty channel, and an empty connection URL.
type clusterPut struct {
	Description   *string        `json:"description"`
	Properties    configMap      `json:"properties"`
	ConnectionURL string         `json:"connection_url"`
	Channel       string         `json:"channel"`
	Config        *clusterConfig `json:"config"`
}

type clusterConfig struct {
	RollingRestart rollingRestart `json:"rolling_restart"`
}

type rollingRestart struct {
	PostRestoreDelay *duration `json:"post_restore_delay"`
	RestoreMode      *string   `json:"restore_mode"`
}

func (c *clusterPut) edit(spec *opscenter.ClusterSpec) {
	if c.Description != nil {
		spec.Description = *c.Description
	}
	if c.Properties != nil {
		spec.Properties = c.Properties
	}
	spec.ConnectionURL = cmp.Or(c.ConnectionURL, spec.ConnectionURL)
	spec.Channel = c.Channel
	if c.Config == nil {
		return
	}
	if delay := c.Config.RollingRestart.PostRestoreDelay; delay != nil {
		spec.PostRestoreDelay = time.Duration(*delay)
	}
	if mode := c.Config.RollingRestart.RestoreMode; mode != nil {
		spec.RestoreMode = *mode
	}
}

// clusterNotDone are fields of Operations Center that have no effect here.
var clusterNotDone = fields{notDone: []string{"services_config", "application_seed_config", "cluster_template", "cluster_template_variable_values", "certificate", "fingerprint"}}

// clusterOnlyShown are fields that Operations Center's client sends back as it has them.
var clusterOnlyShown = fields{shown: []string{"status", "update_status", "last_updated"}}

// renaming refuses each field beside the new name that is not empty, because a renaming changes the name alone.
func renaming[T any]() fields {
	shown := shownBy[T]().shown
	return fields{shown: []string{"status", "update_status", "last_updated", "last_seen"}, notDone: append(shown, "bmc_config", "server_type", "services_config", "application_seed_config", "cluster_template", "cluster_template_variable_values")}
}

// cluster is the document of a cluster, in Operations Center's shape.
type cluster struct {
	clusterPut
	Name         string                  `json:"name"`
	Certificate  string                  `json:"certificate"`
	Fingerprint  string                  `json:"fingerprint"`
	Status       opscenter.ClusterStatus `json:"status"`
	LastUpdated  time.Time               `json:"last_updated"`
	ServerNames  []string                `json:"server_names"`
	UpdateStatus clusterUpdateStatus     `json:"update_status"`
}

type clusterUpdateStatus struct {
	NeedsUpdate      []string         `json:"needs_update"`
	NeedsReboot      []string         `json:"needs_reboot"`
	InMaintenance    []string         `json:"in_maintenance"`
	InProgressStatus inProgressStatus `json:"in_progress_status"`
}

type inProgressStatus struct {
	InProgress        string    `json:"in_progress"`
	StatusDescription string    `json:"status_description"`
	EvacuatedBefore   []string  `json:"evacuated_before"`
	PendingReboot     []string  `json:"pending_reboot"`
	Error             string    `json:"error"`
	LastUpdated       time.Time `json:"last_updated"`
	// Rollout is the path of the rollout.
	Rollout string `json:"rollout,omitempty"`
}

func (h *Handler) showCluster(ctx context.Context, c *opscenter.Cluster) (*cluster, error) {
	delay := duration(c.PostRestoreDelay)
	out := &cluster{Name: c.Name, Certificate: c.Certificate, Fingerprint: c.Fingerprint, Status: c.Status, LastUpdated: c.LastUpdated, ServerNames: []string{},
		clusterPut: clusterPut{Description: &c.Description, Properties: c.Properties, ConnectionURL: c.ConnectionURL, Channel: c.Channel,
			Config: &clusterConfig{RollingRestart: rollingRestart{PostRestoreDelay: &delay, RestoreMode: &c.RestoreMode}}},
		UpdateStatus: clusterUpdateStatus{NeedsUpdate: []string{}, NeedsReboot: []string{}, InMaintenance: []string{}}}
	if out.Properties == nil {
		out.Properties = configMap{}
	}
	s := &out.UpdateStatus
	for info, err := range h.registry.Servers(ctx, opscenter.ServerFilter{Cluster: c.Name}) {
		if err != nil {
			return nil, err
		}
		out.ServerNames = append(out.ServerNames, info.Name)
		if info.NeedsUpdate() {
			s.NeedsUpdate = append(s.NeedsUpdate, info.Name)
		}
		if info.NeedsReboot() {
			s.NeedsReboot = append(s.NeedsReboot, info.Name)
		}
		if info.InMaintenance() {
			s.InMaintenance = append(s.InMaintenance, info.Name)
		}
	}
	s.InProgressStatus.EvacuatedBefore, s.InProgressStatus.PendingReboot = []string{}, []string{}
	if h.options.Rollouts == nil {
		return out, nil
	}
	r, u, err := h.options.Rollouts.UnitOf(ctx, c.Name, true)
	if err == nil && r != nil {
		s.InProgressStatus.show(r, u)
		if scope := scopeOf(ctx); scope != nil { // of a rollout that has other servers, too, only what concerns the cluster is shown
			var inside bool
			if inside, err = h.containsRollout(ctx, scope, r.ID); err == nil && !inside {
				s.InProgressStatus.Rollout, s.InProgressStatus.Error = "", ""
			}
		}
	}
	return out, err
}

// show fills in the rollout that is under way, in Operations Center's words.
func (s *inProgressStatus) show(r *rollout.Rollout, u *rollout.Unit) {
	switch r.State.Policy.Goal {
	case rolling.GoalStage:
		s.InProgress = "applying updates"
	case rolling.GoalUpdate:
		s.InProgress = "applying updates with reboot"
	default:
		s.InProgress = "restarting servers"
	}
	if r.State.Status == rolling.StatusPaused {
		s.InProgress, s.Error = "error", r.State.Reason
	}
	done := 0
	for i := range u.Members {
		m := &u.Members[i]
		if m.Finished || m.Left != "" {
			done++
		} else if r.State.Policy.Goal == rolling.GoalReboot && m.Reboot && (m.Step == nil || m.Step.Action != lifecycle.ActionReboot) {
			s.PendingReboot = append(s.PendingReboot, m.Server)
		}
		if m.EvacuatedBefore {
			s.EvacuatedBefore = append(s.EvacuatedBefore, m.Server)
		}
		if m.Step != nil {
			s.StatusDescription = fmt.Sprintf("%s of server %s", m.Step.Action, m.Server)
		}
	}
	if s.StatusDescription == "" && u.Waiting != "" {
		s.StatusDescription = "waits for " + u.Waiting
	}
	s.StatusDescription = fmt.Sprintf("[%d/%d] %s", done, len(u.Members), s.StatusDescription)
	s.LastUpdated, s.Rollout = r.LastUpdated, rolloutPath(r.ID)
}

// clusters have ETags that cover the cluster's identity and the fields that a PUT replaces.
func (h *Handler) clusters() resource[*opscenter.Cluster] {
	return resource[*opscenter.Cluster]{h: h, path: func(c *opscenter.Cluster) string { return clusterPath(c.Name) },
		show: func(ctx context.Context, c *opscenter.Cluster) (any, error) { return h.showCluster(ctx, c) },
		covers: func(c *opscenter.Cluster) any {
			return []any{c.ID, c.Name, c.Description, c.Properties, c.ConnectionURL, c.Channel, c.PostRestoreDelay, c.RestoreMode}
		}}
}

func clusterPath(name string) string { return "/1.0/provisioning/clusters/" + name }

func (h *Handler) getClusters(w http.ResponseWriter, r *http.Request) {
	query := queryOf(r)
	filter := opscenter.ClusterFilter{Scope: scopeOf(r.Context()), Expression: query.valueOf("filter")}
	h.clusters().list(w, r, query, nil, func(page opscenter.Page) ([]*opscenter.Cluster, string, error) {
		found, err := h.registry.ListClusters(r.Context(), filter, page)
		return found.Clusters, found.Next, err
	})
}

// clusterPost is a new cluster.
type clusterPost struct {
	clusterPut
	Name        string   `json:"name"`
	ServerNames []string `json:"server_names"`
	ServerType  string   `json:"server_type"`
}

// postClusters forms a cluster of servers. Without a Former, or without servers, it only records the cluster.
func (h *Handler) postClusters(w http.ResponseWriter, r *http.Request) {
	var body clusterPost
	err := decode(r, &body, clusterNotDone, clusterOnlyShown)
	var spec opscenter.ClusterSpec
	if err == nil {
		body.edit(&spec)
		err = h.sameType(r.Context(), body.ServerType, body.ServerNames)
	}
	switch {
	case err != nil:
	case h.options.Clusters != nil && len(body.ServerNames) > 0:
		h.patient(w, func() { err = h.options.Clusters.FormAs(r.Context(), body.Name, spec, body.ServerNames...) })
	default:
		_, err = h.registry.CreateCluster(r.Context(), body.Name, spec, body.ServerNames...)
	}
	if err != nil {
		h.fail(w, r, err)
		return
	}
	respondCreated(w, clusterPath(body.Name), nil)
}

// sameType refuses servers of another type than the wanted one. An empty type admits all.
func (h *Handler) sameType(ctx context.Context, wanted string, names []string) error {
	if wanted == "" || wanted == string(lifecycle.TypeUnknown) {
		return nil
	}
	if !slices.Contains(lifecycle.ServerTypes, lifecycle.ServerType(wanted)) {
		return fmt.Errorf("%w: field server_type: %.40q is not known here", errBody, wanted)
	}
	for _, name := range names {
		info, err := h.registry.Server(ctx, name)
		if err != nil {
			return err
		}
		if kind := info.State.Type; kind != lifecycle.ServerType(wanted) && kind != lifecycle.TypeUnknown {
			return fmt.Errorf("server %q is of type %s, not %s: %w", name, kind, wanted, clusters.ErrUnsuitable)
		}
	}
	return nil
}

// patient does work that may take longer than Options.WriteTimeout.
func (h *Handler) patient(w http.ResponseWriter, work func()) {
	control := http.NewResponseController(w)
	_ = control.SetWriteDeadline(time.Time{})
	work()
	_ = control.SetWriteDeadline(time.Now().Add(h.options.WriteTimeout))
}

// clusterEdit is an edit of a cluster. Fields that can't be edited may be sent back as they are.
type clusterEdit struct {
	clusterPut
	unchanged
}

func (h *Handler) putCluster(w http.ResponseWriter, r *http.Request) {
	var body clusterEdit
	err := decode(r, &body, shownBy[cluster](), clusterNotDone, fields{notDone: []string{"server_type"}})
	if err == nil {
		err = h.registry.EditCluster(r.Context(), r.PathValue("name"), func(c *opscenter.Cluster, spec *opscenter.ClusterSpec) error {
			body.edit(spec)
			return cmp.Or(body.check(unchanged{Name: c.Name, Certificate: c.Certificate, Fingerprint: c.Fingerprint}), h.clusters().matches(r, c))
		})
	}
	h.done(w, r, err)
}

// deleteCluster removes a cluster's record. With mode force it does so although the cluster has members, which stay as servers in
// no cluster.
func (h *Handler) deleteCluster(w http.ResponseWriter, r *http.Request) {
	force, err := false, error(nil)
	switch mode := queryOf(r).valueOf("mode"); mode {
	case "", "normal":
	case "force":
		force = true
	default:
		err = fmt.Errorf("%w: mode %.40q is not known here, normal and force are", errBody, mode)
	}
	if err == nil {
		err = h.registry.DeleteCluster(r.Context(), r.PathValue("name"), force)
	}
	h.done(w, r, err)
}

// serverNames names the servers that are added or removed.
type serverNames struct {
	ServerNames []string `json:"server_names"`
}

func (n *serverNames) check() error {
	if len(n.ServerNames) == 0 {
		return fmt.Errorf("%w: field server_names: at least one server is wanted", errBody)
	}
	return nil
}

// addServers makes servers members of a cluster. Without a Former it only records them.
func (h *Handler) addServers(w http.ResponseWriter, r *http.Request) {
	var body serverNames
	err := decode(r, &body, fields{notDone: []string{"skip_post_join_operations", "copy_services_config"}})
	if err == nil {
		err = body.check()
	}
	switch {
	case err != nil:
	case h.options.Clusters != nil:
		h.patient(w, func() { err = h.options.Clusters.AddServers(r.Context(), r.PathValue("name"), body.ServerNames...) })
	default:
		err = h.registry.AddClusterMembers(r.Context(), r.PathValue("name"), body.ServerNames...)
	}
	h.done(w, r, err)
}

// serverRemoval names the members that are removed.
type serverRemoval struct {
	serverNames
	Force bool `json:"force"`
}

// removeServers takes servers out of a cluster. Without a Former it only takes them out of its record. With force, as a parameter
// or in the body, it takes out servers that are lost for good.
func (h *Handler) removeServers(w http.ResponseWriter, r *http.Request) {
	var body serverRemoval
	force, err := forced(r)
	if err == nil {
		err = decode(r, &body)
	}
	if err == nil {
		err = body.check()
	}
	force = force || body.Force
	name := r.PathValue("name")
	switch {
	case err != nil:
	case h.options.Clusters != nil:
		h.patient(w, func() {
			err = h.options.Clusters.RemoveServers(r.Context(), name, clusters.RemoveOptions{Force: force}, body.ServerNames...)
		})
	default:
		err = h.registry.RemoveClusterMembers(r.Context(), name, opscenter.MemberRemoval{Force: force}, body.ServerNames...)
	}
	h.done(w, r, err)
}

// clusterUpdate says whether members are also rebooted.
type clusterUpdate struct {
	Reboot bool `json:"reboot"`
}

// updateCluster updates all members, and with reboot reboots them, one by one.
func (h *Handler) updateCluster(w http.ResponseWriter, r *http.Request) {
	var body clusterUpdate
	data, err := readBody(r)
	if err == nil && len(bytes.TrimSpace(data)) > 0 {
		err = decodeStrict(data, &body, "")
	}
	if err != nil {
		h.fail(w, r, err)
		return
	}
	goal := rolling.GoalStage
	if body.Reboot {
		goal = rolling.GoalUpdate
	}
	h.operate(w, r, rolling.Selector{Clusters: []string{r.PathValue("name")}}, rolling.Policy{Goal: goal})
}

func (h *Handler) rebootCluster(w http.ResponseWriter, r *http.Request) {
	h.operate(w, r, rolling.Selector{Clusters: []string{r.PathValue("name")}}, rolling.Policy{Goal: rolling.GoalReboot})
}

// cancelCluster cancels the rollout that a cluster is part of. By default it finishes the servers that have begun. Mode stop stops
// at once, and mode restore restores the evacuated servers.
func (h *Handler) cancelCluster(w http.ResponseWriter, r *http.Request) {
	found, _, err := h.rolloutOf(r.Context(), r.PathValue("name"))
	if err == nil { // it may have other clusters, too
		err = h.inScope(r, func(scope *access.Scope) (bool, error) { return h.containsRollout(r.Context(), scope, found.ID) })
	}
	if err == nil {
		err = h.options.Rollouts.Cancel(r.Context(), found.ID, cancelMode(queryOf(r)))
	}
	h.done(w, r, err)
}

func cancelMode(q *query) rolling.CancelMode {
	if mode := q.values.Get("mode"); mode != "" {
		return rolling.CancelMode(mode)
	}
	return rolling.CancelFinish
}

var errNoRollouts = errors.New("rollouts are not set up here")

// rolloutOf returns the rollout that a cluster is part of.
func (h *Handler) rolloutOf(ctx context.Context, name string) (*rollout.Rollout, *rollout.Unit, error) {
	if h.options.Rollouts == nil {
		return nil, nil, errNoRollouts
	}
	if _, err := h.registry.Cluster(ctx, name); err != nil {
		return nil, nil, err
	}
	r, u, err := h.options.Rollouts.UnitOf(ctx, name, true)
	if err == nil && r == nil {
		err = fmt.Errorf("cluster %q: nothing is under way: %w", name, rolling.ErrState)
	}
	return r, u, err
}

// operate starts a rollout. With dry-run=1 it shows the plan.
func (h *Handler) operate(w http.ResponseWriter, r *http.Request, selector rolling.Selector, policy rolling.Policy) {
	query := queryOf(r)
	dry, err := query.flagOr("dry-run", false)
	if err == nil {
		policy.Force, err = query.flagOr("force", false)
	}
	if err == nil && h.options.Rollouts == nil {
		err = errNoRollouts
	}
	if err == nil {
		if dry {
			h.showPlan(w, r, selector, policy)
			return
		}
		var started *rollout.Rollout
		if started, err = h.options.Rollouts.Start(r.Context(), selector, policy); err == nil {
			w.Header().Set("Location", rolloutPath(started.ID))
		}
	}
	h.done(w, r, err)
}

// actOn carries out one action on one server, as system/:evacuate does.
func (h *Handler) actOn(action lifecycle.Action) http.HandlerFunc {
	goal, _ := rolling.GoalOf(action)
	return func(w http.ResponseWriter, r *http.Request) {
		name := r.PathValue("name")
		if _, err := h.registry.Server(r.Context(), name); err != nil {
			h.fail(w, r, err)
			return
		}
		if action == lifecycle.ActionUpdate && r.ContentLength != 0 {
			applications, err := updateOf(r)
			if err == nil && len(applications) > 0 {
				h.updateApplications(w, r, name, applications)
				return
			}
			if err != nil {
				h.fail(w, r, err)
				return
			}
		}
		force, err := forced(r)
		dry, unclear := queryOf(r).flagOr("dry-run", false)
		if err == nil && unclear == nil && !dry && h.options.System != nil && (action == lifecycle.ActionReboot || action == lifecycle.ActionPowerOff) && (force || h.options.Rollouts == nil) {
			// At once, also while another operation is under way.
			do := h.options.System.Reboot
			if action == lifecycle.ActionPowerOff {
				do = h.options.System.PowerOff
			}
			h.done(w, r, do(r.Context(), name, system.PowerOptions{Force: force}))
			return
		}
		h.operate(w, r, rolling.Selector{Servers: []string{name}}, rolling.Policy{Goal: goal})
	}
}

// updateApplications makes a server update these applications alone.
func (h *Handler) updateApplications(w http.ResponseWriter, r *http.Request, server string, applications []string) {
	_, err := forced(r)
	if err == nil && queryOf(r).values.Has("dry-run") {
		err = fmt.Errorf("%w: parameter dry-run is not known where applications are named", errBody)
	}
	if err == nil && h.options.System == nil {
		err = errNoSystem
	}
	for i, application := range applications {
		if err != nil {
			break
		}
		if err = h.options.System.UpdateApplication(r.Context(), server, application); err != nil && i > 0 {
			noteCarriedOut(w)
			err = fmt.Errorf("%s was asked for, and then: %w: %w", strings.Join(applications[:i], ", "), system.ErrFailed, err)
		}
	}
	h.done(w, r, err)
}

// updatePost says which components of a server are to be updated.
type updatePost struct {
	OS           *updateTrigger  `json:"os"`
	Applications []updateTrigger `json:"applications"`
}

type updateTrigger struct {
	Name    string `json:"name"`
	Trigger bool   `json:"trigger_update"`
}

// updateOf reads the components of a server that are to be updated. It returns no applications if all components are, with the
// operating system.
func updateOf(r *http.Request) (applications []string, err error) {
	var body updatePost
	data, err := readBody(r)
	if err != nil || len(bytes.TrimSpace(data)) == 0 {
		return nil, err
	}
	if err := decodeStrict(data, &body, ""); err != nil {
		return nil, err
	}
	left := ""
	for _, c := range body.Applications {
		if c.Trigger {
			applications = append(applications, c.Name)
		} else {
			left = c.Name
		}
	}
	switch os := body.OS != nil && body.OS.Trigger; {
	case body.OS == nil && len(body.Applications) == 0, os && left == "":
		return nil, nil
	case os:
		return nil, fmt.Errorf("%w: a server updates its applications with its operating system: trigger_update is to be set for %.80q too, or for applications alone", errBody, left)
	case len(applications) == 0:
		return nil, fmt.Errorf("%w: nothing is to be updated: trigger_update is nowhere set", errBody)
	}
	return applications, nil
}
