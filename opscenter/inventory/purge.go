package inventory

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/storage"
)

// purgeRows is how many objects one transaction of a purge removes.
const purgeRows = 500

// purgeLater removes, beside everything else, all objects of a unit that is no more. A worker of the same unit
// waits for it. m.mu is not held.
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
				return // what is left, the next Run finds
			}
			m.log.ErrorContext(ctx, "the inventory of a unit could not be removed, which is tried again", "unit", unit, "error", err)
			select {
			case <-time.After(backoff):
			case <-ctx.Done():
				return
			}
		}
	})
}

// purged waits until nothing of a unit is being removed.
func (m *Manager) purged(ctx context.Context, unit string) error {
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

// purge removes all objects of a unit, and then what is known of it. It never looks again at where it has been: a
// store may have to walk over what was deleted there.
func (m *Manager) purge(ctx context.Context, unit string) error {
	within := storage.Range{Prefix: storage.StringKey(unit)}
	for {
		var keys []storage.Key
		err := m.registry.Read(ctx, func(s *opscenter.Snapshot) error {
			keys = nil
			for r, err := range objects.Scan(s, within) {
				if err != nil {
					return err
				}
				if keys = append(keys, r.key()); len(keys) == purgeRows {
					break
				}
			}
			return nil
		})
		if err == nil && len(keys) > 0 {
			err = m.registry.Store().Update(ctx, func(tx storage.WriteTx) error {
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
		if len(keys) < purgeRows {
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
			if err := m.record(tx, []changeRow{u.change(ChangeClusterRemoved, now())}); err != nil {
				return err
			}
		}
		return units.Delete(tx, storage.StringKey(unit))
	})
	if err != nil {
		return fmt.Errorf("removing the inventory of %s: %w", unit, err)
	}
	return nil
}
