package inventory

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/storage"
)

// purgeRows bounds the objects that one transaction of a purge removes. The store's limits may allow fewer.
const purgeRows = 500

// purgeLater starts a goroutine that removes all objects of a removed unit. A new worker of the same unit waits for its
// end. The caller must not hold m.mu.
func (m *Manager) purgeLater(ctx context.Context, unit string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.purges[unit] != nil {
		return
	}
	done := make(chan struct{})
	m.purges[unit] = done
	m.purging.Go(func() {
		defer func() {
			m.mu.Lock()
			delete(m.purges, unit)
			m.mu.Unlock()
			close(done)
		}()
		for backoff := firstBackoff; ; backoff = min(2*backoff, m.options.MaxBackoff) {
			err := m.purge(ctx, unit)
			if err == nil || ctx.Err() != nil || errors.Is(err, storage.ErrClosed) {
				return // the next Run removes the rest
			}
			m.log.ErrorContext(ctx, "the inventory of a unit could not be removed, and is tried again", "unit", unit, "error", err)
			select {
			case <-time.After(backoff):
			case <-ctx.Done():
				return
			}
		}
	})
}

// waitPurged waits for the end of a removal of the unit, if there is one.
func (m *Manager) waitPurged(ctx context.Context, unit string) error {
	m.mu.Lock()
	done := m.purges[unit]
	m.mu.Unlock()
	if done == nil {
		return nil
	}
	select {
	case <-done:
		return ctx.Err()
	case <-ctx.Done():
		return ctx.Err()
	}
}

// purge removes all objects of a unit, and then its row. Each step continues after the last removed key: from the start, a
// store may have to pass all deleted rows again.
func (m *Manager) purge(ctx context.Context, unit string) error {
	within := storage.Range{Prefix: storage.StringKey(unit)}
	step := storage.LimitsOf(m.registry.Store()).Rows(purgeRows, 2)
	for {
		var keys []storage.Key
		err := m.registry.Read(ctx, func(s *opscenter.Snapshot) error {
			keys = nil
			for r, err := range objects.Scan(s, within) {
				if err != nil {
					return err
				}
				if keys = append(keys, r.key()); len(keys) == step {
					break
				}
			}
			return nil
		})
		if err == nil && len(keys) > 0 {
			err = m.registry.Write(ctx, func(tx *opscenter.Tx) error {
				for _, key := range keys {
					if err := objects.Delete(tx, key); err != nil && !errors.Is(err, storage.ErrNotFound) {
						return err
					}
				}
				return nil
			})
		}
		if err != nil {
			return fmt.Errorf("removing the inventory of %s: %w", unit, err)
		}
		if len(keys) < step {
			break
		}
		within.After = keys[len(keys)-1]
	}
	err := m.registry.Write(ctx, func(tx *opscenter.Tx) error {
		u, err := units.Find(tx, storage.StringKey(unit))
		if err != nil || u == nil {
			return err
		}
		if !u.ScannedAt.IsZero() {
			if err := m.record(tx, 0, []changeRow{u.change(ChangeClusterRemoved, tx.Now())}); err != nil {
				return err
			}
		}
		return units.Delete(tx, storage.StringKey(unit))
	})
	if err != nil {
		return fmt.Errorf("removing the inventory of %s: %w", unit, err)
	}
	m.trims.Lock()
	defer m.trims.Unlock()
	delete(m.unitsDue, unit)
	return nil
}
