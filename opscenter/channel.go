package opscenter

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"time"

	"github.com/opscenter-go/sdk/opscenter/rolling"
	"github.com/opscenter-go/sdk/storage"
)

// Channel is what servers follow for updates.
type Channel struct {
	Name        string
	Description string
	// Versions is the newest published version of each component.
	Versions    map[string]string
	LastUpdated time.Time
}

// SetChannel creates a channel, or changes its description.
func (r *Registry) SetChannel(ctx context.Context, name, description string) error {
	if err := checkObjectName("channel", name); err != nil {
		return err
	}
	if err := checkLength("description", description, MaxDescriptionLength); err != nil {
		return err
	}
	return r.store.Update(ctx, func(tx storage.WriteTx) error {
		channel, err := channels.Find(tx, storage.StringKey(name))
		if err != nil {
			return err
		}
		changed := Channel{Name: name}
		if channel != nil {
			changed = *channel
		}
		changed.Description, changed.LastUpdated = description, now()
		return channels.Put(tx, &changed)
	})
}

// Channel returns a channel, or ErrNotFound.
func (r *Registry) Channel(ctx context.Context, name string) (*Channel, error) {
	var out Channel
	err := r.store.View(ctx, func(tx storage.ReadTx) error {
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

// Channels lists all channels by name.
func (r *Registry) Channels(ctx context.Context) (out []Channel, err error) {
	err = r.store.View(ctx, func(tx storage.ReadTx) error {
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

// PublishUpdate makes a version of some components available in a channel: servers that
// follow it and have less need an update from now on. A version is a number, YYYYMMDDHHMM;
// one that is not greater than what the channel has of a component changes nothing for it.
// Errors: ErrNotFound, ErrInvalidVersion, ErrInvalidName.
func (r *Registry) PublishUpdate(ctx context.Context, channel, version string, components ...string) error {
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
	event := Event{At: now(), Kind: EventUpdatePublished, Reason: fmt.Sprintf("version %s of %v in channel %s", version, components, channel)}
	err := r.store.Update(ctx, func(tx storage.WriteTx) error {
		old, err := channels.Get(tx, storage.StringKey(channel))
		if err != nil {
			return notFound("channel", channel, err)
		}
		changed := *old
		changed.Versions = maps.Clone(old.Versions)
		if changed.Versions == nil {
			changed.Versions = map[string]string{}
		}
		for _, component := range components {
			if have, ok := changed.Versions[component]; !ok || rolling.Newer(version, have) {
				changed.Versions[component] = version
			}
		}
		changed.LastUpdated = event.At
		if err := channels.Put(tx, &changed); err != nil {
			return err
		}
		return r.record(tx, event)
	})
	if err == nil {
		r.logEvents(ctx, []Event{event})
	}
	return err
}

func channelExists(tx storage.ReadTx, name string) error {
	_, err := channels.Get(tx, storage.StringKey(name))
	return notFound("channel", name, err)
}

// available returns the newest versions in a channel; none for a channel that is gone.
func available(tx storage.ReadTx, channel string) (map[string]string, error) {
	found, err := channels.Find(tx, storage.StringKey(channel))
	if err != nil || found == nil {
		return nil, err
	}
	return found.Versions, nil
}

func isNotFound(err error) bool { return errors.Is(err, storage.ErrNotFound) }
