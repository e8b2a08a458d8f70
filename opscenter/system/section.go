package system

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/audit"
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
	data, err := m.os.ReadSystem(ctx, info.Target(), section)
	if err != nil {
		return nil, fmt.Errorf("%s of server %q: %w", section, info.Name, err)
	}
	d := &document{}
	if err := json.Unmarshal(data, d); err != nil {
		return nil, fmt.Errorf("%s of server %q: %w", section, info.Name, err)
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
	if err := json.Unmarshal(d.Config, out.Config); err != nil {
		return nil, fmt.Errorf("%s of server %q: %w", section, name, err)
	}
	if !m.registry.Options().KeepSecrets && len(out.State) > 0 {
		if out.State, err = opscenter.RedactSecrets(out.State); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// setSection gives a server another configuration of a section, as a part of a batch if that
// is given. The intent is stored first; if the answer is lost, the server is asked what it has.
func (m *Manager) setSection(ctx context.Context, name, section string, make func(current json.RawMessage) (json.RawMessage, error), options SetOptions, batch string) (out *Change, err error) {
	err = m.options.Audit.Do(ctx, audit.Entry{Action: section + ".apply", Server: name}, func(ctx context.Context) (err error) {
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
	before, err := digestOf(d.Config)
	if err != nil {
		return nil, err
	}
	switch unchanged, err := before.is(wanted); {
	case err != nil:
		return nil, fmt.Errorf("%s of server %q: %w: %w", section, name, ErrInvalid, err)
	case unchanged:
		return nil, m.options.Audit.Note(ctx, "nothing is to change")
	}
	c := &Change{ID: uuid.Must(uuid.NewV7()).String(), Server: info.Name, ServerID: info.ID, Cluster: info.Cluster, Batch: batch, Section: section, By: opscenter.Principal(ctx),
		Status: StatusSending, Reason: "to be set", OldURL: info.ConnectionURL, StartedAt: now()}
	c.hidden = expectations{Before: before, Owner: c.ID, Audit: audit.ID(ctx), GiveUpAt: c.StartedAt.Add(2 * m.options.SettleTimeout)}
	if batch != "" {
		c.hidden.Owner, c.hidden.Audit = batch, ""
	}
	if err := m.reserve(ctx, c, options.Force, 3*m.options.SettleTimeout); err != nil {
		return nil, err
	}
	defer m.leave(c.ID)
	// Between the look and the claim somebody may have been faster.
	again, err := m.readSection(ctx, info, section)
	failed := func(status Status, reason string) (*Change, error) {
		if err := m.end(context.WithoutCancel(ctx), c, status, "", reason); err != nil {
			return c, err
		}
		return c, c.Err()
	}
	if err != nil {
		return failed(StatusNotSent, err.Error())
	}
	switch unchanged, err := before.is(again.Config); {
	case err != nil:
		return failed(StatusNotSent, err.Error())
	case !unchanged:
		return failed(StatusNotSent, conflict)
	}
	err = m.os.WriteSystem(ctx, info.Target(), section, append(append([]byte(`{"config":`), wanted...), '}'))
	switch {
	case err == nil:
		return failed(StatusDone, "the server has accepted it")
	case errors.Is(err, opscenter.ErrRefused):
		return failed(StatusRefused, err.Error())
	case !errors.Is(err, opscenter.ErrOutcomeUnknown):
		return failed(StatusNotSent, err.Error())
	}
	return c, m.settle(ctx, c)
}

// ErrInvalid: settings that are no JSON object, or that can't be.
var ErrInvalid = errors.New("invalid settings")

// settle finds out what became of a change whose answer was lost: by what the server has.
func (m *Manager) settle(ctx context.Context, c *Change) error {
	last := ""
	for {
		info, err := m.registry.Server(ctx, c.Server)
		var d *document
		if err == nil {
			d, err = m.readSection(ctx, info, c.Section)
		}
		former := true
		if err == nil {
			former, err = c.hidden.Before.is(d.Config)
		}
		switch {
		case ctx.Err() != nil:
			return fmt.Errorf("%s of server %q: %w: %w", c.Section, c.Server, opscenter.ErrOutcomeUnknown, ctx.Err())
		case err == nil && !former:
			err = m.end(ctx, c, StatusDone, "", "the server has it")
		case err == nil && !now().Before(c.hidden.GiveUpAt):
			err = m.end(ctx, c, StatusRolledBack, "", "it has its former configuration still")
		case err != nil && !now().Before(c.hidden.GiveUpAt):
			err = m.end(ctx, c, StatusLost, "", "the server does not tell: "+err.Error())
		case err != nil:
			last = err.Error()
		}
		if c.Status.Final() {
			return c.Err()
		}
		if err != nil && err.Error() != last {
			if err := m.pause(ctx, err); err != nil {
				return err
			}
		}
		if !sleep(ctx, min(m.options.Interval, time.Second)) {
			return fmt.Errorf("%s of server %q: %w: %w", c.Section, c.Server, opscenter.ErrOutcomeUnknown, ctx.Err())
		}
	}
}
