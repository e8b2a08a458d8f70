package updates

import (
	"cmp"
	"context"
	"fmt"
	"time"

	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/event"
	"github.com/opscenter-go/sdk/storage"
)

// Settings can be changed by operators while the Manager runs. The Manager stores them.
type Settings struct {
	// Source is the URL of the publisher. Empty: there is no source, so updates are only uploaded.
	Source string
	// Root is the certificate, in PEM form, to which the signatures of indexes and uploads must chain. Empty:
	// Options.Trust.
	Root string
	// Filter is the expression that selects the updates to fetch. Empty: DefaultFilter.
	Filter string
	// FileFilter is the expression that selects the files to fetch of each update. Empty: DefaultFileFilter.
	FileFilter string
	// DefaultChannel is the channel of new updates. Empty: opscenter.Options.DefaultChannel.
	DefaultChannel string
	// ServerDefaultChannel is the channel of servers, clusters and tokens that name none. Empty: it is not changed.
	ServerDefaultChannel string
	// TokenInQuery sends the token for the source in the query, see HTTPOptions.
	TokenInQuery bool
	// Keep is the number of updates to retain for each channel and component, see Retain. Default 3, at most MaxKeep.
	Keep int
}

// DefaultKeep is the default of Settings.Keep.
const DefaultKeep = 3

// MaxKeep is the maximum of Settings.Keep.
const MaxKeep = 200

// DefaultSettings returns settings that mirror the public server of IncusOS.
func DefaultSettings() Settings { return Settings{Source: DefaultSource} }

// feedRow stores the settings and the state of the feed.
type feedRow struct {
	Name     string // feedName
	Settings *Settings
	// Source names the source whose index was read last.
	Source string
	// Newest is the publication time of the newest update in that index.
	Newest time.Time
	// Owner names the store that owns the files.
	Owner string
}

const feedName = "feed"

var feeds = storage.NewTable("update_feed", func(f *feedRow) storage.Key { return storage.StringKey(f.Name) })

// prepared are checked settings with the values derived from them.
type prepared struct {
	Settings
	filters filters
	trust   Trust
	source  Source // nil: there is no source
	name    string // of the source; feedRow.Source
}

// prepare checks settings and fills in defaults. Errors: ErrInvalid, and expression.ErrInvalid for a filter.
func (m *Manager) prepare(s Settings) (*prepared, error) {
	s.Filter, s.FileFilter = cmp.Or(s.Filter, DefaultFilter), cmp.Or(s.FileFilter, DefaultFileFilter)
	s.DefaultChannel = cmp.Or(s.DefaultChannel, m.registry.Options().DefaultChannel)
	if s.Keep == 0 {
		s.Keep = DefaultKeep
	}
	if s.Keep < 0 || s.Keep > MaxKeep {
		return nil, fmt.Errorf("keep is %d, 1 to %d are allowed: %w", s.Keep, MaxKeep, ErrInvalid)
	}
	out := &prepared{Settings: s, trust: m.options.Trust}
	var err error
	if out.filters, err = compileFilters(s.Filter, s.FileFilter); err != nil {
		return nil, err
	}
	if s.Root != "" {
		if out.trust.Root, err = parseCertificate([]byte(s.Root)); err != nil {
			return nil, fmt.Errorf("signature_verification_root_ca: %w", err)
		}
		out.trust.Through = nil // they belong to the root of Options.Trust
	}
	switch {
	case m.options.Source != nil:
		out.source, out.name = m.options.Source, "Options.Source"
	case s.Source != "":
		options := m.options.HTTP
		options.URL, options.Trust, options.TokenInQuery = s.Source, out.trust, s.TokenInQuery
		if out.source, err = NewHTTP(options); err != nil {
			return nil, err
		}
		out.name = s.Source
	}
	return out, nil
}

// Settings returns the current settings, with defaults filled in.
func (m *Manager) Settings() Settings {
	s := m.settings.Load().Settings
	s.ServerDefaultChannel = m.registry.Channels().Default()
	return s
}

// sourceTestTimeout bounds the request for the index of a new source.
const sourceTestTimeout = 5 * time.Second

// SetSettings changes the settings. check, unless nil, is called with the current settings; an error of check cancels the
// change. It serves for optimistic locking. SetSettings first reads the index of a new source, within 5 seconds. Errors:
// ErrInvalid, expression.ErrInvalid, opscenter.ErrNotFound for a channel, the error of check, and those of the source.
func (m *Manager) SetSettings(ctx context.Context, s Settings, check func(Settings) error) error {
	next, err := m.prepare(s)
	if err != nil {
		return err
	}
	if s.Source != "" && s.Source != m.Settings().Source && m.options.Source == nil {
		if err := testSource(ctx, next.source); err != nil {
			return fmt.Errorf("source %s: %w", s.Source, err)
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	err = m.registry.Write(ctx, func(tx *opscenter.Tx) error {
		if check != nil {
			if err := check(m.Settings()); err != nil {
				return err
			}
		}
		if err := tx.RequireChannel(next.DefaultChannel); err != nil {
			return err
		}
		if s.ServerDefaultChannel != "" {
			if err := tx.SetDefaultChannel(s.ServerDefaultChannel); err != nil {
				return err
			}
		}
		row, err := loadFeed(tx)
		if err != nil {
			return err
		}
		stored := next.Settings
		stored.ServerDefaultChannel = "" // the registry stores it
		row.Settings = &stored
		if err := feeds.Put(tx, row); err != nil {
			return err
		}
		return tx.Record(event.Event{At: tx.Now(), Kind: event.FeedSettings, Reason: fmt.Sprintf("source %s, %d kept, new updates go into channel %s%s", cmp.Or(s.Source, "none"), next.Keep, next.DefaultChannel, byPrincipal(ctx))})
	})
	if err == nil {
		if before := m.settings.Swap(next); before.name != next.name {
			if cancel := m.cancel.Load(); cancel != nil {
				(*cancel)() // stop the refresh from the previous source
			}
		}
		m.wake()
	}
	return err
}

// testSource reads the index of a source, within sourceTestTimeout.
func testSource(ctx context.Context, source Source) error {
	ctx, cancel := context.WithTimeout(ctx, sourceTestTimeout)
	defer cancel()
	_, err := source.Index(ctx)
	return err
}

// loadFeed returns a copy of the feed's row, or a new one.
func loadFeed(tx storage.ReadTx) (*feedRow, error) {
	found, err := feeds.Find(tx, storage.StringKey(feedName))
	if err != nil {
		return nil, err
	}
	if found == nil {
		return &feedRow{Name: feedName}, nil
	}
	row := *found
	return &row, nil
}
