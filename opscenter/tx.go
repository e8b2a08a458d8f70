package opscenter

import (
	"context"
	"fmt"
	"iter"
	"log/slog"
	"time"

	"github.com/opscenter-go/sdk/internal/truncate"
	"github.com/opscenter-go/sdk/opscenter/event"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
	"github.com/opscenter-go/sdk/opscenter/rolling"
	"github.com/opscenter-go/sdk/storage"
)

// Tx is a write transaction. It is the only way to write to the tables of the Registry. Packages that build on the
// Registry store rows of their own tables in it, too. All of its writes are committed together, or none.
//
// A Tx must not be used after its function returned, or by several goroutines at once.
type Tx struct {
	storage.WriteTx
	registry *Registry
	at       time.Time
	acting   map[string]bool // servers that this process acts on before the commit, of all runs of fn
	begun    map[string]bool // those of this run
	events   []event.Event
	names    []string // of the members that eachMember changed last
	followed bool     // the transaction wrote a table that the presence follows
	// committed are called after the commit.
	committed []func()
}

// Write runs fn in a transaction: all of its writes are stored, or none. fn may run more than once, as
// storage.Store.Update says. When Write has returned, the events of fn are logged, and counts and contacts show the
// change. Errors: those of fn and of the store.
func (r *Registry) Write(ctx context.Context, fn func(*Tx) error) error {
	var acting map[string]bool
	var tx *Tx
	err := r.store.Update(ctx, func(w storage.WriteTx) error {
		tx = &Tx{WriteTx: w, registry: r, at: r.now(), acting: acting}
		err := fn(tx)
		acting = tx.acting
		return err
	})
	if err == nil && tx.followed {
		r.follow(ctx)
	}
	for id, known := range acting {
		if err == nil && tx.begun[id] {
			if !known { // another Registry has registered it; now it is known here
				r.beginActing(id)
			}
			r.doubt(id) // after the last run: fn may depend on it
		} else if known {
			r.endActing(id)
		}
	}
	if err != nil {
		return err
	}
	for _, do := range tx.committed {
		do()
	}
	for _, e := range tx.events {
		r.log.Log(ctx, levelOf(e.Kind), string(e.Kind), "server", e.Server, "cluster", e.Cluster, "reason", e.Reason)
	}
	if r.eventsDue.Appended(len(tx.events)) {
		if err := r.trimEvents(context.WithoutCancel(ctx)); err != nil {
			r.log.ErrorContext(ctx, "surplus events could not be deleted, and stay until the next flush", "error", err)
		}
	}
	return nil
}

// levelOf is the level at which an event is logged.
func levelOf(kind event.Kind) slog.Level {
	switch kind {
	case event.RegistrationRefused, event.WarningRaised, event.ClockJumped:
		return slog.LevelWarn
	}
	return slog.LevelInfo
}

// Put implements storage.WriteTx.
func (t *Tx) Put(table *storage.TableSchema, row any) error {
	t.followed = t.followed || isFollowed(table.Name)
	return t.WriteTx.Put(table, row)
}

// Delete implements storage.WriteTx.
func (t *Tx) Delete(table *storage.TableSchema, key storage.Key) error {
	t.followed = t.followed || isFollowed(table.Name)
	return t.WriteTx.Delete(table, key)
}

// Snapshot returns a Snapshot that shows the writes of the transaction, too.
func (t *Tx) Snapshot() *Snapshot { return &Snapshot{ReadTx: t, registry: t.registry} }

// Now is the time of the Registry's clock when this run of fn began, as times are stored: in UTC, without a monotonic
// reading. It stays the same during a run.
func (t *Tx) Now() time.Time { return t.at }

// act records that this process acts on a server, before the commit.
func (t *Tx) act(id string) {
	if t.begun == nil {
		t.begun = map[string]bool{}
	}
	if t.acting == nil {
		t.acting = map[string]bool{}
	}
	t.begun[id] = true
	if _, done := t.acting[id]; !done {
		t.acting[id] = t.registry.beginActing(id)
	}
}

func (r *Registry) beginActing(id string) (known bool) {
	return r.presence.Change(id, func(c *lifecycle.Contact) { c.Acting++ })
}

func (r *Registry) endActing(id string) {
	r.presence.Change(id, func(c *lifecycle.Contact) { c.Acting = max(0, c.Acting-1) })
}

// doubt resets the count of good polls: later polls must find the server good again.
func (r *Registry) doubt(id string) {
	r.presence.Change(id, func(c *lifecycle.Contact) { c.Good = 0 })
}

// putState stores a state under its name.
func (t *Tx) putState(next *lifecycle.ServerState) error { return states.Put(t, next) }

// modifyState changes a state.
func (t *Tx) modifyState(name string, change func(*lifecycle.ServerState) error) error {
	return states.Modify(t, nameKey(name), change)
}

// requestPoll asks for a poll out of turn. moved: the server has another address, and polls that began before do not
// count.
func (t *Tx) requestPoll(name string, at time.Time, moved bool) error {
	return t.modifyState(name, func(s *lifecycle.ServerState) error {
		s.PollRequested = at
		if moved {
			s.NotBefore = at
		}
		return nil
	})
}

// Snapshot is the stored rows at one moment. It must not be used after its function returned.
type Snapshot struct {
	storage.ReadTx
	registry *Registry
}

// Read runs fn on a snapshot. Errors: those of fn and of the store.
func (r *Registry) Read(ctx context.Context, fn func(*Snapshot) error) error {
	return r.store.View(ctx, func(tx storage.ReadTx) error { return fn(&Snapshot{ReadTx: tx, registry: r}) })
}

// ServerByID returns a server by its ID. Errors: ErrNotFound.
func (s *Snapshot) ServerByID(id string) (*ServerInfo, error) { return s.find("", id) }

// Server returns a server by its name. Errors: ErrNotFound.
func (s *Snapshot) Server(name string) (*ServerInfo, error) { return s.find(name, "") }

func (s *Snapshot) find(name, id string) (*ServerInfo, error) {
	var server *Server
	var err error
	if id != "" {
		server, err = byID.Find(s, storage.StringKey(id))
		name = id
	} else {
		server, err = servers.Find(s, nameKey(name))
	}
	if err == nil && server == nil {
		err = fmt.Errorf("server %q: %w", truncate.Name(name), ErrNotFound)
	}
	if err != nil {
		return nil, err
	}
	return s.registry.load(s, server)
}

// Servers yields the servers that match, by name. Errors: ErrInvalidFilter.
func (s *Snapshot) Servers(filter ServerFilter) iter.Seq2[*ServerInfo, error] {
	return s.registry.scan(context.Background(), s, filter, Page{})
}

// Cluster returns a cluster by its name. Errors: ErrNotFound.
func (s *Snapshot) Cluster(name string) (*Cluster, error) {
	cluster, err := clusters.Get(s, nameKey(name))
	return cluster, notFound("cluster", name, err)
}

// Clusters yields the clusters, by name.
func (s *Snapshot) Clusters() iter.Seq2[*Cluster, error] { return clusters.Scan(s, rangeAll) }

// ClaimOf returns the claim on a cluster by its name, or on a server in no cluster by its ID. nil: there is none.
func (s *Snapshot) ClaimOf(unit string, cluster bool) (*Claim, error) {
	return claims.Find(s, claimKey(unit, cluster))
}

// Free returns an error while another operation is under way on a server or its cluster: ErrNotReady for an operation on
// the server itself, ErrBusy for a claim.
func (s *Snapshot) Free(info *ServerInfo) error {
	if op := info.State.Operation; op != nil {
		return fmt.Errorf("server %q: %s is under way: %w", info.Name, op.Action, ErrNotReady)
	}
	unit, cluster := info.ID, false
	if info.Cluster != "" {
		unit, cluster = info.Cluster, true
	}
	claim, err := s.ClaimOf(unit, cluster)
	if err == nil && claim != nil {
		err = fmt.Errorf("server %q: %s is under way: %w", info.Name, claim.What, ErrBusy)
	}
	return err
}

// Rolling returns the server in the form in which package rolling decides about it.
func (i *ServerInfo) Rolling() *rolling.Server {
	s := &i.State
	out := &rolling.Server{Plain: s.Versions.OS.Plain, Name: i.Name, ID: i.ID, Cluster: i.Cluster, Channel: i.Channel, Properties: i.Properties, Incus: s.Type == lifecycle.TypeIncus,
		Ready: s.Status == lifecycle.StatusReady && s.StatusDetail == lifecycle.DetailNone && s.Operation == nil, Online: s.Status == lifecycle.StatusReady,
		Condition: lifecycle.Describe(s.Status, s.StatusDetail), Running: s.Versions.OS.Version, NeedsReboot: s.Versions.NeedsReboot(),
		Available: i.Available, SecureBootKeys: i.SecureBootKeys, BootedAt: s.BootedAt, Evacuated: s.Maintenance == lifecycle.MaintenanceEvacuated, Took: s.Took, Good: i.GoodPolls}
	out.Moving = s.Maintenance == lifecycle.MaintenanceEvacuating || s.Maintenance == lifecycle.MaintenanceRestoring || s.Stopped != nil && !out.Evacuated
	if out.Ready && i.Cluster != "" && s.MemberName == "" {
		// Without its member name it would count as a server in no cluster, and its instances would be stopped.
		out.Ready, out.Condition = false, "ready, and not known to be a member of its cluster"
	}
	out.Staged, out.Skipped = s.Versions.OS.StagedVersion(), s.Versions.OS.Skipped()
	if n := len(s.Versions.Applications); n > 0 || s.Versions.OS.Version != "" {
		out.Versions = make(map[string]string, n+1)
		if have, ok := s.Versions.Staged(lifecycle.ComponentOS); ok {
			out.Versions[lifecycle.ComponentOS] = have
		}
		for k := range s.Versions.Applications {
			out.Versions[s.Versions.Applications[k].Name] = s.Versions.Applications[k].Version
		}
	}
	for _, role := range s.MemberRoles {
		out.Voter = out.Voter || role == "database" || role == "database-leader"
	}
	out.RolesKnown = s.MemberRoles != nil
	if op := s.Operation; op != nil {
		out.Operation = &rolling.Operation{ID: op.ID, Action: op.Action, Deadline: op.Deadline}
	}
	if last := s.LastOperation; last != nil {
		out.Last = &rolling.Outcome{ID: last.ID, Action: last.Action, EndedAt: last.EndedAt, Failed: last.Failed}
	}
	return out
}

// Claim reserves a cluster, or a server in no cluster, for one operation at a time.
type Claim struct {
	Unit    string // name of the cluster, or ID of the server
	Cluster bool
	Owner   string // ID of the rollout
	// What is the name of the operation. Errors of other callers contain it.
	What  string
	Since time.Time
}

// claimKey keeps clusters and servers apart. The key of a server is its ID, because it may be renamed.
func claimKey(unit string, cluster bool) storage.Key {
	if cluster {
		return storage.StringKey("cluster").Str(unit)
	}
	return storage.StringKey("server").Str(unit)
}

// Claim reserves a cluster, or a server in no cluster. The same owner may repeat it. Errors: ErrBusy if another owner has
// a claim.
func (t *Tx) Claim(claim Claim) error {
	known, err := claims.Find(t, claimKey(claim.Unit, claim.Cluster))
	if err != nil {
		return err
	}
	if known != nil && known.Owner != claim.Owner {
		return known.busy()
	}
	return claims.Put(t, &claim)
}

func (c *Claim) busy() error {
	return fmt.Errorf("%s is under way since %s (%s): %w", c.What, c.Since.Format(time.RFC3339), c.Owner, ErrBusy)
}

// Release removes the claim of an owner. It ignores claims of other owners.
func (t *Tx) Release(owner, unit string, cluster bool) error {
	known, err := claims.Find(t, claimKey(unit, cluster))
	if err != nil || known == nil || known.Owner != owner {
		return err
	}
	return claims.Delete(t, claimKey(unit, cluster))
}

// claimed returns ErrBusy if another owner has claimed a server or its cluster.
func (t *Tx) claimed(info *ServerInfo, owner string) error {
	unit, cluster := info.ID, false
	if info.Cluster != "" {
		unit, cluster = info.Cluster, true
	}
	return claimedBy(t, unit, cluster, owner)
}

func claimedBy(tx storage.ReadTx, unit string, cluster bool, owner string) error {
	known, err := claims.Find(tx, claimKey(unit, cluster))
	if err != nil || known == nil || known.Owner == owner {
		return err
	}
	return fmt.Errorf("%q: %w", unit, known.busy())
}
