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

// Settings are what operators may change while it runs. They are stored.
type Settings struct {
	// Source is the URL of the publisher; empty: there is none, updates are uploaded.
	Source string
	// Root is the certificate, in PEM form, under which indexes and uploads must be signed. Empty: Options.Trust.
	Root string
	// Filter and FileFilter are expressions: which updates, and which of their files, are fetched. Empty: DefaultFilter
	// and DefaultFileFilter.
	Filter, FileFilter string
	// DefaultChannel is the one a new update is put into. Empty: opscenter.Options.DefaultChannel.
	DefaultChannel string
	// ServerDefaultChannel is the one that servers, clusters and tokens get that name none; empty: as it is.
	ServerDefaultChannel string
	// TokenInQuery: the token for the source goes into the query, see HTTPOptions.
	TokenInQuery bool
	// Keep is how many updates are kept of each channel and component, see Retain. Default 3.
	Keep int
}

// DefaultKeep is how many updates are kept of each channel and component.
const DefaultKeep = 3

// MaxKeep bounds Settings.Keep.
const MaxKeep = 200

// DefaultSettings are those of a control plane with access to the public server of IncusOS.
func DefaultSettings() Settings { return Settings{Source: DefaultSource} }

// feedRow is all that is stored besides the updates.
type feedRow struct {
	Name     string // feedName
	Settings *Settings
	// Source and Newest are the index that was read last: when its newest update was published.
	Source string
	Newest time.Time
	// Owner is the name of the store to which the files belong.
	Owner string
}

const feedName = "feed"

var feeds = storage.NewTable("update_feed", func(f *feedRow) storage.Key { return storage.StringKey(f.Name) })

// prepared are settings that were checked, with what was made of them.
type prepared struct {
	Settings
	filters filters
	trust   Trust
	source  Source // nil: none
	name    string // of the source, for its index
}

// prepare checks settings. Errors: ErrInvalid, and expression.ErrInvalid for a filter.
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
		out.trust.Through = nil // those are of the other root
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

// Settings returns the settings in force, defaults included.
func (m *Manager) Settings() Settings {
	s := m.settings.Load().Settings
	s.ServerDefaultChannel = m.registry.DefaultChannel()
	return s
}

// sourceTestTimeout bounds the test of another source.
const sourceTestTimeout = 5 * time.Second

// SetSettings changes the settings. check, unless nil, is called with those there are, and an error of it ends the
// change: for optimistic locking. Another source is asked for its index first. Errors: ErrInvalid, expression.ErrInvalid,
// opscenter.ErrNotFound for a channel, and why the source could not be read.
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
		stored.ServerDefaultChannel = "" // it is kept there
		row.Settings = &stored
		if err := feeds.Put(tx, row); err != nil {
			return err
		}
		return tx.Record(event.Event{At: now(), Kind: event.FeedSettings, Reason: fmt.Sprintf("source %s, %d kept, new updates go into channel %s%s", cmp.Or(s.Source, "none"), next.Keep, next.DefaultChannel, by(ctx))})
	})
	if err == nil {
		if before := m.settings.Swap(next); before.name != next.name {
			if cancel := m.cancel.Load(); cancel != nil {
				(*cancel)() // what comes from the former source is not waited for
			}
		}
		m.wake()
	}
	return err
}

// testSource asks a source for its index, within a few seconds.
func testSource(ctx context.Context, source Source) error {
	ctx, cancel := context.WithTimeout(ctx, sourceTestTimeout)
	defer cancel()
	_, err := source.Index(ctx)
	return err
}

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
