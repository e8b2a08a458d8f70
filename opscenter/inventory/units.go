package inventory

import (
	"context"
	"errors"
	"time"

	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
	"github.com/opscenter-go/sdk/opscenter/warning"
	"github.com/opscenter-go/sdk/storage"
)

// roster maps servers to their units.
type roster struct {
	units   map[string]string          // ID of the unit, by name of the server
	members map[string]map[string]bool // names of the servers, by ID of the unit
	cluster map[string]bool            // whether the unit is a cluster
}

func newRoster() *roster {
	return &roster{units: map[string]string{}, members: map[string]map[string]bool{}, cluster: map[string]bool{}}
}

// set notes the unit of a server, and returns the former one. Empty: none.
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

// unitOf returns the unit of a server: its cluster, or the server itself. Empty: the server is not known to run Incus.
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

// Run keeps the inventory current until ctx ends, and returns ctx's error. All its goroutines have ended when it
// returns. Other errors: ErrRunning, and those of the store.
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

// watch follows the registry until an error.
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

// load reads all units, and ends those that were removed.
func (m *Manager) load(ctx context.Context, r *roster) error {
	gone := map[string]bool{}
	for name := range r.units {
		gone[name] = true
	}
	var old, left []string // left: servers without a unit
	err := m.registry.Read(ctx, func(s *opscenter.Snapshot) error {
		old, left = nil, nil
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
			if unit == "" {
				left = append(left, info.Name)
			}
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
	for id := range m.workers { // a worker whose unit was removed may still run
		old = append(old, id)
	}
	m.mu.Unlock()
	for _, id := range old {
		if len(r.members[id]) == 0 {
			m.endUnit(ctx, r, id)
		}
	}
	for id := range r.members {
		m.ensureWorker(ctx, r, id)
	}
	return m.clearEventsOf(ctx, left)
}

// follow takes in changes of the registry.
func (m *Manager) follow(ctx context.Context, r *roster, changed *opscenter.Changes) error {
	if changed.Reset {
		return m.load(ctx, r)
	}
	touched := map[string]bool{}
	var left []string // servers without a unit
	err := m.registry.Read(ctx, func(s *opscenter.Snapshot) error {
		left = nil
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
			if info != nil && unit == "" {
				left = append(left, name)
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
		m.ensureWorker(ctx, r, id)
	}
	return m.clearEventsOf(ctx, left)
}

// clearEventsOf clears the warnings of servers without a unit: their Incus may have had no events.
func (m *Manager) clearEventsOf(ctx context.Context, names []string) error {
	if m.registry.Warnings().Counts()[warning.Events] == 0 {
		return nil
	}
	for _, name := range names {
		if err := m.clearEvents(ctx, name); err != nil {
			return err
		}
	}
	return nil
}

// ensureWorker starts a worker for a unit with servers, and tells it the servers. It ends a unit without servers.
func (m *Manager) ensureWorker(ctx context.Context, r *roster, id string) {
	if len(r.members[id]) == 0 {
		m.endUnit(ctx, r, id)
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

// endUnit ends the worker of a unit without servers, and starts the removal of its objects.
func (m *Manager) endUnit(ctx context.Context, r *roster, id string) {
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

// slots bounds scans. A slow scan moves from the fast slots to the slow ones.
type slots struct{ fast, slow chan struct{} }

func newSlots(o Options) slots {
	return slots{fast: make(chan struct{}, o.MaxScans), slow: make(chan struct{}, o.MaxSlowScans)}
}

// acquire waits for a slot. After that time, the holder counts as slow. The caller must call release.
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
