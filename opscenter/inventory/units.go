package inventory

import (
	"context"
	"errors"
	"time"

	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
	"github.com/opscenter-go/sdk/storage"
)

// roster is which server belongs to which unit.
type roster struct {
	units   map[string]string          // ID of the unit, by name of the server
	members map[string]map[string]bool // names of the servers, by ID of the unit
	cluster map[string]bool            // whether the unit is a cluster
}

func newRoster() *roster {
	return &roster{units: map[string]string{}, members: map[string]map[string]bool{}, cluster: map[string]bool{}}
}

// set notes the unit of a server; empty: none.
func (r *roster) set(server, unit string, cluster bool) (before string) {
	before = r.units[server]
	if before == unit {
		return before
	}
	if before != "" {
		delete(r.members[before], server)
		delete(r.units, server)
	}
	if unit != "" {
		r.units[server], r.cluster[unit] = unit, cluster
		if r.members[unit] == nil {
			r.members[unit] = map[string]bool{}
		}
		r.members[unit][server] = true
	}
	return before
}

// unitOf returns the unit of a server: its cluster, or itself. Servers that are not known to
// run Incus are in none.
func unitOf(s *opscenter.Snapshot, info *opscenter.ServerInfo) (unit string, cluster bool, err error) {
	if info.State.Type != lifecycle.TypeIncus || info.Certificate == "" {
		return "", false, nil
	}
	if info.Cluster == "" {
		return info.ID, false, nil
	}
	c, err := s.Cluster(info.Cluster)
	if err != nil {
		return "", false, err
	}
	return c.ID, true, nil
}

// Run keeps the inventory current, until ctx ends, and returns its error then. All that it
// began has ended when it returns. Errors: ErrRunning, and the store's.
func (m *Manager) Run(ctx context.Context) error {
	if !m.running.TryLock() {
		return ErrRunning
	}
	defer m.running.Unlock()
	defer func() {
		m.mu.Lock()
		workers := m.workers
		m.workers = map[string]*worker{}
		m.mu.Unlock()
		for _, w := range workers {
			w.stop()
		}
		for _, w := range workers {
			<-w.ended
		}
		m.purging.Wait()
	}()
	if err := m.trim(ctx); err != nil {
		return err
	}
	roster := newRoster()
	for ctx.Err() == nil {
		revision, err := m.registry.Revision(ctx)
		if err == nil {
			err = m.load(ctx, roster)
		}
		if err == nil {
			err = m.watch(ctx, roster, revision)
		}
		if errors.Is(err, storage.ErrClosed) {
			return err
		}
		if ctx.Err() == nil {
			m.log.ErrorContext(ctx, "the registry could not be followed, and is read again", "error", err)
		}
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
		}
	}
	return ctx.Err()
}

// watch follows the registry until something goes wrong.
func (m *Manager) watch(ctx context.Context, roster *roster, revision uint64) error {
	for changed, err := range m.registry.Watch(ctx, revision) {
		if err == nil {
			err = m.follow(ctx, roster, &changed)
		}
		if err != nil {
			return err
		}
	}
	return ctx.Err()
}

// load reads which units there are, and lets go of those that are no more.
func (m *Manager) load(ctx context.Context, r *roster) error {
	gone := map[string]bool{}
	for name := range r.units {
		gone[name] = true
	}
	var old []string
	err := m.registry.Read(ctx, func(s *opscenter.Snapshot) error {
		old = nil
		for info, err := range s.Servers(opscenter.ServerFilter{}) {
			if err != nil {
				return err
			}
			unit, cluster, err := unitOf(s, info)
			if err != nil {
				return err
			}
			delete(gone, info.Name)
			r.set(info.Name, unit, cluster)
		}
		for u, err := range units.Scan(s, storage.Range{}) {
			if err != nil {
				return err
			}
			old = append(old, u.ID)
		}
		return nil
	})
	if err != nil {
		return err
	}
	for name := range gone {
		r.set(name, "", false)
	}
	m.mu.Lock()
	for id := range m.workers { // those that should have ended before
		old = append(old, id)
	}
	m.mu.Unlock()
	for _, id := range old {
		if len(r.members[id]) == 0 {
			m.end(ctx, r, id)
		}
	}
	for id := range r.members {
		m.settle(ctx, r, id)
	}
	return nil
}

// follow takes in what changed in the registry.
func (m *Manager) follow(ctx context.Context, r *roster, changed *opscenter.Changes) error {
	if changed.Reset {
		return m.load(ctx, r)
	}
	touched := map[string]bool{}
	err := m.registry.Read(ctx, func(s *opscenter.Snapshot) error {
		for _, name := range changed.Servers {
			info, err := s.Server(name)
			unit, cluster := "", false
			if err == nil {
				unit, cluster, err = unitOf(s, info)
			} else if errors.Is(err, opscenter.ErrNotFound) {
				err = nil
			}
			if err != nil {
				return err
			}
			touched[r.set(name, unit, cluster)], touched[unit] = true, true
		}
		return nil
	})
	if err != nil {
		return err
	}
	delete(touched, "")
	for id := range touched {
		m.settle(ctx, r, id)
	}
	return nil
}

// settle makes sure that a unit with servers has a worker that knows them, and one without
// has none, and no objects.
func (m *Manager) settle(ctx context.Context, r *roster, id string) {
	if len(r.members[id]) == 0 {
		m.end(ctx, r, id)
		return
	}
	m.mu.Lock()
	w := m.workers[id]
	if w == nil {
		w = newWorker(m, id, r.cluster[id])
		m.workers[id] = w
		defer w.start(ctx)
	}
	m.mu.Unlock()
	w.setMembers(r.members[id])
}

// end ends the worker of a unit that has no servers any more, and has its objects removed.
func (m *Manager) end(ctx context.Context, r *roster, id string) {
	m.mu.Lock()
	w := m.workers[id]
	delete(m.workers, id)
	m.mu.Unlock()
	if w != nil {
		w.stop()
		<-w.ended
	}
	delete(r.members, id)
	delete(r.cluster, id)
	m.purgeLater(ctx, id)
}

// slots bounds scans. One that is slow moves out of the way of the others.
type slots struct{ fast, slow chan struct{} }

func newSlots(o Options) slots {
	return slots{fast: make(chan struct{}, o.MaxScans), slow: make(chan struct{}, o.MaxSlowScans)}
}

// acquire waits for a slot. after is how long it may be held before it is slow.
func (s slots) acquire(ctx context.Context, after time.Duration) (release func(), err error) {
	select {
	case s.fast <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	done, moved := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(moved)
		timer := time.NewTimer(after)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-done:
			<-s.fast
			return
		}
		select {
		case s.slow <- struct{}{}:
			<-s.fast
			<-done
			<-s.slow
		case <-done:
			<-s.fast
		}
	}()
	return func() {
		close(done)
		<-moved
	}, nil
}
