package system

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/opscenter-go/sdk/internal/jsonkeep"
	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/storage"
)

// managedRow is what the control plane has told a server about its updates.
type managedRow struct {
	ServerID string
	Settings opscenter.UpdateSettings
	At       time.Time
	// Accepted: the server has taken them on; until then they are not others if it has others.
	Accepted bool
	// Warned: a warning says that it had others.
	Warned bool
}

// putBack is what is to be done about the update settings of a server.
type putBack struct {
	info *opscenter.ServerInfo
	want opscenter.UpdateSettings
	// drift says how they differ from what the server was told; empty: it was not told so far.
	drift string
	clear bool // the warning is to go
	// warned: there is a warning already.
	warned bool
}

// drifted compares the update settings of a server with what they should be; nil: nothing is
// to be done, or nothing can be. It is pure.
func drifted(info *opscenter.ServerInfo, told *managedRow) *putBack {
	s := &info.State
	if info.Fingerprint == "" || s.Status != opscenter.StatusReady || s.StatusDetail != opscenter.DetailNone || s.Operation != nil || s.Update == nil {
		return nil
	}
	out := &putBack{info: info, want: opscenter.ManagedUpdates(info.Channel), warned: told != nil && told.Warned}
	have := *s.Update
	switch {
	case have == out.want && (told == nil || !told.Warned):
		return nil
	case have == out.want:
		out.clear = true
		return out
	case told != nil && told.Settings == out.want && told.Accepted && !info.RegisteredAt.After(told.At): // not installed anew since
		out.drift = difference(out.want, have)
	}
	return out
}

func difference(want, have opscenter.UpdateSettings) string {
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

// enforcer puts update settings back.
type enforcer struct {
	m     *Manager
	retry map[string]time.Time // by server ID
	again map[string]bool      // names, of those to be looked at once more
}

// look looks at servers by their names; nil: at all. It puts back what is to be.
func (e *enforcer) look(ctx context.Context, names []string) error {
	if e.m.options.LeaveUpdates {
		return nil
	}
	var list []*putBack
	consider := func(s *opscenter.Snapshot, info *opscenter.ServerInfo) error {
		told, err := managed.Find(s, storage.StringKey(info.ID))
		if err != nil {
			return err
		}
		p := drifted(info, told)
		if p == nil {
			return nil
		}
		claim, err := s.ClaimOf(info.ID, false)
		if err == nil && claim == nil && info.Cluster != "" {
			claim, err = s.ClaimOf(info.Cluster, true)
		}
		switch {
		case err != nil:
			return err
		case claim != nil || time.Now().Before(e.retry[info.ID]):
			e.again[info.Name] = true
		default:
			list = append(list, p)
		}
		return nil
	}
	for name := range e.again {
		names = append(names, name)
	}
	err := e.m.registry.Read(ctx, func(s *opscenter.Snapshot) error {
		list, e.again = nil, map[string]bool{}
		if names == nil {
			for info, err := range s.Servers(opscenter.ServerFilter{}) {
				if err == nil {
					err = consider(s, info)
				}
				if err != nil {
					return err
				}
			}
			return nil
		}
		for _, name := range names {
			info, err := s.Server(name)
			if errors.Is(err, opscenter.ErrNotFound) {
				continue
			}
			if err == nil {
				err = consider(s, info)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	failed := make([]bool, len(list))
	var group errgroup.Group
	group.SetLimit(e.m.options.MaxPutBack)
	for i, p := range list {
		group.Go(func() error {
			if err := e.m.enforce(ctx, p); err != nil && ctx.Err() == nil {
				failed[i] = true
				e.m.log.WarnContext(ctx, "update settings could not be put back", "server", p.info.Name, "error", err)
			}
			return nil
		})
	}
	_ = group.Wait()
	for i, p := range list {
		delete(e.retry, p.info.ID)
		if failed[i] {
			e.retry[p.info.ID] = time.Now().Add(e.m.options.RetryInterval)
			e.again[p.info.Name] = true
		}
	}
	return nil
}

// enforce does what is to be done about one server.
func (m *Manager) enforce(ctx context.Context, p *putBack) error {
	name := p.info.Name
	if p.clear {
		if err := m.registry.ClearWarning(ctx, name, opscenter.WarningUpdateSettings); err != nil {
			return err
		}
		return m.told(ctx, p, &managedRow{Accepted: true})
	}
	if p.drift != "" {
		if err := m.registry.Warn(ctx, name, opscenter.Warned{Kind: opscenter.WarningUpdateSettings, Message: p.drift + "; it is put back"}); err != nil {
			return err
		}
	}
	// Intent first: whoever comes after a crash puts it back once more, which changes nothing.
	if err := m.told(ctx, p, &managedRow{Warned: p.drift != "" || p.warned}); err != nil {
		return err
	}
	d, err := m.readSection(ctx, p.info, SectionUpdate)
	if err != nil {
		return err
	}
	var config UpdateConfig
	if err := json.Unmarshal(d.Config, &config); err != nil {
		return err
	}
	config.AutoReboot, config.Channel, config.CheckFrequency = p.want.AutoReboot, p.want.Channel, p.want.CheckFrequency
	data, err := jsonkeep.Encode(config)
	if err != nil {
		return err
	}
	if err := m.os.WriteSystem(ctx, p.info.Target(), SectionUpdate, append(append([]byte(`{"config":`), data...), '}')); err != nil {
		return err
	}
	return m.registry.Write(ctx, func(tx *opscenter.Tx) error {
		reason := "update: set as those of a managed server"
		if p.drift != "" {
			reason = "update: put back: " + p.drift
		}
		row := &managedRow{ServerID: p.info.ID, Settings: p.want, At: now(), Accepted: true, Warned: p.drift != "" || p.warned}
		if err := managed.Put(tx, row); err != nil {
			return err
		}
		if err := tx.SetUpdateSettings(p.info, p.want); err != nil {
			return err
		}
		return tx.Record(opscenter.Event{At: now(), Kind: opscenter.EventConfigurationChange, Server: name, Reason: reason})
	})
}

// told stores what a server is told, or has accepted.
func (m *Manager) told(ctx context.Context, p *putBack, row *managedRow) error {
	row.ServerID, row.Settings, row.At = p.info.ID, p.want, now()
	return m.registry.Write(ctx, func(tx *opscenter.Tx) error { return managed.Put(tx, row) })
}
