package updates

import (
	"context"
	"fmt"

	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/event"
)

// Remove removes updates, all of them if none is named. A download that has begun continues.
// Errors: opscenter.ErrNotFound.
func (m *Manager) Remove(ctx context.Context, uuids ...string) error {
	err := m.change(ctx, "updates were removed"+by(ctx), func(c *changing) error {
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
			if err := c.tx.Record(event.Event{At: now(), Kind: event.UpdateRemoved, Reason: fmt.Sprintf("update %s of %s%s", u.Version, u.Origin, by(ctx))}); err != nil {
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
