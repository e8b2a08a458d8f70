package opscenter

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/opscenter-go/sdk/opscenter/event"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
	"github.com/opscenter-go/sdk/storage"
)

// Channel is a stream of updates that servers follow.
type Channel struct {
	Name        string
	Description string
	// Versions is the newest version that it offers, by component, of all architectures.
	Versions map[string]string
	// Architectures is set if package updates keeps the updates of the channel: the offered versions by architecture and
	// component. The architectures are x86_64 and aarch64; the empty name is for all others. nil: Versions is for all.
	Architectures map[string]map[string]string
	// SecureBootKeys is how many Secure Boot keys the offered update has.
	SecureBootKeys int `json:",omitempty"`
	// Default: an operator made it the channel of servers, clusters and tokens without a channel. See Channels.Default.
	Default     bool `json:",omitempty"`
	LastUpdated time.Time
}

// Offers returns the versions that the channel offers to servers of an architecture, by component. An empty architecture
// is an unknown one. The map is read only.
func (c *Channel) Offers(architecture string) map[string]string {
	if c == nil {
		return nil
	}
	if c.Architectures == nil || architecture == "" {
		return c.Versions
	}
	if offered, ok := c.Architectures[architecture]; ok {
		return offered
	}
	return c.Architectures[""]
}

// Create creates a channel. Errors: storage.ErrExists, ErrInvalidName, ErrTooLong.
func (h Channels) Create(ctx context.Context, name, description string) error {
	if err := cmp.Or(checkObjectName("channel", name), checkLength("description", description, MaxDescriptionLength)); err != nil {
		return err
	}
	return h.registry.Write(ctx, func(tx *Tx) error {
		if known, err := channels.Find(tx, storage.StringKey(name)); err != nil || known != nil {
			return cmp.Or(err, fmt.Errorf("channel %q: %w", name, storage.ErrExists))
		}
		made := &Channel{Name: name, Description: description, LastUpdated: h.registry.now()}
		if err := channels.Put(tx, made); err != nil {
			return err
		}
		return tx.Record(event.Event{At: made.LastUpdated, Kind: event.ChannelCreated, Reason: "channel " + name})
	})
}

// Edit changes the description of a channel. check, unless nil, gets the channel as it is: its error ends the edit.
// Callers use it for optimistic locking. Errors: ErrNotFound, ErrTooLong, those of check.
func (h Channels) Edit(ctx context.Context, name, description string, check func(*Channel) error) error {
	if err := checkLength("description", description, MaxDescriptionLength); err != nil {
		return err
	}
	return h.registry.Write(ctx, func(tx *Tx) error {
		old, err := channels.Get(tx, storage.StringKey(name))
		if err != nil {
			return notFound("channel", name, err)
		}
		if check != nil {
			if err := check(old); err != nil {
				return err
			}
		}
		changed := *old
		changed.Description, changed.LastUpdated = description, h.registry.now()
		return channels.Put(tx, &changed)
	})
}

// Get returns a channel, or ErrNotFound.
func (h Channels) Get(ctx context.Context, name string) (*Channel, error) {
	var out Channel
	err := h.registry.store.View(ctx, func(tx storage.ReadTx) error {
		channel, err := channels.Get(tx, storage.StringKey(name))
		if err != nil {
			return notFound("channel", name, err)
		}
		out = *channel
		return nil
	})
	if err != nil {
		return nil, err
	}
	return &out, nil
}

// List returns all channels, by name.
func (h Channels) List(ctx context.Context) (out []Channel, err error) {
	err = h.registry.store.View(ctx, func(tx storage.ReadTx) error {
		out = nil
		for channel, err := range channels.Scan(tx, storage.Range{}) {
			if err != nil {
				return err
			}
			out = append(out, *channel)
		}
		return nil
	})
	return out, err
}

// Publish makes a version of components available in a channel. Servers that follow the channel and have an older version
// need an update from then on. A version is a number, as YYYYMMDDHHMM. A version that is not newer changes nothing. A
// program that serves updates with package updates does not call Publish: that package sets the offers of its channels.
// Errors: ErrNotFound, ErrInvalidVersion, ErrInvalidName, ErrFed.
func (h Channels) Publish(ctx context.Context, channel, version string, components ...string) error {
	if err := checkVersion(version); err != nil {
		return err
	}
	if len(components) == 0 {
		return fmt.Errorf("update %s has no components: %w", version, ErrInvalidName)
	}
	for _, component := range components {
		if err := checkObjectName("component", component); err != nil {
			return err
		}
	}
	entry := event.Event{At: h.registry.now(), Kind: event.UpdatePublished, Reason: fmt.Sprintf("version %s of %v in channel %s", version, components, channel)}
	return h.registry.Write(ctx, func(tx *Tx) error {
		old, err := channels.Get(tx, storage.StringKey(channel))
		if err != nil {
			return notFound("channel", channel, err)
		}
		if old.Architectures != nil {
			return fmt.Errorf("channel %q: %w", channel, ErrFed)
		}
		changed := *old
		changed.Versions = maps.Clone(old.Versions)
		if changed.Versions == nil {
			changed.Versions = map[string]string{}
		}
		for _, component := range components {
			raise(changed.Versions, component, version)
		}
		changed.LastUpdated = entry.At
		if err := channels.Put(tx, &changed); err != nil {
			return err
		}
		return tx.Record(entry)
	})
}

func channelExists(tx storage.ReadTx, name string) error {
	_, err := channels.Get(tx, storage.StringKey(name))
	return notFound("channel", name, err)
}

// raise sets the version of a component, unless the present one is as new.
func raise(versions map[string]string, component, version string) {
	if have, ok := versions[component]; !ok || lifecycle.Newer(version, have) {
		versions[component] = version
	}
}

// Offer is the versions that a channel offers, by architecture and component. The empty architecture is for servers of
// any other one.
type Offer map[string]map[string]string

// versions returns the newest version of each component, of all architectures.
func (o Offer) versions() map[string]string {
	out := map[string]string{}
	for _, offered := range o {
		for component, version := range offered {
			raise(out, component, version)
		}
	}
	return out
}

// SetOffer replaces the offer of a channel. It downgrades no server. keys is how many Secure Boot keys the offered update
// has. If the newest versions change, SetOffer records an event with reason. Errors: ErrNotFound, ErrInvalidVersion,
// ErrInvalidName.
func (t *Tx) SetOffer(channel string, offer Offer, keys int, reason string) error {
	for _, offered := range offer {
		for component, version := range offered {
			if err := cmp.Or(checkVersion(version), checkObjectName("component", component)); err != nil {
				return err
			}
		}
	}
	old, err := channels.Get(t, storage.StringKey(channel))
	if err != nil {
		return notFound("channel", channel, err)
	}
	if old.Architectures != nil && old.SecureBootKeys == keys && maps.EqualFunc(old.Architectures, offer, maps.Equal) {
		return nil
	}
	changed := *old
	changed.Architectures = make(map[string]map[string]string, len(offer))
	for architecture, offered := range offer {
		changed.Architectures[architecture] = maps.Clone(offered)
	}
	changed.Versions, changed.SecureBootKeys, changed.LastUpdated = offer.versions(), keys, t.Now()
	if err := channels.Put(t, &changed); err != nil {
		return err
	}
	if maps.Equal(changed.Versions, old.Versions) {
		return nil
	}
	return t.Record(event.Event{At: changed.LastUpdated, Kind: event.UpdatePublished, Reason: fmt.Sprintf("channel %s offers %s: %s", channel, describeVersions(changed.Versions), reason)})
}

// describeVersions lists versions in the order of the component names.
func describeVersions(versions map[string]string) string {
	var parts []string
	for _, component := range slices.Sorted(maps.Keys(versions)) {
		parts = append(parts, component+" "+versions[component])
	}
	return cmp.Or(strings.Join(parts, ", "), "nothing")
}

// DeleteChannel removes a channel. Errors: ErrNotFound; ErrInUse if a server, a cluster or a usable token follows it, or
// it is the default channel.
func (t *Tx) DeleteChannel(name string) error {
	if _, err := channels.Get(t, storage.StringKey(name)); err != nil {
		return notFound("channel", name, err)
	}
	used := func(by string) error { return fmt.Errorf("channel %q: %s: %w", name, by, ErrInUse) }
	if name == t.registry.Channels().Default() || name == t.registry.options.DefaultChannel {
		return used("it is the default one")
	}
	for server, err := range serversByChannel.Scan(t, storage.Range{Prefix: storage.StringKey(name)}) {
		if err != nil {
			return err
		}
		return used(fmt.Sprintf("server %q follows it", server.Name))
	}
	for cluster, err := range clusters.Scan(t, rangeAll) {
		if err != nil {
			return err
		}
		if cluster.Channel == name {
			return used(fmt.Sprintf("cluster %q follows it", cluster.Name))
		}
	}
	for token, err := range tokens.Scan(t, rangeAll) {
		if err != nil {
			return err
		}
		if token.Channel == name && token.usable(t.Now()) {
			return used("a token admits servers to it")
		}
	}
	if err := channels.Delete(t, storage.StringKey(name)); err != nil {
		return err
	}
	return t.Record(event.Event{At: t.Now(), Kind: event.ChannelDeleted, Reason: "channel " + name})
}

// RequireChannel returns ErrNotFound unless there is a channel of that name.
func (t *Tx) RequireChannel(name string) error { return channelExists(t, name) }

// SetDefaultChannel makes a channel the one of servers, clusters and tokens without a channel. Errors: ErrNotFound.
func (t *Tx) SetDefaultChannel(name string) error {
	if err := channelExists(t, name); err != nil {
		return err
	}
	for channel, err := range channels.Scan(t, rangeAll) {
		if err != nil {
			return err
		}
		if channel.Default == (channel.Name == name) {
			continue
		}
		changed := *channel
		changed.Default = channel.Name == name
		if err := channels.Put(t, &changed); err != nil {
			return err
		}
	}
	t.committed = append(t.committed, func() { t.registry.defaultChannel.Store(&name) })
	return nil
}

// Default returns the name of the channel of servers, clusters and tokens without a channel. It is Options.DefaultChannel
// until an operator sets another.
func (h Channels) Default() string {
	if set := h.registry.defaultChannel.Load(); set != nil {
		return *set
	}
	return h.registry.options.DefaultChannel
}

func (r *Registry) loadDefaultChannel(tx storage.ReadTx) error {
	for channel, err := range channels.Scan(tx, rangeAll) {
		if err != nil {
			return err
		}
		if channel.Default {
			r.defaultChannel.Store(&channel.Name)
		}
	}
	return nil
}

// UsableTokens calls do for each token that still admits servers to a channel.
func (s *Snapshot) UsableTokens(channel string, do func(*Token)) error {
	for token, err := range tokens.Scan(s, rangeAll) {
		if err != nil {
			return err
		}
		if token.Channel == channel && token.usable(s.registry.now()) {
			do(token)
		}
	}
	return nil
}

// available returns a channel. nil: it was removed, and offers nothing.
func available(tx storage.ReadTx, channel string) (*Channel, error) {
	return channels.Find(tx, storage.StringKey(channel))
}

func isNotFound(err error) bool { return errors.Is(err, storage.ErrNotFound) }
