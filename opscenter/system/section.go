package system

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/opscenter-go/sdk/internal/jsonsecret"
	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/audit"
	"github.com/opscenter-go/sdk/opscenter/internal/facts"
)

// Sections of a server's configuration that are read and set alike; of the network, see
// ApplyNetwork.
const (
	SectionUpdate   = "update"
	SectionProvider = "provider"
	SectionStorage  = "storage"
	SectionKernel   = "kernel"
	SectionLogging  = "logging"
)

// Settings are a section of a server's configuration, as it is now.
type Settings[C any] struct {
	Config *C `json:"config"`
	// State is what the server tells beside it.
	State json.RawMessage `json:"state,omitempty"`
	// ETag is of the configuration. Those of another process differ.
	ETag string `json:"-"`
}

// SetOptions of a change. The zero value is the careful way.
type SetOptions struct {
	// IfMatch is an ETag, as in ApplyOptions.
	IfMatch string
	// Force makes the change although the server is not ready, or another operation is under
	// way on it or its cluster.
	Force bool
}

// document is what IncusOS answers for a section.
type document struct {
	Config json.RawMessage `json:"config"`
	State  json.RawMessage `json:"state"`
}

func (m *Manager) readSection(ctx context.Context, info *opscenter.ServerInfo, section string) (*document, error) {
	if err := info.OnIncusOS(); err != nil {
		return nil, err
	}
	data, err := m.os.ReadSystem(ctx, info.Target(), section)
	if err != nil {
		return nil, fmt.Errorf("%s of server %q: %w", section, info.Name, err)
	}
	d := &document{}
	if err := json.Unmarshal(data, d); err != nil {
		return nil, fmt.Errorf("%s of server %q: %w: %v", section, info.Name, opscenter.ErrAnswer, err)
	}
	if len(d.Config) == 0 || string(d.Config) == "null" {
		d.Config = json.RawMessage("{}")
	}
	return d, nil
}

// settings reads a section.
func settings[C any](ctx context.Context, m *Manager, name, section string) (*Settings[C], error) {
	info, err := m.registry.Server(ctx, name)
	if err != nil {
		return nil, err
	}
	d, err := m.readSection(ctx, info, section)
	if err != nil {
		return nil, err
	}
	out := &Settings[C]{Config: new(C), State: d.State}
	if out.ETag, err = m.tag(d.Config); err != nil {
		return nil, err
	}
	if !m.registry.Options().KeepSecrets {
		if d.Config, err = jsonsecret.Hide(d.Config, facts.IsSecretName); err == nil && len(out.State) > 0 {
			out.State, err = facts.RedactSecrets(out.State)
		}
		if err != nil {
			return nil, fmt.Errorf("%s of server %q: %w: %v", section, name, opscenter.ErrAnswer, err)
		}
	}
	if err := json.Unmarshal(d.Config, out.Config); err != nil {
		return nil, fmt.Errorf("%s of server %q: %w: %v", section, name, opscenter.ErrAnswer, err)
	}
	return out, nil
}

// setSection gives a server another configuration of a section, as a part of a batch if that
// is given. The intent is stored first; if the answer is lost, the server is asked what it has.
func (m *Manager) setSection(ctx context.Context, name, section string, make func(current json.RawMessage) (json.RawMessage, error), options SetOptions, batch string) (out *Change, err error) {
	err = m.options.Audit.Do(ctx, entry(section, name, batch), func(ctx context.Context) (err error) {
		out, err = m.set(ctx, name, section, make, options, batch)
		return err
	})
	return out, err
}

func (m *Manager) set(ctx context.Context, name, section string, make func(json.RawMessage) (json.RawMessage, error), options SetOptions, batch string) (*Change, error) {
	info, err := m.registry.Server(ctx, name)
	if err != nil {
		return nil, err
	}
	d, err := m.readSection(ctx, info, section)
	if err != nil {
		return nil, err
	}
	if err := m.matches(d.Config, options.IfMatch); err != nil {
		return nil, fmt.Errorf("%s of server %q: %w", section, name, err)
	}
	wanted, err := make(d.Config)
	if err != nil {
		return nil, fmt.Errorf("%s of server %q: %w", section, name, err)
	}
	if wanted, err = kept(section, name, wanted, d.Config); err != nil {
		return nil, err
	}
	before, err := digestOf(d.Config)
	if err != nil {
		return nil, fmt.Errorf("%s of server %q: %w: %v", section, name, opscenter.ErrAnswer, err)
	}
	switch unchanged, err := before.is(wanted); {
	case err != nil:
		return nil, fmt.Errorf("%s of server %q: %w: %w", section, name, ErrInvalid, err)
	case unchanged:
		return nil, m.options.Audit.Note(ctx, "nothing is to change")
	}
	c := &Change{ID: uuid.Must(uuid.NewV7()).String(), Server: info.Name, ServerID: info.ID, Cluster: info.Cluster, Batch: batch, Section: section, By: opscenter.Principal(ctx),
		Status: StatusSending, Reason: "to be set", OldURL: info.ConnectionURL, StartedAt: now()}
	c.hidden = expectations{Before: before, Owner: c.ID, Audit: audit.ID(ctx), Fingerprint: info.Fingerprint}
	if c.hidden.Wanted, err = jsonsecret.Hide(wanted, facts.IsSecretName); err != nil {
		return nil, err
	}
	if batch != "" {
		c.hidden.Owner, c.hidden.Audit = batch, ""
	}
	if err := m.reserve(ctx, c, options.Force, m.patience(section)+m.longest(0)); err != nil {
		return nil, err
	}
	defer m.leave(c.ID)
	// Between the look and the claim somebody may have been faster.
	again, err := m.readSection(ctx, info, section)
	ended := func(status Status, reason string) (*Change, error) {
		if err := m.end(context.WithoutCancel(ctx), c, status, "", reason); err != nil {
			return c, err
		}
		return c, c.Err()
	}
	if err != nil {
		return ended(StatusNotSent, err.Error())
	}
	switch unchanged, err := before.is(again.Config); {
	case err != nil:
		return ended(StatusNotSent, err.Error())
	case !unchanged:
		return ended(StatusNotSent, conflict)
	}
	asked := *c
	asked.SentAt = now()
	if err := m.store(ctx, &asked); err != nil {
		return ended(StatusNotSent, err.Error())
	}
	*c = asked
	// Whoever gives up does not cut the server off in the middle.
	err = m.os.WriteSystem(context.WithoutCancel(ctx), info.Target(), section, append(append([]byte(`{"config":`), wanted...), '}'))
	reason := ""
	if err != nil {
		reason = scrubbed(err.Error(), jsonsecret.Values(wanted, facts.IsSecretName))
	}
	switch {
	case err == nil:
		return ended(StatusDone, "the server has accepted it")
	case errors.Is(err, opscenter.ErrRefused):
		return ended(StatusRefused, reason)
	case errors.Is(err, ErrFailed): // it may have done some of it
		c.hidden.Failed = reason
	case !errors.Is(err, opscenter.ErrOutcomeUnknown):
		return ended(StatusNotSent, reason)
	}
	return c, m.settle(ctx, c)
}

// kept returns a configuration with the secrets that the server has where those are hidden.
func kept(section, server string, wanted, current json.RawMessage) (json.RawMessage, error) {
	whole, missing, err := jsonsecret.Restore(wanted, current, facts.IsSecretName)
	switch {
	case err != nil:
		return nil, fmt.Errorf("%s of server %q: %w: %w", section, server, ErrInvalid, err)
	case missing != "":
		return nil, fmt.Errorf("%s of server %q: %s: it is hidden, and the server has none to keep: %w", section, server, missing, ErrInvalid)
	}
	return whole, nil
}

// ErrInvalid: settings that are no JSON object, or that can't be.
var ErrInvalid = errors.New("invalid settings")

// settle finds out what became of a change whose answer was lost, or was that it failed: by what
// the server has.
func (m *Manager) settle(ctx context.Context, c *Change) error {
	if c.SentAt.IsZero() {
		return m.over(ctx, c, m.end(ctx, c, StatusNotSent, "", "the control plane ended before it asked the server"))
	}
	giveUp := now().Add(m.patience(c.Section))
	for {
		err := m.look(ctx, c, !now().Before(giveUp))
		if c.Status.Final() || err != nil && (ctx.Err() != nil || !retryable(err)) {
			return m.over(ctx, c, err)
		}
		if !sleep(ctx, min(m.options.Interval, time.Second)) {
			return m.over(ctx, c, ctx.Err())
		}
	}
}

// storagePatience is how many times SettleTimeout is waited for storage: pools are made of whole disks.
const storagePatience = 20

// patience is how long it is tried to find out what became of a change.
func (m *Manager) patience(section string) time.Duration {
	if section == SectionStorage {
		return storagePatience * m.options.SettleTimeout
	}
	return 2 * m.options.SettleTimeout
}

// look compares what a server has with what it had, and was to have, and ends the change if that
// says how it went; last: it is not looked at again.
func (m *Manager) look(ctx context.Context, c *Change, last bool) error {
	var info *opscenter.ServerInfo
	err := m.registry.Read(ctx, func(s *opscenter.Snapshot) (err error) {
		info, err = s.ServerByID(c.ServerID)
		return err
	})
	switch {
	case errors.Is(err, opscenter.ErrNotFound):
		return m.end(ctx, c, StatusLost, "", "the server was removed")
	case err != nil:
		return err
	case info.Fingerprint != c.hidden.Fingerprint:
		return m.end(ctx, c, StatusLost, "", "the server was installed anew")
	}
	d, err := m.readSection(ctx, info, c.Section)
	if err != nil {
		if last {
			return m.end(ctx, c, StatusLost, "", "the server does not tell: "+err.Error())
		}
		return nil
	}
	missing := ""
	former, err := c.hidden.Before.is(d.Config)
	if err == nil && !former {
		missing, err = lacks(d.Config, c.hidden.Wanted)
	}
	switch {
	case err != nil && last:
		return m.end(ctx, c, StatusLost, "", "what the server tells is not understood: "+err.Error())
	case err != nil:
		return nil
	case former && c.hidden.Failed != "":
		return m.end(ctx, c, StatusRefused, "", c.hidden.Failed)
	case former && last:
		return m.end(ctx, c, StatusRolledBack, "", "it has its former configuration still")
	case former:
		return nil // it may be at it
	case missing == "":
		return m.end(ctx, c, StatusDone, "", "the server has it"+c.said())
	case last || c.hidden.Failed != "":
		return m.end(ctx, c, StatusLost, "", "it has a configuration that is not ours: "+missing+c.said())
	}
	return nil
}

// lacks names a member of the wanted configuration that another one does not have so; empty: none.
// Secrets are not compared.
func lacks(have, wanted json.RawMessage) (string, error) {
	hidden, err := jsonsecret.Hide(have, facts.IsSecretName)
	if err != nil {
		return "", err
	}
	var a, b map[string]any
	if err := json.Unmarshal(hidden, &a); err != nil {
		return "", err
	}
	if err := json.Unmarshal(wanted, &b); err != nil {
		return "", err
	}
	for _, name := range slices.Sorted(maps.Keys(b)) {
		if !contains(a[name], b[name]) {
			return name, nil
		}
	}
	return "", nil
}

// contains reports whether a value has all that is wanted; what a server adds is no difference.
func contains(have, wanted any) bool {
	switch wanted := wanted.(type) {
	case nil:
		return true
	case map[string]any:
		object, _ := have.(map[string]any)
		for name, value := range wanted {
			if !contains(object[name], value) {
				return false
			}
		}
		return true
	case []any:
		list, _ := have.([]any)
		if len(list) != len(wanted) {
			return false
		}
		for i := range wanted {
			if !contains(list[i], wanted[i]) {
				return false
			}
		}
		return true
	case string:
		return have == wanted || have == nil && wanted == ""
	case bool:
		return have == wanted || have == nil && !wanted
	case float64:
		return have == wanted || have == nil && wanted == 0
	}
	return false
}
