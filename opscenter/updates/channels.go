package updates

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/event"
)

// SetOptions of SetChannels.
type SetOptions struct {
	// Check, unless nil, is called with the update as it is, and an error of it ends the change: for optimistic locking.
	Check func(*Update) error
	// Force puts an update into a channel that needs what it lacks.
	Force bool
}

// SetChannels says which channels offer an update: to promote it from one to another. If it is ready, and the newest of a
// channel, the servers of that need an update at once. No server is downgraded when an update is taken out of a channel.
// Errors: opscenter.ErrNotFound for the update or a channel, ErrInvalid, a *LackError, that of Check.
func (m *Manager) SetChannels(ctx context.Context, uuid string, channels []string, options SetOptions) error {
	channels = slices.Clone(channels)
	slices.Sort(channels)
	if channels = slices.Compact(channels); len(channels) > maxChannels {
		return fmt.Errorf("%d channels, at most %d are allowed: %w", len(channels), maxChannels, ErrInvalid)
	}
	before, err := m.Snapshot().Update(uuid)
	if err != nil {
		return err
	}
	lacks := map[string]*LackError{}
	needed := map[string][]Need{} // by the channels that it leaves
	for _, channel := range before.Channels {
		if !slices.Contains(channels, channel) {
			if needed[channel], err = m.Needs(ctx, channel); err != nil {
				return err
			}
		}
	}
	for _, channel := range channels {
		needs, err := m.Needs(ctx, channel)
		if err != nil {
			return err
		}
		if lacking := Lacking(before, needs); len(lacking) > 0 {
			lacks[channel] = &LackError{before.Version, channel, lacking}
		}
	}
	reason := fmt.Sprintf("update %s was put into %s%s", before.Version, cmp.Or(strings.Join(channels, ", "), "no channel"), by(ctx))
	return m.change(ctx, reason, func(c *changing) error {
		u := c.rows[uuid]
		if u == nil {
			return fmt.Errorf("update %.40q: %w", uuid, opscenter.ErrNotFound)
		}
		if options.Check != nil {
			if err := options.Check(u); err != nil {
				return err
			}
		}
		for _, channel := range channels {
			if err := c.tx.RequireChannel(channel); err != nil {
				return err
			}
			if slices.Contains(u.Channels, channel) || options.Force {
				continue
			}
			// Behind the newest of the channel nothing is taken of it.
			newest := Offered(c.list(), channel)
			if lack := lacks[channel]; lack != nil && (newest == nil || newestFirst(u, newest) < 0) {
				return lack
			}
		}
		changed := *u
		changed.Channels, changed.Placed = channels, true
		if changed.Held != "" {
			changed.Held, changed.Problem = "", ""
		}
		c.put(changed)
		for channel, needs := range needed { // what the channel offers from then on
			next := Offered(c.list(), channel)
			if next == nil || options.Force {
				continue
			}
			if lacking := Lacking(next, needs); len(lacking) > 0 {
				return &LackError{next.Version, channel, lacking}
			}
		}
		return c.tx.Record(event.Event{At: now(), Kind: event.UpdateChannels, Reason: reason})
	})
}

// DeleteChannel removes a channel, from all updates too. Errors: opscenter.ErrNotFound, opscenter.ErrInUse.
func (m *Manager) DeleteChannel(ctx context.Context, name string) error {
	if name == m.Settings().DefaultChannel {
		return fmt.Errorf("channel %q: new updates are put into it: %w", name, opscenter.ErrInUse)
	}
	return m.change(ctx, "channel "+name+" was removed", func(c *changing) error {
		for _, u := range c.list() {
			if slices.Contains(u.Channels, name) || u.Held == name {
				changed := *u
				changed.Channels = slices.DeleteFunc(slices.Clone(u.Channels), func(c string) bool { return c == name })
				if changed.Held == name {
					changed.Held, changed.Problem = "", ""
				}
				c.put(changed)
			}
		}
		return c.tx.DeleteChannel(name)
	})
}
