package system

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"slices"
	"time"

	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/event"
	"github.com/opscenter-go/sdk/opscenter/network"
	"github.com/opscenter-go/sdk/storage"
)

// Status is how far a change is.
type Status string

const (
	// StatusSending: it is stored, and the server may have been asked, or not.
	StatusSending Status = "sending"
	// StatusWaiting: the server was asked, and is looked for.
	StatusWaiting Status = "waiting"
	// StatusConfirming: the server was found as it should be, and may have been told so, or not.
	StatusConfirming Status = "confirming"
	// StatusRollingBack: the server was not found as it should be in time, and undoes the change.
	StatusRollingBack Status = "rolling back"

	// Those below are final.

	// StatusDone: the server has its new configuration for good.
	StatusDone Status = "done"
	// StatusRolledBack: the server has its former configuration.
	StatusRolledBack Status = "rolled back"
	// StatusRefused: the server has refused the change.
	StatusRefused Status = "refused"
	// StatusNotSent: the server was not asked.
	StatusNotSent Status = "not sent"
	// StatusLost: the server is not seen any more.
	StatusLost Status = "lost"
)

// Statuses lists all of them.
var Statuses = []Status{StatusSending, StatusWaiting, StatusConfirming, StatusRollingBack, StatusDone, StatusRolledBack, StatusRefused, StatusNotSent, StatusLost}

// Final reports whether a change has ended.
func (s Status) Final() bool {
	return slices.Contains([]Status{StatusDone, StatusRolledBack, StatusRefused, StatusNotSent, StatusLost}, s)
}

// Change is a change of a server's configuration. There are no secrets in it.
type Change struct {
	ID string `json:"uuid"`
	// Server is its name at the time, Cluster that of its cluster; empty: none.
	Server   string `json:"server"`
	ServerID string `json:"server_id"`
	Cluster  string `json:"cluster,omitempty"`
	// Batch is the change of a whole cluster that this is a part of; empty: none.
	Batch string `json:"batch,omitempty"`
	// Section of the configuration, as network.
	Section string `json:"section"`
	// By is the principal who asked for it; empty: the embedding program itself.
	By     string `json:"by"`
	Status Status `json:"status"`
	// Reason says what is waited for, or why it ended so.
	Reason string `json:"reason"`
	// Differences are what changes; of the network only.
	Differences []network.Difference `json:"differences"`
	// Moves: the addresses the server is managed at change. OldURL is where it was reached
	// before, URL where it is reached after.
	Moves  bool   `json:"moves"`
	OldURL string `json:"old_connection_url"`
	URL    string `json:"connection_url,omitempty"`
	// Timeout after which the server undoes it by itself; 0: never.
	Timeout   time.Duration `json:"confirmation_timeout"`
	StartedAt time.Time     `json:"started_at"`
	SentAt    time.Time     `json:"sent_at,omitzero"`
	EndedAt   time.Time     `json:"ended_at,omitzero"`

	hidden expectations
}

// expectations are what a server is known by after a change.
type expectations struct {
	// Expected are the addresses it should be managed at; Dynamic: there may be others.
	Expected []string
	Dynamic  bool
	// Former are the addresses it was managed at before.
	Former []string
	// Wanted is the configuration, without its secrets.
	Wanted json.RawMessage
	// Applied: the server has said that it has taken the change on. Failed is what it said
	// instead, if it said that it has failed.
	Applied bool
	Failed  string
	// Confirming: it may have been told that all is well.
	Confirming bool
	// Events is the last one before the server was asked.
	Events      uint64
	Fingerprint string // of the server then
	MachineID   string
	MemberName  string
	Member      string // its status before
	Before      digest // of the configuration
	Owner       string // of the claim
	Claimed     bool
	Audit       string
	// ProvenAt is when a server that has said nothing, and is at its new address, is done with the change.
	ProvenAt time.Time
	// Seen: it was seen in the end, at Change.URL if it moves, where a change is lost all the same.
	Seen bool
	// ConfirmBy is until when it may be confirmed, RollBackAt when the server begins to undo it at
	// the latest, GiveUpAt when it is not looked for any longer.
	ConfirmBy  time.Time
	RollBackAt time.Time
	GiveUpAt   time.Time
}

// changeRow is a change as it is stored.
type changeRow struct {
	Change Change
	Hidden expectations
}

func (c *Change) row() *changeRow { return &changeRow{*c, c.hidden} }

func (r *changeRow) change() *Change {
	out := r.Change
	out.hidden = r.Hidden
	return &out
}

var (
	changes = storage.NewTable("system_changes", func(r *changeRow) storage.Key { return storage.StringKey(r.Change.ID) })
	// changesByEnd: those that are open first, and then by their ends.
	changesByEnd    = changes.Index("end", func(r *changeRow) []storage.Key { return []storage.Key{endKey(r.Change.EndedAt)} })
	changesByServer = changes.Index("server", func(r *changeRow) []storage.Key { return []storage.Key{storage.StringKey(r.Change.ServerID)} })

	batches      = storage.NewTable("system_batches", func(b *Batch) storage.Key { return storage.StringKey(b.ID) })
	batchesByEnd = batches.Index("end", func(b *Batch) []storage.Key { return []storage.Key{endKey(b.EndedAt)} })

	resets  = storage.NewTable("system_resets", func(r *reset) storage.Key { return storage.StringKey(r.ServerID) }).Secret()
	managed = storage.NewTable("system_managed", func(r *managedRow) storage.Key { return storage.StringKey(r.ServerID) })
)

func schemas() []*storage.TableSchema {
	return []*storage.TableSchema{changes.Schema(), batches.Schema(), resets.Schema(), managed.Schema()}
}

func endKey(at time.Time) storage.Key {
	if at.IsZero() {
		return storage.UintKey(0)
	}
	return storage.UintKey(uint64(max(1, at.UnixNano())))
}

// Change returns a change, or opscenter.ErrNotFound.
func (m *Manager) Change(ctx context.Context, id string) (out *Change, err error) {
	err = m.registry.Read(ctx, func(s *opscenter.Snapshot) error {
		row, err := changes.Find(s, storage.StringKey(id))
		if err == nil && row == nil {
			err = fmt.Errorf("change %.40q: %w", id, opscenter.ErrNotFound)
		}
		if err == nil {
			out = row.change()
		}
		return err
	})
	return out, err
}

// MaxPage bounds what one call of Changes or Batches returns, DefaultPage is how much it does.
const (
	MaxPage     = 1000
	DefaultPage = 100
)

// Changes returns the changes of a server, or with an empty name of all, the newest first.
// Before is the ID of the last one of the page before; limit 0: 100, at most 1000.
func (m *Manager) Changes(ctx context.Context, server, before string, limit int) (out []*Change, err error) {
	err = m.registry.Read(ctx, func(s *opscenter.Snapshot) error {
		out = nil
		scan, within := changes.Scan, storage.Range{Reverse: true}
		if server != "" {
			info, err := s.Server(server)
			if err != nil {
				return err
			}
			scan, within.Prefix = changesByServer.Scan, storage.StringKey(info.ID)
		}
		for row, err := range scan(s, within) {
			if err != nil {
				return err
			}
			if before != "" && row.Change.ID >= before {
				continue
			}
			if out = append(out, row.change()); len(out) == page(limit) {
				break
			}
		}
		return nil
	})
	return out, err
}

func page(limit int) int {
	if limit <= 0 {
		return DefaultPage
	}
	return min(limit, MaxPage)
}

// WatchChanges yields each change as it is now and whenever it moves on, those that are open
// at first. It ends with ctx's error.
func (m *Manager) WatchChanges(ctx context.Context) iter.Seq2[*Change, error] {
	return func(yield func(*Change, error) bool) {
		open, revision, err := m.open(ctx)
		if err != nil {
			yield(nil, err)
			return
		}
		for _, c := range open {
			if !yield(c, nil) {
				return
			}
		}
		for batch, err := range m.registry.Store().Watch(ctx, revision, changes.Name()) {
			if err != nil {
				yield(nil, err)
				return
			}
			var list []*Change
			if batch.Reset {
				list, err = m.Changes(ctx, "", "", MaxPage)
			}
			for _, changed := range batch.Changes {
				id, _ := changed.Key.FirstString()
				c, found := m.Change(ctx, id)
				switch {
				case found == nil:
					list = append(list, c)
				case !errors.Is(found, opscenter.ErrNotFound):
					err = found
				}
			}
			if err != nil {
				yield(nil, err)
				return
			}
			for _, c := range list {
				if !yield(c, nil) {
					return
				}
			}
		}
	}
}

// open returns the changes that have not ended.
func (m *Manager) open(ctx context.Context) (out []*Change, revision uint64, err error) {
	err = m.registry.Read(ctx, func(s *opscenter.Snapshot) error {
		out, revision = nil, s.Revision()
		for row, err := range changesByEnd.Scan(s, storage.Range{Prefix: storage.UintKey(0)}) {
			if err != nil {
				return err
			}
			out = append(out, row.change())
		}
		return nil
	})
	return out, revision, err
}

// store stores a change as it is now, and says so.
func (m *Manager) store(ctx context.Context, c *Change) error {
	return m.registry.Write(ctx, func(tx *opscenter.Tx) error { return m.put(tx, c) })
}

func (m *Manager) put(tx *opscenter.Tx, c *Change) error {
	known, err := changes.Find(tx, storage.StringKey(c.ID))
	if err != nil {
		return err
	}
	if err := changes.Put(tx, c.row()); err != nil {
		return err
	}
	if known != nil && known.Change.Status == c.Status {
		return nil
	}
	return tx.Record(event.Event{At: now(), Kind: event.ConfigurationChange, Server: c.Server, Cluster: c.Cluster,
		Reason: fmt.Sprintf("%s: %s: %s", c.Section, c.Status, c.Reason)})
}

// end stores a change that has ended, with all that goes with that.
func (m *Manager) end(ctx context.Context, c *Change, status Status, url, reason string) error {
	ended := *c // and c is what is stored
	ended.Status, ended.Reason, ended.URL, ended.EndedAt = status, reason, url, now()
	err := m.registry.Write(ctx, func(tx *opscenter.Tx) error {
		if err := m.put(tx, &ended); err != nil {
			return err
		}
		if c.hidden.Claimed {
			if err := release(tx, c.hidden.Owner, c.ServerID, c.Cluster); err != nil {
				return err
			}
		}
		server, err := tx.Snapshot().ServerByID(c.ServerID)
		if errors.Is(err, opscenter.ErrNotFound) { // removed by force
			return m.options.Audit.EndIn(tx, c.hidden.Audit, ended.Err())
		}
		if err != nil {
			return err
		}
		if url != "" {
			if err := tx.Move(server, url, "found there after a change of its network"); err != nil {
				return err
			}
		}
		if err := m.options.Audit.EndIn(tx, c.hidden.Audit, ended.Err()); err != nil {
			return err
		}
		if err := tx.End(server, c.ID, ended.Err()); err != nil {
			return err
		}
		if status == StatusLost && c.Section == "network" && !c.hidden.Seen && (c.hidden.Fingerprint == "" || server.Fingerprint == c.hidden.Fingerprint) {
			return tx.Lose(server, "not seen any more after a change of its network")
		}
		return nil
	})
	if err != nil {
		return err
	}
	*c = ended
	m.acted(c)
	m.prune(ctx)
	return nil
}

// release gives back the claim of a server, or its cluster.
func release(tx *opscenter.Tx, owner, serverID, cluster string) error {
	if cluster != "" {
		return tx.Release(owner, cluster, true)
	}
	return tx.Release(owner, serverID, false)
}

// prune drops the oldest changes, and those of whole clusters, that are over the limit. It looks
// for them beside all writers. What a batch that goes on is made of stays.
func (m *Manager) prune(ctx context.Context) {
	var old, oldBatches []storage.Key
	err := m.registry.Read(ctx, func(s *opscenter.Snapshot) error {
		old, oldBatches = nil, nil
		kept := 0
		for row, err := range changesByEnd.Scan(s, storage.Range{Reverse: true}) {
			if err != nil {
				return err
			}
			if row.Change.EndedAt.IsZero() {
				break // those that are open come last
			}
			if kept++; kept <= m.options.MaxChanges {
				continue
			}
			if id := row.Change.Batch; id != "" {
				if b, err := batches.Find(s, storage.StringKey(id)); err != nil || b != nil && b.EndedAt.IsZero() {
					if err != nil {
						return err
					}
					continue
				}
			}
			old = append(old, storage.StringKey(row.Change.ID))
		}
		kept = 0
		for b, err := range batchesByEnd.Scan(s, storage.Range{Reverse: true}) {
			if err != nil {
				return err
			}
			if b.EndedAt.IsZero() {
				break
			}
			if kept++; kept > m.options.MaxChanges {
				oldBatches = append(oldBatches, storage.StringKey(b.ID))
			}
		}
		return nil
	})
	if err == nil && len(old)+len(oldBatches) > 0 {
		err = m.registry.Write(ctx, func(tx *opscenter.Tx) error {
			for _, key := range old[:min(len(old), pruneStep)] {
				if err := changes.Delete(tx, key); err != nil && !errors.Is(err, storage.ErrNotFound) {
					return err
				}
			}
			for _, key := range oldBatches[:min(len(oldBatches), pruneStep)] {
				if err := batches.Delete(tx, key); err != nil && !errors.Is(err, storage.ErrNotFound) {
					return err
				}
			}
			return nil
		})
	}
	if err != nil && ctx.Err() == nil {
		m.log.WarnContext(ctx, "old changes could not be dropped", "error", err) // the next one does
	}
}

// pruneStep bounds what is dropped at a time.
const pruneStep = 200

// Err says how a change ended, as an error; nil: it is done, or goes on.
func (c *Change) Err() error {
	var kind error
	switch c.Status {
	case StatusRolledBack:
		kind = ErrRolledBack
	case StatusRefused:
		kind = opscenter.ErrRefused
	case StatusNotSent:
		kind = opscenter.ErrUnreachable
		if c.Reason == conflict {
			kind = opscenter.ErrPrecondition
		}
	case StatusLost:
		kind = ErrLost
	default:
		return nil
	}
	return fmt.Errorf("%s of server %q: %w: %s", c.Section, c.Server, kind, c.Reason)
}

const conflict = "somebody else has changed it meanwhile"
