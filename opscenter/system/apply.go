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

// Network is a server's network as it is now.
type Network struct {
	// Config and State are as the server has them; secrets are hidden, unless the registry keeps
	// secrets. A configuration with hidden secrets can be applied: they stay as they are.
	Config *network.Config `json:"config"`
	State  *network.State  `json:"state"`
	// ETag is of the configuration. Those of another process differ.
	ETag string `json:"-"`
	// Pending: a change is being made. Whether one waits for its confirmation servers don't tell.
	Pending bool `json:"-"`
}

// Network reads a server's network. Errors: opscenter.ErrNotFound, opscenter.ErrNotApplicable if it is
// not on IncusOS, opscenter.ErrUnreachable, opscenter.ErrAnswer for one that can't be understood, and
// what the server says.
func (m *Manager) Network(ctx context.Context, name string) (*Network, error) {
	info, err := m.registry.Server(ctx, name)
	if err != nil {
		return nil, err
	}
	current, err := m.readNetwork(ctx, info)
	if err != nil {
		return nil, err
	}
	out := &Network{Config: current.config, State: current.sight.Network.State, Pending: current.sight.pending()}
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
	sight  *Sight
	config *network.Config
	raw    json.RawMessage
}

// readNetwork reads a server's network, and makes sure that it is that server.
func (m *Manager) readNetwork(ctx context.Context, info *opscenter.ServerInfo) (*reading, error) {
	if err := info.OnIncusOS(); err != nil {
		return nil, err
	}
	target := info.Target()
	ctx, cancel := context.WithTimeout(ctx, m.options.LookTimeout)
	defer cancel()
	sight, err := m.os.Look(ctx, target)
	if err != nil {
		return nil, fmt.Errorf("server %q: %w", info.Name, err)
	}
	if sight.anotherThan(info.MachineID) {
		return nil, fmt.Errorf("server %q: at %s is another machine: %w", info.Name, target.ConnectionURL, opscenter.ErrUnreachable)
	}
	if sight.Network == nil || sight.Network.Config == nil {
		return nil, fmt.Errorf("server %q tells no network configuration: %w", info.Name, opscenter.ErrNotApplicable)
	}
	out := &reading{sight: sight, config: sight.Network.Config}
	if out.raw, err = out.config.Encode(); err != nil {
		return nil, err
	}
	return out, nil
}

// ApplyOptions of a change. The zero value is the careful way.
type ApplyOptions struct {
	// IfMatch is an ETag: another configuration than that one is not changed, but
	// opscenter.ErrPrecondition. Empty: whatever the server has.
	IfMatch string
	// Rules of the validation.
	Rules network.Rules
	// Timeout after which the server undoes a change of its network that is not confirmed.
	// Default Options.ConfirmationTimeout.
	Timeout time.Duration
	// AcceptRisk changes the network of a server whose release can't undo that by itself: if the
	// change is wrong, somebody has to go there.
	AcceptRisk bool
	// Force makes the change although the server is not ready, or another operation is under
	// way on it or its cluster.
	Force bool
}

func (m *Manager) checkApply(o *ApplyOptions) error {
	if o.Timeout == 0 {
		o.Timeout = m.options.ConfirmationTimeout
	}
	if o.Timeout < m.options.MinTimeout || o.Timeout > MaxConfirmationTimeout {
		return fmt.Errorf("a confirmation timeout of %s, %s to %s are allowed: %w", o.Timeout, m.options.MinTimeout, MaxConfirmationTimeout, opscenter.ErrInvalidOptions)
	}
	return nil
}

// edited makes a configuration out of the one a server has.
type edited func(current *network.Config) (*network.Config, error)

// replace is a change to a configuration, whatever there is.
func replace(config *network.Config) edited {
	return func(*network.Config) (*network.Config, error) {
		if config == nil {
			return nil, fmt.Errorf("%w: no configuration is given", network.ErrInvalid)
		}
		return config, nil
	}
}

// PlanNetwork says what ApplyNetwork would do, and what is in its way. Nothing is done. Errors
// are those of Network, and opscenter.ErrPrecondition.
func (m *Manager) PlanNetwork(ctx context.Context, name string, config *network.Config, options ApplyOptions) (*network.Plan, error) {
	return m.plan(ctx, name, replace(config), options)
}

// PlanNetworkEdit is PlanNetwork for an edit.
func (m *Manager) PlanNetworkEdit(ctx context.Context, name string, edit network.Edit, options ApplyOptions) (*network.Plan, error) {
	return m.plan(ctx, name, edit.Apply, options)
}

func (m *Manager) plan(ctx context.Context, name string, edit edited, options ApplyOptions) (*network.Plan, error) {
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

func (m *Manager) prepare(ctx context.Context, info *opscenter.ServerInfo, edit edited, options ApplyOptions) (*network.Plan, *reading, error) {
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

// ApplyNetwork gives a server another network configuration, and returns when that is final:
// the server has it and was reached with it, and has been told so; or it has its former one
// again. The change then says which, and an error why it is not done: ErrRolledBack,
// opscenter.ErrRefused, ErrLost. If nothing is to change, the change is nil, and so is the error.
//
// If ctx ends before, Run goes on with it: the error is an opscenter.ErrOutcomeUnknown then,
// and WatchChanges tells.
//
// Errors before anything is done: those of PlanNetwork; network.ErrInvalid; ErrNoRollBack;
// opscenter.ErrNotReady and opscenter.ErrBusy while another operation is under way, here or on
// the server, unless forced.
func (m *Manager) ApplyNetwork(ctx context.Context, name string, config *network.Config, options ApplyOptions) (*Change, error) {
	return m.apply(ctx, name, replace(config), options, "")
}

// EditNetwork makes an edit of the network configuration a server has, as ApplyNetwork does.
func (m *Manager) EditNetwork(ctx context.Context, name string, edit network.Edit, options ApplyOptions) (*Change, error) {
	return m.apply(ctx, name, edit.Apply, options, "")
}

// apply does it, as a part of a batch if that is given: whose claim is there then.
func (m *Manager) apply(ctx context.Context, name string, edit edited, options ApplyOptions, batch string) (out *Change, err error) {
	err = m.options.Audit.Do(ctx, entry("network", name, batch), func(ctx context.Context) (err error) {
		out, err = m.transact(ctx, name, edit, options, batch)
		return err
	})
	return out, err
}

// entry is that of the audit log; a whole cluster's is not about one server.
func entry(section, name, batch string) audit.Entry {
	if batch != "" {
		name = ""
	}
	return audit.Entry{Action: section + ".apply", Server: name}
}

func (m *Manager) transact(ctx context.Context, name string, edit edited, options ApplyOptions, batch string) (*Change, error) {
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
	if current.sight.pending() && !options.Force {
		return nil, fmt.Errorf("server %q: a change of its network is being made: %w", name, opscenter.ErrBusy)
	}
	can, err := m.canUndo(ctx, info, current, options)
	if err != nil {
		return nil, err
	}
	c, err := m.begin(ctx, info, plan, current, options, batch)
	if err != nil {
		return nil, err
	}
	defer m.leave(c.ID)
	target, body, err := m.check(ctx, c, plan, options, can)
	if err != nil {
		return c, err
	}
	// Whoever gives up does not cut the server off in the middle: it would stop where it is. And
	// while it applies the change it is looked for already: its answer may not find the way.
	asking, cancel := context.WithCancel(context.WithoutCancel(ctx))
	w := &watch{answer: make(chan error, 1), secrets: plan.Config.Secrets()}
	go func() { w.answer <- m.os.WriteSystem(asking, target, c.Section, body) }()
	err = m.follow(ctx, c, w)
	switch {
	case w.answer == nil:
		cancel()
	case c.Status == StatusDone:
		m.spare(c.ID, cancel, w.answer)
	default:
		cancel()
		<-w.answer
	}
	return c, err
}

// canUndo reports whether the server undoes a change that is not confirmed. ErrNoRollBack: it
// does not, and that risk is not accepted.
func (m *Manager) canUndo(ctx context.Context, info *opscenter.ServerInfo, current *reading, options ApplyOptions) (bool, error) {
	if current.sight.pending() || errors.Is(m.unconfirmed(ctx, info.Name), opscenter.ErrBusy) {
		return true, nil // it has one; and to ask could be to confirm that change
	}
	can, err := m.os.CanConfirmNetwork(ctx, info.Target())
	switch {
	case errors.Is(err, opscenter.ErrOutcomeUnknown): // of the question, which changes nothing
		return false, fmt.Errorf("server %q: %w: %v", info.Name, opscenter.ErrUnreachable, err)
	case err != nil:
		return false, fmt.Errorf("server %q: %w", info.Name, err)
	case !can && !options.AcceptRisk:
		return false, fmt.Errorf("server %q: %w", info.Name, ErrNoRollBack)
	}
	return can, nil
}

// begin stores the intent, and reserves the server, or its cluster.
func (m *Manager) begin(ctx context.Context, info *opscenter.ServerInfo, plan *network.Plan, current *reading, options ApplyOptions, batch string) (*Change, error) {
	before, err := digestOf(current.raw)
	if err != nil {
		return nil, err
	}
	c := &Change{ID: uuid.Must(uuid.NewV7()).String(), Server: info.Name, ServerID: info.ID, Cluster: info.Cluster, Batch: batch, Section: "network", By: opscenter.Principal(ctx),
		Status: StatusSending, Differences: plan.Changes, Moves: plan.Moves, OldURL: info.ConnectionURL, Timeout: options.Timeout, StartedAt: now()}
	c.Reason = summary(plan.Changes)
	c.hidden = expectations{MachineID: current.sight.MachineID, MemberName: info.State.MemberName, Member: current.sight.Member, Before: before, Owner: c.ID, Audit: audit.ID(ctx), Fingerprint: info.Fingerprint}
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
	for _, a := range append(former, managedAt(current.sight.Network)...) {
		c.hidden.Former = append(c.hidden.Former, a.String())
	}
	for _, a := range addresses[:min(len(addresses), maxPlaces)] {
		c.hidden.Expected = append(c.hidden.Expected, a.String())
	}
	if batch != "" {
		c.hidden.Owner, c.hidden.Audit = batch, ""
	}
	return c, m.reserve(ctx, c, options.Force, m.longest(options.Timeout))
}

// longest is how long a change of a network may take in all, with some time to spare.
func (m *Manager) longest(timeout time.Duration) time.Duration {
	return 2*timeout + 2*m.options.Grace + 5*time.Minute
}

// reserve stores a new change, and begins its operation.
func (m *Manager) reserve(ctx context.Context, c *Change, force bool, timeout time.Duration) error {
	m.take(c.ID)
	m.setActing(c.ID, true)
	err := m.registry.Write(ctx, func(tx *opscenter.Tx) error {
		_, info, err := tx.Begin(opscenter.Intent{ServerID: c.ServerID, ID: c.ID, Owner: c.hidden.Owner, Action: lifecycle.ActionReconfigure, Force: force, Timeout: timeout, Note: c.Section})
		if err != nil {
			return err
		}
		c.Cluster = info.Cluster
		c.hidden.Claimed = false
		if c.Batch == "" {
			claim := opscenter.Claim{Unit: info.ID, Owner: c.ID, What: "change of the " + c.Section, Since: now()}
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
		m.leave(c.ID)
		m.setActing(c.ID, false)
	}
	return err
}

// summary is a plan in a line.
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

// check looks once more before the server is asked, and stores that it will be. An error is the
// end of the change, and is stored as that; but for those of the store.
func (m *Manager) check(ctx context.Context, c *Change, plan *network.Plan, options ApplyOptions, can bool) (target opscenter.Target, body []byte, err error) {
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
	case again.sight.pending() && !options.Force:
		return failed(StatusRefused, "a change of its network is being made")
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
	last, err := m.registry.Events(ctx, opscenter.EventFilter{Newest: true, Limit: 1})
	if err != nil {
		return failed(StatusNotSent, err.Error())
	}
	if len(last) > 0 {
		changed.hidden.Events = last[0].Sequence
	}
	changed.SentAt = now()
	changed.deadlines(&m.options)
	if err := m.store(ctx, &changed); err != nil {
		return failed(StatusNotSent, err.Error())
	}
	*c = changed
	return target, append(append([]byte(`{"config":`), config...), '}'), nil
}

// deadlines sets when what is to be done about a change that was sent at SentAt. It may have reached the server
// later than that, so it may be undone later.
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

// maxDial is how long a request may take to reach a server.
const maxDial = 15 * time.Second
