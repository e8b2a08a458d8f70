package updates

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/opscenter-go/sdk/opscenter"
)

// Needs returns the servers and usable tokens that follow a channel, with the components that each needs. A server needs
// those that it runs. A token needs the operating system and its Applications.
//
// A server needs no component that no update here has for its architecture: what it says of itself holds back no other.
func (m *Manager) Needs(ctx context.Context, channel string) (out []Need, err error) {
	provided := m.Snapshot().provided()
	err = m.registry.Read(ctx, func(tx *opscenter.Snapshot) error {
		out = nil
		for info, err := range tx.Servers(opscenter.ServerFilter{Channel: channel}) {
			if err != nil {
				return err
			}
			need := needOf(info)
			need.Components = slices.DeleteFunc(need.Components, func(component string) bool { return !provided[[2]string{component, need.Architecture}] })
			if len(need.Components) > 0 {
				out = append(out, need)
			}
		}
		return tx.UsableTokens(channel, func(t *opscenter.Token) {
			if len(t.Applications) > 0 {
				out = append(out, Need{By: t.Label(), Components: append([]string{opscenter.ComponentOS}, t.Applications...)})
			}
		})
	})
	return out, err
}

// provided are the components that ready updates have, with each architecture and with none.
func (s *Snapshot) provided() map[[2]string]bool {
	out := map[[2]string]bool{}
	for _, u := range s.updates {
		if u.Status != StatusReady {
			continue
		}
		for _, architecture := range append([]string{"", ArchitectureX8664, ArchitectureAArch64}, u.architectures()...) {
			for _, component := range u.Provides(architecture) {
				out[[2]string{component, architecture}], out[[2]string{component, ""}] = true, true
			}
		}
	}
	return out
}

// needOf is what a server needs of its channel.
func needOf(info *opscenter.ServerInfo) Need {
	out := Need{By: "server " + info.Name, Architecture: info.State.Architecture}
	v := info.State.Versions
	if v.OS.Plain || v.OS.Version == "" {
		return out // it takes no updates, or is not known yet
	}
	out.Components = append(out.Components, opscenter.ComponentOS)
	for _, a := range v.Applications {
		out.Components = append(out.Components, a.Name)
	}
	return out
}

// LackError says what an update lacks for a channel. It is an opscenter.ErrBlocked.
type LackError struct {
	Version, Channel string
	Lacks            []Lack
}

// Error implements error.
func (e *LackError) Error() string {
	return fmt.Sprintf("update %s has not what channel %s needs: %s: a server that is installed while it is the newest there would wait for that", e.Version, e.Channel, describe(e.Lacks))
}

// Unwrap returns opscenter.ErrBlocked.
func (e *LackError) Unwrap() error { return opscenter.ErrBlocked }

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
		return c.tx.Record(opscenter.Event{At: now(), Kind: opscenter.EventUpdateChannels, Reason: reason})
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
