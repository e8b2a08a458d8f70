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

// SetOptions are the options of SetChannels.
type SetOptions struct {
	// Check, unless nil, is called with the current update. An error of Check cancels the change. It serves for
	// optimistic locking.
	Check func(*Update) error
	// Force puts the update into a channel although it lacks components that the channel needs.
	Force bool
}

// SetChannels sets the channels that contain an update, for instance to promote it. At most 32 channels are allowed. If the
// update is ready and the newest of a channel, the servers of that channel need an update at once. Taking an update out of
// a channel downgrades no server. Errors: opscenter.ErrNotFound for the update or a channel, ErrInvalid, *LackError, and
// the error of Check.
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
	needed := map[string][]Need{} // by each channel that the update leaves
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
	reason := fmt.Sprintf("update %s was put into %s%s", before.Version, cmp.Or(strings.Join(channels, ", "), "no channel"), byPrincipal(ctx))
	return m.change(ctx, reason, func(c *changeSet) error {
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
			// Servers take nothing from an update that is not the newest of the channel.
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
		for channel, needs := range needed { // check the update that the left channel offers afterwards
			next := Offered(c.list(), channel)
			if next == nil || options.Force {
				continue
			}
			if lacking := Lacking(next, needs); len(lacking) > 0 {
				return &LackError{next.Version, channel, lacking}
			}
		}
		return c.tx.Record(event.Event{At: c.tx.Now(), Kind: event.UpdateChannels, Reason: reason})
	})
}

// DeleteChannel removes a channel and takes all updates out of it. Errors: opscenter.ErrNotFound, opscenter.ErrInUse.
func (m *Manager) DeleteChannel(ctx context.Context, name string) error {
	if name == m.Settings().DefaultChannel {
		return fmt.Errorf("channel %q: it is the default channel of new updates: %w", name, opscenter.ErrInUse)
	}
	return m.change(ctx, "channel "+name+" was removed", func(c *changeSet) error {
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
