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

// Sections of a server's configuration, without the network. They are the values of Change.Section
// and Batch.Section; for the network that value is "network".
const (
	SectionUpdate   = "update"
	SectionProvider = "provider"
	SectionStorage  = "storage"
	SectionKernel   = "kernel"
	SectionLogging  = "logging"
)

// Settings are a section of a server's configuration at the time of the call.
type Settings[C any] struct {
	// Config is never nil. Its secrets are hidden, unless the registry keeps secrets.
	Config *C `json:"config"`
	// State is the state that the server reports with the configuration, as JSON. Empty: it reports none.
	State json.RawMessage `json:"state,omitempty"`
	// ETag identifies the configuration, see SetOptions.IfMatch. Another process returns another ETag.
	ETag string `json:"-"`
}

// SetOptions are the options of a settings change. The zero value is the safest.
type SetOptions struct {
	// IfMatch is an ETag, as in ApplyOptions.
	IfMatch string
	// Force allows the change although the server is not ready, or another operation is under
	// way on the server or its cluster.
	Force bool
}

// document is the answer of IncusOS for a section.
type document struct {
	Config json.RawMessage `json:"config"`
	State  json.RawMessage `json:"state"`
}

// readSection reads a section with its secrets.
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

// settings reads a section into its type, and hides the secrets.
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

// setSection gives a server a new configuration of a section. It stores the intent first. If the answer is
// lost, it reads the section again. batch is the ID of the batch that holds the claim; empty: none.
func (m *Manager) setSection(ctx context.Context, name, section string, build func(current json.RawMessage) (json.RawMessage, error), options SetOptions, batch string) (out *Change, err error) {
	err = m.options.Audit.Do(ctx, entry(section, name, batch), func(ctx context.Context) (err error) {
		out, err = m.set(ctx, name, section, build, options, batch)
		return err
	})
	return out, err
}

func (m *Manager) set(ctx context.Context, name, section string, build func(json.RawMessage) (json.RawMessage, error), options SetOptions, batch string) (*Change, error) {
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
	wanted, err := build(d.Config)
	if err != nil {
		return nil, fmt.Errorf("%s of server %q: %w", section, name, err)
	}
	if wanted, err = restoreHidden(section, name, wanted, d.Config); err != nil {
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
		Status: StatusSending, Reason: "to be set", OldURL: info.ConnectionURL}
	c.hidden = expectations{Before: before, Owner: c.ID, Audit: audit.ID(ctx), Fingerprint: info.Fingerprint}
	if c.hidden.Wanted, err = jsonsecret.Hide(wanted, facts.IsSecretName); err != nil {
		return nil, err
	}
	if batch != "" {
		c.hidden.Owner, c.hidden.Audit = batch, ""
	}
	if err := m.reserve(ctx, c, options.Force, m.settleLimit(section)+m.maxDuration(0)); err != nil {
		return nil, err
	}
	defer m.relinquish(c.ID)
	// Another client may have changed the section between the first reading and the claim.
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
	err = m.registry.Write(ctx, func(tx *opscenter.Tx) error {
		asked.SentAt = tx.Now()
		return m.put(tx, &asked)
	})
	if err != nil {
		return ended(StatusNotSent, err.Error())
	}
	*c = asked
	// The request goes on when the caller's ctx ends: a server whose request is cancelled stops in the middle.
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
	case errors.Is(err, ErrFailed): // the server may have made a part of the change
		c.hidden.Failed = reason
	case !errors.Is(err, opscenter.ErrOutcomeUnknown):
		return ended(StatusNotSent, reason)
	}
	return c, m.settle(ctx, c)
}

// restoreHidden replaces hidden secrets in a configuration by those that the server has.
func restoreHidden(section, server string, wanted, current json.RawMessage) (json.RawMessage, error) {
	whole, missing, err := jsonsecret.Restore(wanted, current, facts.IsSecretName)
	switch {
	case err != nil:
		return nil, fmt.Errorf("%s of server %q: %w: %w", section, server, ErrInvalid, err)
	case missing != "":
		return nil, fmt.Errorf("%s of server %q: %s: the secret is hidden, and the server has none to keep: %w", section, server, missing, ErrInvalid)
	}
	return whole, nil
}

// ErrInvalid: the settings are no JSON object, or have an invalid value.
var ErrInvalid = errors.New("invalid settings")

// settle finds the outcome of a change whose answer was lost or was ErrFailed, from the configuration that the
// server has.
func (m *Manager) settle(ctx context.Context, c *Change) error {
	if c.SentAt.IsZero() {
		return m.outcome(ctx, c, m.end(ctx, c, StatusNotSent, "", "the control plane stopped before it asked the server"))
	}
	giveUp := time.Now().Add(m.settleLimit(c.Section))
	for {
		err := m.settleOnce(ctx, c, !time.Now().Before(giveUp))
		if c.Status.Final() || err != nil && (ctx.Err() != nil || !retryable(err)) {
			return m.outcome(ctx, c, err)
		}
		if !sleep(ctx, min(m.options.Interval, time.Second)) {
			return m.outcome(ctx, c, ctx.Err())
		}
	}
}

// storageSettleFactor multiplies SettleTimeout for storage: a server may create pools from whole disks.
const storageSettleFactor = 20

// settleLimit bounds the search for the outcome of a change.
func (m *Manager) settleLimit(section string) time.Duration {
	if section == SectionStorage {
		return storageSettleFactor * m.options.SettleTimeout
	}
	return 2 * m.options.SettleTimeout
}

// settleOnce reads the section, compares it with the former and the wanted configuration, and ends the change if
// that shows the outcome. last: this is the last reading, so the change ends anyway.
func (m *Manager) settleOnce(ctx context.Context, c *Change, last bool) error {
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
			return m.end(ctx, c, StatusLost, "", "the server can't be read: "+err.Error())
		}
		return nil
	}
	missing := ""
	former, err := c.hidden.Before.is(d.Config)
	if err == nil && !former {
		missing, err = firstMissing(d.Config, c.hidden.Wanted)
	}
	switch {
	case err != nil && last:
		return m.end(ctx, c, StatusLost, "", "the server's answer is not understood: "+err.Error())
	case err != nil:
		return nil
	case former && c.hidden.Failed != "":
		return m.end(ctx, c, StatusRefused, "", c.hidden.Failed)
	case former && last:
		return m.end(ctx, c, StatusRolledBack, "", "the server still has its former configuration")
	case former:
		return nil // the server may still work on the change
	case missing == "":
		return m.end(ctx, c, StatusDone, "", "the server has it"+c.failureNote())
	case last || c.hidden.Failed != "":
		return m.end(ctx, c, StatusLost, "", "the server has another configuration than the wanted one: "+missing+c.failureNote())
	}
	return nil
}

// firstMissing names the first member of the wanted configuration that is missing or differs in the other one.
// Empty: there is none. Secrets are not compared.
func firstMissing(have, wanted json.RawMessage) (string, error) {
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

// contains reports whether a value has all parts of the wanted one. Parts that a server adds are no difference.
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
