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

// Run goes on with what was begun, here or in an earlier process, and is not seen to by anybody;
// it puts update settings back, and ends factory resets; until ctx ends. It returns ctx's
// error, ErrRunning, or storage.ErrClosed. What is under way then is taken up by the next Run.
func (m *Manager) Run(ctx context.Context) error {
	if !m.running.TryLock() {
		return fmt.Errorf("system.Manager %w", ErrRunning)
	}
	defer m.running.Unlock()
	defer m.cutOff()
	ctx, cancel := context.WithCancel(ctx)
	var group sync.WaitGroup
	defer group.Wait()
	defer cancel()

	fatal := make(chan error, 1)
	if !m.options.LeaveUpdates {
		touched := make(chan []string, 1)
		group.Go(func() { m.watch(ctx, touched) })
		e := &enforcer{m: m, names: map[string]time.Time{}}
		group.Go(func() { fatal <- e.run(ctx, touched) })
	}
	tick := time.NewTicker(m.options.Interval)
	defer tick.Stop()
	for {
		err := errors.Join(m.resume(ctx, &group), m.checkResets(ctx))
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil && !retryable(err):
			return err
		case err != nil:
			m.log.ErrorContext(ctx, "changes can't be seen to, and are tried again", "error", err)
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

// watch hands on the names of servers that changed; nil: any may have, as at the beginning.
func (m *Manager) watch(ctx context.Context, touched chan<- []string) {
	for ctx.Err() == nil {
		revision, err := m.registry.Revision(ctx)
		if err != nil {
			if !sleep(ctx, m.options.Interval) {
				return
			}
			continue
		}
		select {
		case touched <- nil: // what changed before
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

// resume takes up what nobody sees to.
func (m *Manager) resume(ctx context.Context, group *sync.WaitGroup) error {
	open, _, err := m.open(ctx)
	if err != nil {
		return err
	}
	for _, c := range open {
		if !m.take(c.ID) {
			continue
		}
		// It may have ended since it was read.
		again, err := m.Change(ctx, c.ID)
		if err != nil || again.Status.Final() {
			m.leave(c.ID)
			continue
		}
		c = again
		if !m.setActing(c.ID, true) {
			m.registry.Acting(c.ServerID)
		}
		group.Go(func() {
			defer m.leave(c.ID)
			if err := m.goOn(ctx, c); err != nil && ctx.Err() == nil {
				m.log.WarnContext(ctx, "a change that was taken up has ended", "server", c.Server, "section", c.Section, "status", c.Status, "error", err)
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
		if !m.take(b.ID) {
			continue
		}
		group.Go(func() {
			defer m.leave(b.ID)
			again, err := m.Batch(ctx, b.ID)
			if err == nil && again.EndedAt.IsZero() {
				err = m.resumeBatch(audit.With(ctx, again.Audit), again)
			}
			if err != nil && ctx.Err() == nil {
				m.log.WarnContext(ctx, "the change of a cluster that was taken up", "cluster", b.Cluster, "error", err)
			}
		})
	}
	return nil
}

func (m *Manager) goOn(ctx context.Context, c *Change) error {
	if c.Section == "network" {
		return m.follow(ctx, c, &watch{})
	}
	return m.settle(ctx, c)
}
