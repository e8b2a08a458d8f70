package system

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/audit"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
	"github.com/opscenter-go/sdk/opscenter/network"
)

// Network is a server's network at the time of the call.
type Network struct {
	// Config and State are as the server has them. Secrets are hidden, unless the registry keeps
	// secrets. A configuration with hidden secrets can be applied: the server keeps those secrets.
	Config *network.Config `json:"config"`
	State  *network.State  `json:"state"`
	// ETag identifies the configuration, see ApplyOptions.IfMatch. Another process returns another ETag.
	ETag string `json:"-"`
	// Pending: the server applies a change. A change that waits for its confirmation does not count: servers don't
	// report it.
	Pending bool `json:"-"`
}

// Network reads a server's network. Errors: opscenter.ErrNotFound, opscenter.ErrNotApplicable if the server does
// not run IncusOS, opscenter.ErrUnreachable, opscenter.ErrAnswer for an invalid answer, and opscenter.ErrRefused.
func (m *Manager) Network(ctx context.Context, name string) (*Network, error) {
	info, err := m.registry.Server(ctx, name)
	if err != nil {
		return nil, err
	}
	current, err := m.readNetwork(ctx, info)
	if err != nil {
		return nil, err
	}
	out := &Network{Config: current.config, State: current.probe.Network.State, Pending: current.probe.pending()}
	if out.ETag, err = m.tag(current.raw); err != nil {
		return nil, err
	}
	if !m.registry.Options().KeepSecrets {
		out.Config, err = out.Config.Hide()
	}
	return out, err
}

// reading is a server's network, with its secrets.
type reading struct {
	probe  *Probe
	config *network.Config
	raw    json.RawMessage
}

// readNetwork reads a server's network, and verifies the machine ID.
func (m *Manager) readNetwork(ctx context.Context, info *opscenter.ServerInfo) (*reading, error) {
	if err := info.OnIncusOS(); err != nil {
		return nil, err
	}
	target := info.Target()
	ctx, cancel := context.WithTimeout(ctx, m.options.LookTimeout)
	defer cancel()
	probe, err := m.os.Look(ctx, target)
	if err != nil {
		return nil, fmt.Errorf("server %q: %w", info.Name, err)
	}
	if probe.anotherThan(info.MachineID) {
		return nil, fmt.Errorf("server %q: another machine answers at %s: %w", info.Name, target.ConnectionURL, opscenter.ErrUnreachable)
	}
	if probe.Network == nil || probe.Network.Config == nil {
		return nil, fmt.Errorf("server %q reports no network configuration: %w", info.Name, opscenter.ErrNotApplicable)
	}
	out := &reading{probe: probe, config: probe.Network.Config}
	if out.raw, err = out.config.Encode(); err != nil {
		return nil, err
	}
	return out, nil
}

// ApplyOptions are the options of a network change. The zero value is the safest.
type ApplyOptions struct {
	// IfMatch is the ETag of the configuration that is to be changed. opscenter.ErrPrecondition: the server has
	// another configuration. Empty: any configuration is changed. Several ETags are separated by commas.
	IfMatch string
	// Rules of the validation, see network.Rules.
	Rules network.Rules
	// Timeout is the time after which the server undoes an unconfirmed change. Default Options.ConfirmationTimeout.
	// It must be at least Options.MinTimeout, and at most MaxConfirmationTimeout.
	Timeout time.Duration
	// AcceptRisk allows the change of a server whose release can't undo it. If the change is wrong, the operator needs
	// physical access to the server.
	AcceptRisk bool
	// Force allows the change although the server is not ready, or another operation is under
	// way on the server or its cluster.
	Force bool
}

// checkApply fills in and checks the timeout.
func (m *Manager) checkApply(o *ApplyOptions) error {
	if o.Timeout == 0 {
		o.Timeout = m.options.ConfirmationTimeout
	}
	if o.Timeout < m.options.MinTimeout || o.Timeout > MaxConfirmationTimeout {
		return fmt.Errorf("the confirmation timeout is %s, %s to %s are allowed: %w", o.Timeout, m.options.MinTimeout, MaxConfirmationTimeout, opscenter.ErrInvalidOptions)
	}
	return nil
}

// editFunc returns the wanted configuration for the current one.
type editFunc func(current *network.Config) (*network.Config, error)

// replace returns an editFunc that ignores the current configuration.
func replace(config *network.Config) editFunc {
	return func(*network.Config) (*network.Config, error) {
		if config == nil {
			return nil, fmt.Errorf("%w: the configuration is missing", network.ErrInvalid)
		}
		return config, nil
	}
}

// PlanNetwork returns the plan of ApplyNetwork: the changes, and the problems that prevent them. It changes nothing.
// Errors: those of Network, opscenter.ErrPrecondition, and opscenter.ErrInvalidOptions.
func (m *Manager) PlanNetwork(ctx context.Context, name string, config *network.Config, options ApplyOptions) (*network.Plan, error) {
	return m.plan(ctx, name, replace(config), options)
}

// PlanNetworkEdit is PlanNetwork for EditNetwork.
func (m *Manager) PlanNetworkEdit(ctx context.Context, name string, edit network.Edit, options ApplyOptions) (*network.Plan, error) {
	return m.plan(ctx, name, edit.Apply, options)
}

func (m *Manager) plan(ctx context.Context, name string, edit editFunc, options ApplyOptions) (*network.Plan, error) {
	if err := m.checkApply(&options); err != nil {
		return nil, err
	}
	info, err := m.registry.Server(ctx, name)
	if err != nil {
		return nil, err
	}
	plan, _, err := m.prepare(ctx, info, edit, options)
	return plan, err
}

// prepare reads a server's network, and plans the change.
func (m *Manager) prepare(ctx context.Context, info *opscenter.ServerInfo, edit editFunc, options ApplyOptions) (*network.Plan, *reading, error) {
	current, err := m.readNetwork(ctx, info)
	if err != nil {
		return nil, nil, err
	}
	if err := m.matches(current.raw, options.IfMatch); err != nil {
		return nil, nil, fmt.Errorf("network of server %q: %w", info.Name, err)
	}
	wanted, err := edit(current.config)
	if err != nil {
		return nil, nil, fmt.Errorf("network of server %q: %w", info.Name, err)
	}
	plan, err := network.Make(current.config, wanted, options.Rules)
	return plan, current, err
}

// ApplyNetwork gives a server a new network configuration, and returns when the change is final. Either the server
// was reached with the new configuration, and the change is confirmed. Or the change failed, and the error
// says how: ErrRolledBack, opscenter.ErrRefused or ErrLost. If the server already has the configuration, the Change and
// the error are nil.
//
// If ctx ends before, the error is opscenter.ErrOutcomeUnknown, and Run continues the change. WatchChanges yields its end.
//
// Errors before the server is asked: those of PlanNetwork; network.ErrInvalid; ErrNoRollBack; opscenter.ErrNotReady and
// opscenter.ErrBusy while another operation is under way, here or on the server, unless forced.
func (m *Manager) ApplyNetwork(ctx context.Context, name string, config *network.Config, options ApplyOptions) (*Change, error) {
	return m.apply(ctx, name, replace(config), options, "")
}

// EditNetwork edits the network configuration that the server has, and otherwise does as ApplyNetwork.
func (m *Manager) EditNetwork(ctx context.Context, name string, edit network.Edit, options ApplyOptions) (*Change, error) {
	return m.apply(ctx, name, edit.Apply, options, "")
}

// apply changes the network within an audit entry. batch is the ID of the batch that holds the claim; empty: none.
func (m *Manager) apply(ctx context.Context, name string, edit editFunc, options ApplyOptions, batch string) (out *Change, err error) {
	err = m.options.Audit.Do(ctx, entry("network", name, batch), func(ctx context.Context) (err error) {
		out, err = m.transact(ctx, name, edit, options, batch)
		return err
	})
	return out, err
}

// entry returns the audit entry of a change. The entry of a batch names no server.
func entry(section, name, batch string) audit.Entry {
	if batch != "" {
		name = ""
	}
	return audit.Entry{Action: section + ".apply", Server: name}
}

// transact carries out a network change from the plan to its end.
func (m *Manager) transact(ctx context.Context, name string, edit editFunc, options ApplyOptions, batch string) (*Change, error) {
	if err := m.checkApply(&options); err != nil {
		return nil, err
	}
	info, err := m.registry.Server(ctx, name)
	if err != nil {
		return nil, err
	}
	plan, current, err := m.prepare(ctx, info, edit, options)
	if err == nil {
		err = plan.Err()
	}
	if err != nil {
		return nil, err
	}
	if len(plan.Changes) == 0 {
		return nil, m.options.Audit.Note(ctx, "nothing is to change")
	}
	if current.probe.pending() && !options.Force {
		return nil, fmt.Errorf("server %q: another change of its network is being applied: %w", name, opscenter.ErrBusy)
	}
	can, err := m.canUndo(ctx, info, current, options)
	if err != nil {
		return nil, err
	}
	c, err := m.begin(ctx, info, plan, current, options, batch)
	if err != nil {
		return nil, err
	}
	defer m.relinquish(c.ID)
	target, body, err := m.recheck(ctx, c, plan, options, can)
	if err != nil {
		return c, err
	}
	// The request goes on when the caller's ctx ends: a server whose request is cancelled stops in the middle.
	// The server is probed while it applies the change, because its answer may be lost.
	asking, cancel := context.WithCancel(context.WithoutCancel(ctx))
	w := &pursuit{answer: make(chan error, 1), secrets: plan.Config.Secrets()}
	go func() { w.answer <- m.os.WriteSystem(asking, target, c.Section, body) }()
	err = m.follow(ctx, c, w)
	switch {
	case w.answer == nil:
		cancel()
	case c.Status == StatusDone:
		m.finishLate(c.ID, cancel, w.answer)
	default:
		cancel()
		<-w.answer
	}
	return c, err
}

// canUndo reports whether the server undoes a change that is not confirmed. ErrNoRollBack: it
// does not, and the caller does not accept that risk.
func (m *Manager) canUndo(ctx context.Context, info *opscenter.ServerInfo, current *reading, options ApplyOptions) (bool, error) {
	if current.probe.pending() || errors.Is(m.refuseWhilePending(ctx, info.Name), opscenter.ErrBusy) {
		return true, nil // it undoes the pending change; the question could confirm that change
	}
	can, err := m.os.CanConfirmNetwork(ctx, info.Target())
	switch {
	case errors.Is(err, opscenter.ErrOutcomeUnknown): // the question changes nothing
		return false, fmt.Errorf("server %q: %w: %v", info.Name, opscenter.ErrUnreachable, err)
	case err != nil:
		return false, fmt.Errorf("server %q: %w", info.Name, err)
	case !can && !options.AcceptRisk:
		return false, fmt.Errorf("server %q: %w", info.Name, ErrNoRollBack)
	}
	return can, nil
}

// begin stores the intent, and reserves the server or its cluster.
func (m *Manager) begin(ctx context.Context, info *opscenter.ServerInfo, plan *network.Plan, current *reading, options ApplyOptions, batch string) (*Change, error) {
	before, err := digestOf(current.raw)
	if err != nil {
		return nil, err
	}
	c := &Change{ID: uuid.Must(uuid.NewV7()).String(), Server: info.Name, ServerID: info.ID, Cluster: info.Cluster, Batch: batch, Section: "network", By: opscenter.Principal(ctx),
		Status: StatusSending, Differences: plan.Changes, Moves: plan.Moves, OldURL: info.ConnectionURL, Timeout: options.Timeout}
	c.Reason = summary(plan.Changes)
	c.hidden = expectations{MachineID: current.probe.MachineID, MemberName: info.State.MemberName, Member: current.probe.Member, Before: before, Owner: c.ID, Audit: audit.ID(ctx), Fingerprint: info.Fingerprint}
	hidden, err := plan.Config.Hide()
	if err != nil {
		return nil, err
	}
	if c.hidden.Wanted, err = hidden.Encode(); err != nil {
		return nil, err
	}
	addresses, dynamic := plan.Config.ManagementAddresses()
	c.hidden.Dynamic = dynamic
	former, _ := plan.Current.ManagementAddresses()
	for _, a := range append(former, managedAt(current.probe.Network)...) {
		c.hidden.Former = append(c.hidden.Former, a.String())
	}
	for _, a := range addresses[:min(len(addresses), maxPlaces)] {
		c.hidden.Expected = append(c.hidden.Expected, a.String())
	}
	if batch != "" {
		c.hidden.Owner, c.hidden.Audit = batch, ""
	}
	return c, m.reserve(ctx, c, options.Force, m.maxDuration(options.Timeout))
}

// maxDuration bounds a network change as a whole, with a reserve of 5 minutes.
func (m *Manager) maxDuration(timeout time.Duration) time.Duration {
	return 2*timeout + 2*m.options.Grace + 5*time.Minute
}

// reserve stores a new change, and begins its operation.
func (m *Manager) reserve(ctx context.Context, c *Change, force bool, timeout time.Duration) error {
	m.acquire(c.ID)
	m.setActing(c.ID, true)
	err := m.registry.Write(ctx, func(tx *opscenter.Tx) error {
		_, info, err := tx.Begin(opscenter.Intent{ServerID: c.ServerID, ID: c.ID, Owner: c.hidden.Owner, Action: lifecycle.ActionReconfigure, Force: force, Timeout: timeout, Note: c.Section})
		if err != nil {
			return err
		}
		c.StartedAt, c.Cluster = tx.Now(), info.Cluster
		c.hidden.Claimed = false
		if c.Batch == "" {
			claim := opscenter.Claim{Unit: info.ID, Owner: c.ID, What: "change of the " + c.Section, Since: c.StartedAt}
			if info.Cluster != "" {
				claim.Unit, claim.Cluster = info.Cluster, true
			}
			switch err := tx.Claim(claim); {
			case err == nil:
				c.hidden.Claimed = true
			case !force || !errors.Is(err, opscenter.ErrBusy):
				return err
			}
		}
		return m.put(tx, c)
	})
	if err != nil {
		m.relinquish(c.ID)
		m.setActing(c.ID, false)
	}
	return err
}

// summary returns the changes of a plan in one line.
func summary(list []network.Difference) string {
	if len(list) == 0 {
		return ""
	}
	text := list[0].String()
	if len(text) > 200 {
		text = strings.ToValidUTF8(text[:200], "") + "…"
	}
	if more := len(list) - 1; more > 0 {
		text += fmt.Sprintf(", and %d more", more)
	}
	return text
}

// recheck reads the server again, and stores that it will be asked. It returns the request. An error ends the
// change, and is stored with it, except for an error of the store.
func (m *Manager) recheck(ctx context.Context, c *Change, plan *network.Plan, options ApplyOptions, can bool) (target opscenter.Target, body []byte, err error) {
	failed := func(status Status, reason string) (opscenter.Target, []byte, error) {
		if err := m.end(context.WithoutCancel(ctx), c, status, "", reason); err != nil {
			return target, nil, err
		}
		return target, nil, c.Err()
	}
	info, err := m.registry.Server(ctx, c.Server)
	var again *reading
	if err == nil {
		again, err = m.readNetwork(ctx, info)
	}
	if err != nil {
		return failed(StatusNotSent, err.Error())
	}
	switch unchanged, err := c.hidden.Before.is(again.raw); {
	case err != nil:
		return failed(StatusNotSent, err.Error())
	case !unchanged:
		return failed(StatusNotSent, conflict)
	case again.probe.pending() && !options.Force:
		return failed(StatusRefused, "another change of its network is being applied")
	}
	target = info.Target()
	changed := *c
	switch {
	case !can:
		changed.Timeout = 0
	default:
		plan.Config.ConfirmationTimeout = c.Timeout.String()
	}
	config, err := plan.Config.Encode()
	if err != nil {
		return failed(StatusNotSent, err.Error())
	}
	last, err := m.registry.ListEvents(ctx, opscenter.EventFilter{Newest: true, Limit: 1})
	if err != nil {
		return failed(StatusNotSent, err.Error())
	}
	if len(last) > 0 {
		changed.hidden.Events = last[0].Sequence
	}
	err = m.registry.Write(ctx, func(tx *opscenter.Tx) error {
		changed.SentAt = tx.Now()
		changed.deadlines(&m.options)
		return m.put(tx, &changed)
	})
	if err != nil {
		return failed(StatusNotSent, err.Error())
	}
	*c = changed
	return target, append(append([]byte(`{"config":`), config...), '}'), nil
}

// deadlines sets the times of a change that was sent at SentAt. The request may have reached the server later,
// so the server may undo the change later.
func (c *Change) deadlines(o *Options) {
	h := &c.hidden
	h.GiveUpAt = c.SentAt.Add(o.ConfirmationTimeout + o.Grace)
	h.ProvenAt = c.SentAt.Add(o.ApplyTime)
	if t := c.Timeout; t > 0 {
		h.ConfirmBy = c.SentAt.Add(t * 9 / 10)
		h.ProvenAt = c.SentAt.Add(min(o.ApplyTime, t*3/4))
		h.RollBackAt = c.SentAt.Add(t + min(maxDial, t/10))
		h.GiveUpAt = h.RollBackAt.Add(o.Grace)
	}
}

// maxDial bounds the time until a request reaches a server.
const maxDial = 15 * time.Second
