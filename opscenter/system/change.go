package system

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"slices"
	"time"

	"github.com/opscenter-go/sdk/internal/page"
	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/event"
	"github.com/opscenter-go/sdk/opscenter/network"
	"github.com/opscenter-go/sdk/storage"
)

// Status is the progress of a change.
type Status string

const (
	// StatusSending: the change is stored. The request to the server may have been sent, or not.
	StatusSending Status = "sending"
	// StatusWaiting: the server was asked, and is probed.
	StatusWaiting Status = "waiting"
	// StatusConfirming: the server was found as it should be. The confirmation may have been sent, or not.
	StatusConfirming Status = "confirming"
	// StatusRollingBack: the change was not confirmed in time, and the server undoes it.
	StatusRollingBack Status = "rolling back"

	// The statuses below are final.

	// StatusDone: the server has its new configuration for good.
	StatusDone Status = "done"
	// StatusRolledBack: the server has its former configuration.
	StatusRolledBack Status = "rolled back"
	// StatusRefused: the server refused the change.
	StatusRefused Status = "refused"
	// StatusNotSent: the server was not asked.
	StatusNotSent Status = "not sent"
	// StatusLost: the outcome is not known, see ErrLost.
	StatusLost Status = "lost"
)

// Statuses lists all statuses. Read it, never modify it.
var Statuses = []Status{StatusSending, StatusWaiting, StatusConfirming, StatusRollingBack, StatusDone, StatusRolledBack, StatusRefused, StatusNotSent, StatusLost}

// Final reports whether a change with this status has ended.
func (s Status) Final() bool {
	return slices.Contains([]Status{StatusDone, StatusRolledBack, StatusRefused, StatusNotSent, StatusLost}, s)
}

// Change is a change of a server's configuration. It has no secrets.
type Change struct {
	// ID is a UUID, version 7.
	ID string `json:"uuid"`
	// Server is the name of the server at the time of the change. Cluster is that of its cluster; empty: none.
	Server   string `json:"server"`
	ServerID string `json:"server_id"`
	Cluster  string `json:"cluster,omitempty"`
	// Batch is the ID of the Batch to which the change belongs. Empty: none.
	Batch string `json:"batch,omitempty"`
	// Section is the changed part of the configuration: "network", or one of the Section constants.
	Section string `json:"section"`
	// By is the principal that asked for the change. Empty: the embedding program itself.
	By     string `json:"by"`
	Status Status `json:"status"`
	// Reason says for people why the change has this status.
	Reason string `json:"reason"`
	// Differences are the changed settings. It is filled for the network only.
	Differences []network.Difference `json:"differences"`
	// Moves: the management addresses of the server change. OldURL is the connection URL before the
	// change, URL the one after it. URL is empty if the change does not set it.
	Moves  bool   `json:"moves"`
	OldURL string `json:"old_connection_url"`
	URL    string `json:"connection_url,omitempty"`
	// Timeout is the time after which the server undoes an unconfirmed change, in nanoseconds in JSON. 0: never.
	Timeout time.Duration `json:"confirmation_timeout"`
	// StartedAt, SentAt and EndedAt are in UTC. SentAt is zero before the server is asked, EndedAt
	// before the change has ended.
	StartedAt time.Time `json:"started_at"`
	SentAt    time.Time `json:"sent_at,omitzero"`
	EndedAt   time.Time `json:"ended_at,omitzero"`

	hidden expectations
}

// expectations are the facts by which follow judges the server after a change.
type expectations struct {
	// Expected are the management addresses after the change. Dynamic: the server may get others by DHCP or the like.
	Expected []string
	Dynamic  bool
	// Former are the management addresses before the change.
	Former []string
	// Wanted is the configuration, without its secrets.
	Wanted json.RawMessage
	// Applied: the server answered that it has accepted the change. Failed is its answer if it reported a failure.
	Applied bool
	Failed  string
	// Confirming: a confirmation may have been sent.
	Confirming bool
	// Events is the sequence number of the last event before the server was asked.
	Events      uint64
	Fingerprint string // of the server before the change
	MachineID   string
	MemberName  string
	Member      string // status in the Incus cluster before the change
	Before      digest // of the configuration before the change
	Owner       string // of the claim
	Claimed     bool
	Audit       string
	// ProvenAt is the time from which a server at its new address has applied the change, even without a report.
	ProvenAt time.Time
	// Seen: the change is lost, but the last probe found the server, at Change.URL if the change moves it.
	Seen bool
	// ConfirmBy is the latest time for a confirmation. RollBackAt is the latest time at which the server begins to
	// undo the change. GiveUpAt is the time of the last probe.
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
	// changesByEnd holds the open changes first, then the others by their ends.
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

// endKey sorts zero, which is open, before all ends.
func endKey(at time.Time) storage.Key {
	if at.IsZero() {
		return storage.UintKey(0)
	}
	return storage.UintKey(uint64(max(1, at.UnixNano())))
}

// Change returns the change with an ID. Errors: opscenter.ErrNotFound.
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

// MaxPage bounds the entries that one call of Changes or Batches returns. DefaultPage is the default limit.
const (
	MaxPage     = page.MaxSize
	DefaultPage = page.DefaultSize
)

// Changes returns the changes of a server, the newest first. An empty name selects all servers. To read the next page,
// set before to the ID of the last Change of the page; empty: from the newest. limit bounds the page: 0 is 100, and at
// most 1000 are returned. Errors: opscenter.ErrNotFound for an unknown server.
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
			if out = append(out, row.change()); len(out) == page.Size(limit) {
				break
			}
		}
		return nil
	})
	return out, err
}

// WatchChanges yields all open changes, and then each change again whenever it is stored. A reader that falls far
// behind gets the newest 1000 changes instead of those it missed. WatchChanges ends with an error: that
// of ctx or of the store.
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

// store stores a change, with an event if its status is new.
func (m *Manager) store(ctx context.Context, c *Change) error {
	return m.registry.Write(ctx, func(tx *opscenter.Tx) error { return m.put(tx, c) })
}

// put is store in a transaction.
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
	return tx.Record(event.Event{At: tx.Now(), Kind: event.ConfigurationChange, Server: c.Server, Cluster: c.Cluster,
		Reason: fmt.Sprintf("%s: %s: %s", c.Section, c.Status, c.Reason)})
}

// end stores the end of a change. It also ends its operation, claim and audit entry, and moves the server to url.
func (m *Manager) end(ctx context.Context, c *Change, status Status, url, reason string) error {
	ended := *c // c stays as it is stored until the transaction succeeds
	ended.Status, ended.Reason, ended.URL = status, reason, url
	err := m.registry.Write(ctx, func(tx *opscenter.Tx) error {
		ended.EndedAt = tx.Now()
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
			return tx.MarkLost(server, "not found any more after a change of its network")
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

// release releases the claim on a server, or on its cluster.
func release(tx *opscenter.Tx, owner, serverID, cluster string) error {
	if cluster != "" {
		return tx.Release(owner, cluster, true)
	}
	return tx.Release(owner, serverID, false)
}

// prune drops the oldest ended changes and batches beyond Options.MaxChanges. It reads them in a snapshot, so it
// delays no writer. The changes of an open batch stay.
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
				break // the open changes come last
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
		step := storage.LimitsOf(m.registry.Store()).Rows(pruneStep, 5) // a change has two index entries, a batch has one
		err = m.registry.Write(ctx, func(tx *opscenter.Tx) error {
			for _, key := range old[:min(len(old), step)] {
				if err := changes.Delete(tx, key); err != nil && !errors.Is(err, storage.ErrNotFound) {
					return err
				}
			}
			for _, key := range oldBatches[:min(len(oldBatches), step)] {
				if err := batches.Delete(tx, key); err != nil && !errors.Is(err, storage.ErrNotFound) {
					return err
				}
			}
			return nil
		})
	}
	if err != nil && ctx.Err() == nil {
		m.log.WarnContext(ctx, "old changes could not be dropped", "error", err) // the next call drops them
	}
}

// pruneStep bounds the rows of a kind that one transaction drops. The store's limits may allow fewer.
const pruneStep = 200

// Err returns the end of a change as an error: ErrRolledBack, opscenter.ErrRefused, ErrLost, or for StatusNotSent
// opscenter.ErrUnreachable or opscenter.ErrPrecondition. Nil: the change is done, or under way.
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

// conflict is the reason of a change that was not sent because the configuration had changed since it was read.
const conflict = "another client has changed the configuration meanwhile"
