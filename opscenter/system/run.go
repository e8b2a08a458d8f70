package system

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/audit"
	"github.com/opscenter-go/sdk/storage"
)

// Run works in the background until ctx ends. It continues changes and batches whose callers gave up, or whose
// process ended. It puts update settings back, unless Options.LeaveUpdates is set. It ends factory resets.
//
// Run returns ctx's error, ErrRunning, or storage.ErrClosed. The next Run continues the work that is under way then.
func (m *Manager) Run(ctx context.Context) error {
	if !m.running.TryLock() {
		return fmt.Errorf("system.Manager %w", ErrRunning)
	}
	defer m.running.Unlock()
	defer m.cancelLate()
	ctx, cancel := context.WithCancel(ctx)
	var group sync.WaitGroup
	defer group.Wait()
	defer cancel()

	fatal := make(chan error, 1)
	if !m.options.LeaveUpdates {
		touched := make(chan []string, 1)
		group.Go(func() { m.watchServers(ctx, touched) })
		e := &enforcer{m: m, names: map[string]time.Time{}}
		group.Go(func() { fatal <- e.run(ctx, touched) })
	}
	tick := time.NewTicker(m.options.Interval)
	defer tick.Stop()
	for {
		err := errors.Join(m.resumeOpen(ctx, &group), m.checkResets(ctx))
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil && !retryable(err):
			return err
		case err != nil:
			m.log.ErrorContext(ctx, "open changes can't be continued, and are tried again", "error", err)
		}
		select {
		case <-tick.C:
		case err := <-fatal:
			if ctx.Err() == nil {
				return err
			}
		case <-ctx.Done():
		}
	}
}

// watchServers sends the names of servers that changed. Nil: any server may have changed, as at the beginning.
func (m *Manager) watchServers(ctx context.Context, touched chan<- []string) {
	for ctx.Err() == nil {
		revision, err := m.registry.Revision(ctx)
		if err != nil {
			if !sleep(ctx, m.options.Interval) {
				return
			}
			continue
		}
		select {
		case touched <- nil: // changes before this revision
		case <-ctx.Done():
			return
		}
		for changes, err := range m.registry.Watch(ctx, revision) {
			if err != nil {
				break
			}
			if changes.Reset {
				changes.Servers = nil
			} else if len(changes.Servers) == 0 {
				continue
			}
			select {
			case touched <- changes.Servers:
			case <-ctx.Done():
				return
			}
		}
		sleep(ctx, m.options.Interval)
	}
}

// resumeOpen continues the open changes and batches that no goroutine of this process works on.
func (m *Manager) resumeOpen(ctx context.Context, group *sync.WaitGroup) error {
	open, _, err := m.open(ctx)
	if err != nil {
		return err
	}
	for _, c := range open {
		if !m.acquire(c.ID) {
			continue
		}
		// It may have ended since it was read.
		again, err := m.Change(ctx, c.ID)
		if err != nil || again.Status.Final() {
			m.relinquish(c.ID)
			continue
		}
		c = again
		if !m.setActing(c.ID, true) {
			m.registry.Observer().Acting(c.ServerID)
		}
		group.Go(func() {
			defer m.relinquish(c.ID)
			if err := m.resumeChange(ctx, c); err != nil && ctx.Err() == nil {
				m.log.WarnContext(ctx, "a resumed change failed", "server", c.Server, "section", c.Section, "status", c.Status, "error", err)
			}
		})
	}
	var running []*Batch
	err = m.registry.Read(ctx, func(s *opscenter.Snapshot) error {
		running = nil
		for b, err := range batchesByEnd.Scan(s, storage.Range{Prefix: storage.UintKey(0)}) {
			if err != nil {
				return err
			}
			running = append(running, b.clone())
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, b := range running {
		if !m.acquire(b.ID) {
			continue
		}
		group.Go(func() {
			defer m.relinquish(b.ID)
			again, err := m.Batch(ctx, b.ID)
			if err == nil && again.EndedAt.IsZero() {
				err = m.resumeBatch(audit.With(ctx, again.Audit), again)
			}
			if err != nil && ctx.Err() == nil {
				m.log.WarnContext(ctx, "a resumed change of a cluster failed", "cluster", b.Cluster, "error", err)
			}
		})
	}
	return nil
}

// resumeChange continues a change until it has ended.
func (m *Manager) resumeChange(ctx context.Context, c *Change) error {
	if c.Section == "network" {
		return m.follow(ctx, c, &pursuit{})
	}
	return m.settle(ctx, c)
}
