package system

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/opscenter-go/sdk/internal/page"
	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/audit"
	"github.com/opscenter-go/sdk/opscenter/event"
	"github.com/opscenter-go/sdk/opscenter/network"
	"github.com/opscenter-go/sdk/storage"
)

// Batch is a change of the members of a cluster, one after another. It stops at the first failure: the members
// after that stay as they are.
type Batch struct {
	// ID is a UUID, version 7.
	ID      string `json:"uuid"`
	Cluster string `json:"cluster"`
	// Section is the changed part of the configuration, as in Change.
	Section string `json:"section"`
	// By is the principal that asked for the batch. Empty: the embedding program itself.
	By string `json:"by"`
	// Members are in the order in which they are changed.
	Members []BatchMember `json:"members"`
	// Failed is the reason why the batch stopped. Empty: it did not stop.
	Failed    string    `json:"failed,omitempty"`
	StartedAt time.Time `json:"started_at"`
	// EndedAt is zero while the batch is under way.
	EndedAt time.Time `json:"ended_at,omitzero"`

	// Edit is the change of each member. Nil: it has secrets, or differs by member, and is not stored. Then only
	// the process that began the batch can continue it.
	Edit *batchEdit `json:"edit,omitempty"`
	// Audit is the ID of the batch's entry in the audit log. Empty: no log is kept.
	Audit string `json:"audit,omitempty"`
}

// BatchMember is one member of the cluster in a Batch.
type BatchMember struct {
	Server   string `json:"server"`
	ServerID string `json:"server_id"`
	// Change is the ID of the member's Change. Empty: there is none so far.
	Change string `json:"change,omitempty"`
	// Status is that of the member's Change. StatusUnchanged: nothing was to change. Empty: the member is not begun.
	Status Status `json:"status,omitempty"`
}

// StatusUnchanged: the member of a batch already had the wanted configuration.
const StatusUnchanged Status = "unchanged"

// batchEdit is the stored form of a batch's change. It has no secrets.
type batchEdit struct {
	// Network is the edit of the network. Nil: the batch changes another section.
	Network *network.Edit
	// Config is the wanted configuration of another section.
	Config  json.RawMessage
	Rules   network.Rules
	Timeout time.Duration
	Risk    bool
	Force   bool
}

func (b *batchEdit) options() ApplyOptions {
	return ApplyOptions{Rules: b.Rules, Timeout: b.Timeout, AcceptRisk: b.Risk, Force: b.Force}
}

// memberChange changes one member of a cluster. A nil Change: the member already has the wanted configuration.
type memberChange func(ctx context.Context, server *BatchMember, batch string) (*Change, error)

// EditClusterNetwork edits the network configuration of all members of a cluster, one after another, each as
// EditNetwork does. It checks all members before it changes the first: if one can't be changed, none is.
//
// The batch stops at the first member that fails. Then the error is ErrStopped and that of the member, and
// the Batch names the member. If ctx ends before, the error is opscenter.ErrOutcomeUnknown, and Run continues the
// batch. If the edit has secrets, Run only ends the change of the current member.
func (m *Manager) EditClusterNetwork(ctx context.Context, cluster string, edit network.Edit, options ApplyOptions) (*Batch, error) {
	stored := &batchEdit{Network: &edit, Rules: options.Rules, Timeout: options.Timeout, Risk: options.AcceptRisk, Force: options.Force}
	if edit.HasSecrets() {
		stored = nil
	}
	check := func(ctx context.Context, info *opscenter.ServerInfo) error {
		_, err := m.checkMember(ctx, info, edit.Apply, options)
		return err
	}
	return m.batch(ctx, cluster, "network", stored, nil, check, options.Force, func(ctx context.Context, server *BatchMember, batch string) (*Change, error) {
		return m.apply(ctx, server.Server, edit.Apply, options, batch)
	})
}

// ApplyClusterNetwork gives members of a cluster new network configurations, as EditClusterNetwork does. The keys of
// configs are names of members. Members that are not named stay as they are. If ctx ends before, Run only ends
// the change of the current member. An address that two members would share is network.ErrInvalid.
func (m *Manager) ApplyClusterNetwork(ctx context.Context, cluster string, configs map[string]*network.Config, options ApplyOptions) (*Batch, error) {
	names := slices.Sorted(maps.Keys(configs))
	var taken claimed
	check := func(ctx context.Context, info *opscenter.ServerInfo) error {
		plan, err := m.checkMember(ctx, info, replace(configs[info.Name]), options)
		if err != nil {
			return err
		}
		if taken == nil {
			if taken, err = m.addresses(ctx, cluster); err != nil {
				return err
			}
		}
		return taken.claim(info.Name, plan.Current, plan.Config)
	}
	return m.batch(ctx, cluster, "network", nil, names, check, options.Force, func(ctx context.Context, server *BatchMember, batch string) (*Change, error) {
		return m.apply(ctx, server.Server, replace(configs[server.Server]), options, batch)
	})
}

// claimed maps the addresses that members of a cluster have, or will have, to the names of the members.
type claimed map[netip.Addr]string

// claim adds the addresses that a member gets. An address of another member is an error, even if that member
// gives it up: the members are changed one after another, so both could have it for a time.
func (t claimed) claim(name string, current, wanted *network.Config) error {
	before := current.Addresses()
	for _, a := range wanted.Addresses() {
		if slices.Contains(before, a) || a.IsLinkLocalUnicast() || a.IsUnspecified() { // each member may have such an address
			continue
		}
		if other := t[a]; other != "" && other != name {
			return fmt.Errorf("server %q: address %s is used by server %q: %w", name, a, other, network.ErrInvalid)
		}
		t[a] = name
	}
	return nil
}

// addresses returns the addresses that the members have now. Members that can't be read are left out.
func (m *Manager) addresses(ctx context.Context, cluster string) (claimed, error) {
	members, err := m.members(ctx, cluster, nil)
	if err != nil {
		return nil, err
	}
	out := claimed{}
	for _, info := range members {
		current, err := m.readNetwork(ctx, info)
		if err != nil {
			continue
		}
		for _, a := range current.config.Addresses() {
			out[a] = info.Name
		}
	}
	return out, nil
}

// checkMember returns the plan for one member, or an error if the member can't be changed.
func (m *Manager) checkMember(ctx context.Context, info *opscenter.ServerInfo, edit editFunc, options ApplyOptions) (*network.Plan, error) {
	if err := m.checkApply(&options); err != nil {
		return nil, err
	}
	plan, current, err := m.prepare(ctx, info, edit, options)
	switch {
	case err != nil:
		return nil, err
	case plan.Err() != nil:
		return nil, fmt.Errorf("server %q: %w", info.Name, plan.Err())
	case current.probe.pending() && !options.Force:
		return nil, fmt.Errorf("server %q: another change of its network is being applied: %w", info.Name, opscenter.ErrBusy)
	}
	if len(plan.Changes) > 0 {
		_, err = m.canUndo(ctx, info, current, options)
	}
	return plan, err
}

// batch changes the members of a cluster that are named, or all if names is nil.
func (m *Manager) batch(ctx context.Context, cluster, section string, edit *batchEdit, names []string, check func(context.Context, *opscenter.ServerInfo) error, force bool, change memberChange) (out *Batch, err error) {
	err = m.options.Audit.Do(ctx, audit.Entry{Action: section + ".apply", Cluster: cluster}, func(ctx context.Context) error {
		b := &Batch{ID: uuid.Must(uuid.NewV7()).String(), Cluster: cluster, Section: section, By: opscenter.Principal(ctx), Edit: edit, Audit: audit.ID(ctx)}
		members, err := m.members(ctx, cluster, names)
		if err != nil {
			return err
		}
		for _, info := range members {
			if err := check(ctx, info); err != nil {
				return err
			}
			b.Members = append(b.Members, BatchMember{Server: info.Name, ServerID: info.ID})
		}
		m.acquire(b.ID)
		defer m.relinquish(b.ID)
		if err := m.claimCluster(ctx, b, force); err != nil {
			return err
		}
		out = b
		return m.changeMembers(ctx, b, change)
	})
	return out, err
}

// members returns the members of a cluster that are named, or all if names is nil.
func (m *Manager) members(ctx context.Context, cluster string, names []string) (out []*opscenter.ServerInfo, err error) {
	err = m.registry.Read(ctx, func(s *opscenter.Snapshot) error {
		out = nil
		if _, err := s.Cluster(cluster); err != nil {
			return err
		}
		for info, err := range s.Servers(opscenter.ServerFilter{Cluster: cluster}) {
			if err != nil {
				return err
			}
			if names == nil || slices.Contains(names, info.Name) {
				out = append(out, info)
			}
		}
		for _, name := range names {
			if !slices.ContainsFunc(out, func(info *opscenter.ServerInfo) bool { return info.Name == name }) {
				return fmt.Errorf("server %q is not a member of cluster %q: %w", name, cluster, opscenter.ErrNotFound)
			}
		}
		if len(out) == 0 {
			return fmt.Errorf("cluster %q has no members: %w", cluster, opscenter.ErrNotApplicable)
		}
		return nil
	})
	return out, err
}

// claimCluster stores a batch, and reserves its cluster.
func (m *Manager) claimCluster(ctx context.Context, b *Batch, force bool) error {
	return m.registry.Write(ctx, func(tx *opscenter.Tx) error {
		b.StartedAt = tx.Now()
		err := tx.Claim(opscenter.Claim{Unit: b.Cluster, Cluster: true, Owner: b.ID, What: "change of the " + b.Section + " of all members", Since: b.StartedAt})
		if err != nil && !(force && errors.Is(err, opscenter.ErrBusy)) {
			return fmt.Errorf("cluster %q: %w", b.Cluster, err)
		}
		for _, member := range b.Members {
			info, err := tx.Snapshot().ServerByID(member.ServerID)
			if err != nil {
				return err
			}
			if info.State.Operation != nil && !force {
				return fmt.Errorf("server %q: %s is under way: %w", info.Name, info.State.Operation.Action, opscenter.ErrNotReady)
			}
		}
		return m.putBatch(tx, b, "begun, by "+b.By)
	})
}

// putBatch stores a batch with an event.
func (m *Manager) putBatch(tx *opscenter.Tx, b *Batch, reason string) error {
	if err := batches.Put(tx, b.clone()); err != nil {
		return err
	}
	return tx.Record(event.Event{At: tx.Now(), Kind: event.ConfigurationChange, Cluster: b.Cluster, Reason: fmt.Sprintf("%s of all members: %s", b.Section, strings.TrimSuffix(reason, ", by "))})
}

func (b *Batch) clone() *Batch {
	out := *b
	out.Members = slices.Clone(b.Members)
	return &out
}

// changeMembers changes the members that are not changed so far.
func (m *Manager) changeMembers(ctx context.Context, b *Batch, change memberChange) error {
	for i := range b.Members {
		server := &b.Members[i]
		switch {
		case server.Status == StatusDone || server.Status == StatusUnchanged:
			continue
		case server.Status.Final():
			return m.endBatch(ctx, b, fmt.Errorf("server %q: its change is %s", server.Server, server.Status))
		}
		c, err := change(ctx, server, b.ID)
		if errors.Is(err, opscenter.ErrOutcomeUnknown) || ctx.Err() != nil { // Run continues it
			return fmt.Errorf("%s of cluster %q goes on: %w: %w", b.Section, b.Cluster, opscenter.ErrOutcomeUnknown, errors.Join(err, ctx.Err()))
		}
		server.Status = StatusUnchanged
		if c != nil {
			server.Change, server.Status = c.ID, c.Status
		} else if err != nil {
			server.Status = StatusNotSent
		}
		if err != nil {
			err = errors.Join(err, m.endBatch(ctx, b, err))
			return fmt.Errorf("%s of all members of cluster %q %w: %w", b.Section, b.Cluster, ErrStopped, err)
		}
		if err := m.registry.Write(ctx, func(tx *opscenter.Tx) error { return m.putBatch(tx, b, server.Server+" is "+string(server.Status)) }); err != nil {
			return err
		}
	}
	return m.endBatch(ctx, b, nil)
}

// endBatch stores that a batch has ended.
func (m *Manager) endBatch(ctx context.Context, b *Batch, failure error) error {
	reason := "done"
	if failure != nil {
		b.Failed = failure.Error()
		var left []string
		for _, member := range b.Members {
			if member.Status == "" {
				left = append(left, member.Server)
			}
		}
		reason = "stopped: " + b.Failed
		if len(left) > 0 {
			reason += fmt.Sprintf("; %s: %s", ErrUntouched, strings.Join(left, ", "))
		}
	}
	ctx = context.WithoutCancel(ctx)
	err := m.registry.Write(ctx, func(tx *opscenter.Tx) error {
		b.EndedAt = tx.Now()
		if err := m.putBatch(tx, b, reason); err != nil {
			return err
		}
		if err := m.options.Audit.EndIn(tx, b.Audit, failure); err != nil {
			return err
		}
		return tx.Release(b.ID, b.Cluster, true)
	})
	if err != nil {
		b.EndedAt = time.Time{}
		return err
	}
	m.prune(ctx)
	return nil
}

// Batch returns the batch with an ID. Errors: opscenter.ErrNotFound.
func (m *Manager) Batch(ctx context.Context, id string) (out *Batch, err error) {
	err = m.registry.Read(ctx, func(s *opscenter.Snapshot) error {
		known, err := batches.Find(s, storage.StringKey(id))
		if err == nil && known == nil {
			err = fmt.Errorf("batch %.40q: %w", id, opscenter.ErrNotFound)
		}
		if err == nil {
			out = known.clone()
		}
		return err
	})
	return out, err
}

// Batches returns the batches, the newest first. To read the next page, set before to the ID of the last Batch
// of the page; empty: from the newest. limit bounds the page: 0 is 100, and at most 1000 are returned.
func (m *Manager) Batches(ctx context.Context, before string, limit int) (out []*Batch, err error) {
	err = m.registry.Read(ctx, func(s *opscenter.Snapshot) error {
		out = nil
		for b, err := range batches.Scan(s, storage.Range{Reverse: true}) {
			if err != nil {
				return err
			}
			if before != "" && b.ID >= before {
				continue
			}
			if out = append(out, b.clone()); len(out) == page.Size(limit) {
				break
			}
		}
		return nil
	})
	return out, err
}

// resumeBatch continues a batch whose process ended, once the change of its current member has ended.
func (m *Manager) resumeBatch(ctx context.Context, b *Batch) error {
	for i := range b.Members { // takes in how the change under way ended
		member := &b.Members[i]
		if member.Status != "" {
			continue
		}
		c, err := m.lastChangeOf(ctx, b.ID, member.ServerID)
		if err != nil {
			return err
		}
		if c == nil {
			break
		}
		if !c.Status.Final() {
			return nil // Run continues the change, and calls resumeBatch again
		}
		member.Change, member.Status = c.ID, c.Status
		if c.Status == StatusDone {
			continue
		}
		return m.endBatch(ctx, b, c.Err())
	}
	left := slices.ContainsFunc(b.Members, func(member BatchMember) bool { return member.Status == "" })
	if left && b.Edit == nil {
		return m.endBatch(ctx, b, fmt.Errorf("the control plane stopped meanwhile, and the batch's change was not stored: %w", ErrUntouched))
	}
	ctx = opscenter.WithPrincipal(ctx, b.By)
	return m.changeMembers(ctx, b, func(ctx context.Context, server *BatchMember, batch string) (*Change, error) {
		if edit := b.Edit.Network; edit != nil {
			return m.apply(ctx, server.Server, edit.Apply, b.Edit.options(), batch)
		}
		return m.setSection(ctx, server.Server, b.Section, func(json.RawMessage) (json.RawMessage, error) { return b.Edit.Config, nil }, SetOptions{Force: b.Edit.Force}, batch)
	})
}

// lastChangeOf returns the last change of a server within a batch. Nil: there is none.
func (m *Manager) lastChangeOf(ctx context.Context, batch, serverID string) (out *Change, err error) {
	err = m.registry.Read(ctx, func(s *opscenter.Snapshot) error {
		out = nil
		for row, err := range changesByServer.Scan(s, storage.Range{Prefix: storage.StringKey(serverID), Reverse: true}) {
			if err != nil {
				return err
			}
			if row.Change.Batch == batch {
				out = row.change()
				break
			}
		}
		return nil
	})
	return out, err
}
