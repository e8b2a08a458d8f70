package updates

import (
	"context"
	"fmt"

	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/event"
)

// Remove removes the named updates, or all updates if none is named. A download in progress continues.
// Errors: opscenter.ErrNotFound; then no update is removed.
func (m *Manager) Remove(ctx context.Context, uuids ...string) error {
	err := m.change(ctx, "updates were removed"+byPrincipal(ctx), func(c *changeSet) error {
		named := uuids
		if len(named) == 0 {
			for uuid := range c.rows {
				named = append(named, uuid)
			}
		}
		for _, uuid := range named {
			u := c.rows[uuid]
			if u == nil {
				return fmt.Errorf("update %.40q: %w", uuid, opscenter.ErrNotFound)
			}
			c.remove(uuid)
			if err := c.tx.Record(event.Event{At: c.tx.Now(), Kind: event.UpdateRemoved, Reason: fmt.Sprintf("update %s of %s%s", u.Version, u.Origin, byPrincipal(ctx))}); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	return m.sweep(ctx)
}
