package system

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/opscenter-go/sdk/internal/jsonkeep"
	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/event"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
	"github.com/opscenter-go/sdk/opscenter/warning"
	"github.com/opscenter-go/sdk/storage"
)

// managedRow holds the update settings that the control plane has sent to a server.
type managedRow struct {
	ServerID string
	Settings lifecycle.UpdateSettings
	At       time.Time
	// Accepted: the server has accepted the settings. Until then, other settings on the server are no drift.
	Accepted bool
	// Warned: there is a warning about other settings on the server.
	Warned bool
	// Count is the number of attempts to put the settings back, in a row.
	Count int
}

// putBack is the next action about the update settings of a server.
type putBack struct {
	want lifecycle.UpdateSettings
	// drift says how the settings differ from those the server accepted. Empty: it has accepted none so far.
	drift string
	// onlyClear: only clear the warning. The server has the settings, and has kept them until now.
	onlyClear bool
	row       managedRow
	// later is the time of the action. Zero: now.
	later time.Time
}

// quickPutBacks is the number of attempts in a row at the same settings after which Options.MaxRetryInterval lies between two
// attempts. From then on the warning stays open between the attempts. Both end once the server has kept the settings for
// that time. The number of attempts is stored, so a restart of the control plane changes nothing about it.
const quickPutBacks = 5

// forgiveAfter is the time without an attempt after which fewer than quickPutBacks attempts no longer delay the next.
const forgiveAfter = 24 * time.Hour

// putBackPause returns the pause after count attempts in a row. accepted: the server accepted the last one.
func (o *Options) putBackPause(count int, accepted bool) time.Duration {
	switch {
	case count >= quickPutBacks:
		return max(o.RetryInterval, o.MaxRetryInterval)
	case accepted && count == 0:
		return 0
	case accepted:
		count--
	}
	return min(o.RetryInterval<<count, max(o.RetryInterval, o.MaxRetryInterval))
}

// planPutBack compares the update settings of a server with the wanted ones. Nil: no action is needed, or none is
// possible now. It is pure.
func planPutBack(info *opscenter.ServerInfo, told *managedRow, o *Options, at time.Time) *putBack {
	s := &info.State
	if info.Fingerprint == "" || s.Status != lifecycle.StatusReady || s.StatusDetail != lifecycle.DetailNone || s.Operation != nil || s.Update == nil || s.Versions.OS.Plain {
		return nil
	}
	out := &putBack{want: lifecycle.ManagedUpdates(info.Channel)}
	out.row = managedRow{ServerID: info.ID, Settings: out.want, At: at, Warned: told != nil && told.Warned}
	have := *s.Update
	// same: the server was sent these settings, and was not reinstalled since.
	same := told != nil && told.Settings == out.want && !info.RegisteredAt.After(told.At)
	switch {
	case have == out.want && (told == nil || !told.Warned):
		return nil
	case have == out.want:
		out.onlyClear, out.row.Warned, out.row.Accepted, out.row.Count, out.row.At = true, false, true, told.Count, told.At
		if same && told.Count >= quickPutBacks {
			// The settings are those that were sent last. Only a later poll shows that the server has kept them.
			if kept := told.At.Add(o.putBackPause(told.Count, true)); info.LastSeen.Before(kept) {
				out.later = slices.MaxFunc([]time.Time{kept, at.Add(o.RetryInterval)}, time.Time.Compare)
			}
			out.row.Count = 0
		}
		return out
	case !same:
		return out
	}
	if told.Accepted || told.Count >= quickPutBacks {
		out.drift, out.row.Warned = difference(out.want, have), true
	}
	if at.Sub(told.At) > forgiveAfter && told.Count < quickPutBacks {
		return out
	}
	out.row.Count = told.Count + 1
	if next := told.At.Add(o.putBackPause(told.Count, told.Accepted)); at.Before(next) {
		out.later = next
	}
	return out
}

// difference names the settings that differ, for people.
func difference(want, have lifecycle.UpdateSettings) string {
	text := ""
	add := func(name string, want, have any) {
		if want != have {
			if text != "" {
				text += ", "
			}
			text += fmt.Sprintf("%s is %v, not %v", name, have, want)
		}
	}
	add("channel", want.Channel, have.Channel)
	add("auto_reboot", want.AutoReboot, have.AutoReboot)
	add("check_frequency", want.CheckFrequency, have.CheckFrequency)
	return text
}

// enforcer puts the update settings of servers back.
type enforcer struct {
	m *Manager
	// all: any server may have other settings. names maps servers that may have other settings to the times of their
	// next check.
	all   bool
	names map[string]time.Time
}

// Limits of the enforcer.
const (
	// enforceBatch bounds the servers that one round works on.
	enforceBatch = 256
	// enforceIdle bounds the pause between two rounds.
	enforceIdle = time.Minute
)

// run puts settings back until ctx ends. It also returns if the store is closed.
func (e *enforcer) run(ctx context.Context, touched <-chan []string) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case names := <-touched:
			if names == nil {
				e.all = true
			}
			for _, name := range names {
				e.names[name] = time.Time{}
			}
		case <-timer.C:
		case <-ctx.Done():
			return ctx.Err()
		}
		err := e.round(ctx)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil && !retryable(err):
			return err
		case err != nil:
			e.m.log.ErrorContext(ctx, "update settings can't be checked, and are tried again", "error", err)
		}
		next := enforceIdle
		for _, at := range e.names {
			next = min(next, max(time.Until(at), 0))
		}
		if err != nil || e.all {
			next = e.m.options.Interval
		}
		timer.Reset(next)
	}
}

// round checks up to enforceBatch of the servers that are due.
func (e *enforcer) round(ctx context.Context) error {
	if e.all {
		if err := e.dropRemoved(ctx); err != nil {
			return err
		}
		var names []string
		err := e.m.registry.Read(ctx, func(s *opscenter.Snapshot) error {
			names = nil
			for info, err := range s.Servers(opscenter.ServerFilter{}) {
				if err != nil {
					return err
				}
				told, err := managed.Find(s, storage.StringKey(info.ID))
				if err != nil {
					return err
				}
				if planPutBack(info, told, &e.m.options, e.m.now()) != nil {
					names = append(names, info.Name)
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
		e.all = false
		for _, name := range names {
			e.names[name] = time.Time{}
		}
	}
	var due []string
	for name, at := range e.names {
		if !time.Now().Before(at) {
			if due = append(due, name); len(due) == enforceBatch {
				break
			}
		}
	}
	again := make([]time.Time, len(due))
	var group errgroup.Group
	group.SetLimit(e.m.options.MaxPutBack)
	for i, name := range due {
		group.Go(func() error {
			bounded, cancel := context.WithTimeout(ctx, e.m.options.putBackTimeout)
			defer cancel()
			later, err := e.m.enforce(bounded, name)
			switch {
			case err == nil:
				again[i] = later
			case ctx.Err() == nil:
				e.m.log.WarnContext(ctx, "update settings could not be put back", "server", name, "error", err)
				again[i] = time.Now().Add(e.m.options.RetryInterval)
			}
			return nil
		})
	}
	_ = group.Wait()
	for i, name := range due {
		if delete(e.names, name); !again[i].IsZero() {
			e.names[name] = again[i]
		}
	}
	return nil
}

// dropRemoved drops the rows of servers that were removed.
func (e *enforcer) dropRemoved(ctx context.Context) error {
	step := storage.LimitsOf(e.m.registry.Store()).Rows(enforceBatch, 1)
	for {
		var gone []storage.Key
		err := e.m.registry.Read(ctx, func(s *opscenter.Snapshot) error {
			gone = nil
			for row, err := range managed.Scan(s, storage.Range{}) {
				if err == nil {
					_, err = s.ServerByID(row.ServerID)
				}
				switch {
				case errors.Is(err, opscenter.ErrNotFound):
					gone = append(gone, storage.StringKey(row.ServerID))
				case err != nil:
					return err
				}
				if len(gone) == step {
					break
				}
			}
			return nil
		})
		if err == nil && len(gone) > 0 {
			err = e.m.registry.Write(ctx, func(tx *opscenter.Tx) error {
				for _, key := range gone {
					if err := managed.Delete(tx, key); err != nil && !errors.Is(err, storage.ErrNotFound) {
						return err
					}
				}
				return nil
			})
		}
		if err != nil || len(gone) < step {
			return err
		}
	}
}

// enforce carries out the next action about one server's settings. later is the time of the next check; zero: none.
func (m *Manager) enforce(ctx context.Context, name string) (later time.Time, err error) {
	var p *putBack
	var told *managedRow
	var info *opscenter.ServerInfo
	var operation *lifecycle.Operation
	err = m.registry.Write(ctx, func(tx *opscenter.Tx) (err error) {
		p, operation = nil, nil
		if info, err = tx.Snapshot().Server(name); errors.Is(err, opscenter.ErrNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		if told, err = managed.Find(tx, storage.StringKey(info.ID)); err != nil {
			return err
		}
		p = planPutBack(info, told, &m.options, tx.Now())
		if p == nil || !p.later.IsZero() || p.onlyClear {
			return nil
		}
		operation, info, err = tx.Begin(opscenter.Intent{ServerID: info.ID, Action: lifecycle.ActionReconfigure, Timeout: 2 * m.options.putBackTimeout, Note: "update settings"})
		if err != nil {
			return err
		}
		return managed.Put(tx, &p.row) // Accepted is false
	})
	switch {
	case errors.Is(err, opscenter.ErrBusy), errors.Is(err, opscenter.ErrNotReady):
		return time.Now().Add(m.options.RetryInterval), nil
	case err != nil || p == nil:
		return time.Time{}, err
	case p.onlyClear && p.later.IsZero():
		if err := m.registry.Warnings().Clear(ctx, name, warning.UpdateSettings); err != nil {
			return time.Time{}, err
		}
		return time.Time{}, m.registry.Write(ctx, func(tx *opscenter.Tx) error { return managed.Put(tx, &p.row) })
	case !p.later.IsZero():
		if p.drift != "" && !told.Warned {
			if err = m.warn(ctx, name, p); err == nil {
				warned := *told
				warned.Warned = true
				err = m.registry.Write(ctx, func(tx *opscenter.Tx) error { return managed.Put(tx, &warned) })
			}
		}
		return time.Now().Add(p.later.Sub(m.now())), err
	}
	defer m.registry.Observer().Acted(info.ID)
	failure := m.setUpdates(ctx, info, p.want)
	if errors.Is(failure, opscenter.ErrOutcomeUnknown) {
		failure = m.verifyUpdates(ctx, info, p.want, failure)
	}
	ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), m.options.putBackTimeout)
	defer cancel()
	err = m.registry.Write(ending, func(tx *opscenter.Tx) error {
		if err := tx.End(info, operation.ID, failure); err != nil || failure != nil {
			return err
		}
		row := p.row
		row.Accepted, row.At = true, tx.Now()
		if err := managed.Put(tx, &row); err != nil {
			return err
		}
		if err := tx.SetUpdateSettings(info, p.want); err != nil {
			return err
		}
		reason := "update: set to those of a managed server"
		if p.drift != "" {
			reason = "update: put back: " + p.drift
		}
		return tx.Record(event.Event{At: row.At, Kind: event.ConfigurationChange, Server: info.Name, Reason: reason})
	})
	if p.drift != "" {
		err = errors.Join(err, m.warn(ending, name, p))
	}
	if failure != nil && p.row.Count > quickPutBacks {
		m.log.DebugContext(ctx, "update settings could not be put back, as before", "server", name, "error", failure)
		return time.Now().Add(m.options.RetryInterval), err
	}
	return time.Time{}, errors.Join(err, failure)
}

// warn raises the warning about a drift.
func (m *Manager) warn(ctx context.Context, name string, p *putBack) error {
	message := p.drift + "; the control plane puts it back"
	if p.row.Count >= quickPutBacks {
		message = fmt.Sprintf("%s; %d attempts in a row were in vain, and the next ones follow every %s", p.drift, quickPutBacks, max(m.options.RetryInterval, m.options.MaxRetryInterval))
	}
	return m.registry.Warnings().Raise(ctx, name, warning.Input{Kind: warning.UpdateSettings, Message: message})
}

// verifyUpdates reads the update settings until they can be compared, after the answer to their change was lost.
// ErrFailed: the server has other settings, and they may be sent again.
func (m *Manager) verifyUpdates(ctx context.Context, info *opscenter.ServerInfo, want lifecycle.UpdateSettings, unknown error) error {
	for {
		d, err := m.readSection(ctx, info, SectionUpdate)
		var config UpdateConfig
		if err == nil {
			err = json.Unmarshal(d.Config, &config)
		}
		switch {
		case err == nil && config.AutoReboot == want.AutoReboot && config.Channel == want.Channel && config.CheckFrequency == want.CheckFrequency:
			return nil
		case err == nil:
			return fmt.Errorf("%w: %v", ErrFailed, unknown)
		case !sleep(ctx, m.options.Interval):
			return unknown
		}
	}
}

// setUpdates sends a server the managed update settings. Its other update settings stay as they are.
func (m *Manager) setUpdates(ctx context.Context, info *opscenter.ServerInfo, want lifecycle.UpdateSettings) error {
	d, err := m.readSection(ctx, info, SectionUpdate)
	if err != nil {
		return err
	}
	var config UpdateConfig
	if err := json.Unmarshal(d.Config, &config); err != nil {
		return err
	}
	config.AutoReboot, config.Channel, config.CheckFrequency = want.AutoReboot, want.Channel, want.CheckFrequency
	data, err := jsonkeep.Encode(config)
	if err != nil {
		return err
	}
	return m.os.WriteSystem(ctx, info.Target(), SectionUpdate, append(append([]byte(`{"config":`), data...), '}'))
}
