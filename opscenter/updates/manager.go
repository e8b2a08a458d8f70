package updates

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"math"
	mathrand "math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/opscenter-go/sdk/internal/defaults"
	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/warning"
	"github.com/opscenter-go/sdk/storage"
)

// Defaults of Options.
const (
	DefaultInterval       = time.Hour
	DefaultMaxFetches     = 4
	DefaultMaxAttempts    = 5
	DefaultRetryDelay     = time.Second
	DefaultMaxUpload      = 20 << 30
	DefaultReserve        = 0.1
	DefaultVerifyInterval = 7 * 24 * time.Hour
)

// Options of New. The zero value mirrors the stable channel of IncusOS, for x86_64 and for each architecture of the fleet.
type Options struct {
	// Logger gets what is fetched, and what goes wrong. Default: nothing is logged.
	Logger *slog.Logger
	// Settings are in force until others are set. Default: DefaultSettings. With an empty Source there is none: updates
	// are uploaded.
	Settings *Settings
	// Source, if set, is where updates come from, whatever the settings say.
	Source Source
	// Trust is whose signatures count, of uploads and of sources that the settings name. Default: that of IncusOS.
	Trust Trust
	// HTTP is how sources that the settings name are asked; its URL, Trust and TokenInQuery are those of the settings.
	HTTP HTTPOptions
	// Interval between two refreshes, give or take a tenth. Default 1 hour; below 0: only when asked.
	Interval time.Duration
	// MaxFetches is how many files are fetched at a time. Default 4.
	MaxFetches int
	// MaxAttempts is how often a file is tried in a row without any progress. RetryDelay is before the second attempt, and
	// doubles with each, up to a minute. Defaults 5 and 1 s.
	MaxAttempts int
	RetryDelay  time.Duration
	// MaxUpload bounds an uploaded archive, in bytes. Default 20 GiB.
	MaxUpload int64
	// Reserve is the share of the disk that is left free. Default 0.1; below 0: none.
	Reserve float64
	// Owner names the store to which the files belong. Stores in memory that follow each other over the same files have one. Default: a
	// random name, which is kept in the store.
	Owner string
	// VerifyInterval is the time between two looks of Run at all files, see Verify. Default 7 days; below 0: none.
	VerifyInterval time.Duration
}

// Manager keeps the updates. All methods may be called concurrently.
type Manager struct {
	registry *opscenter.Registry
	files    Files
	options  Options
	log      *slog.Logger
	settings atomic.Pointer[prepared]
	view     atomic.Pointer[Snapshot]
	progress progress

	turn    chan struct{} // held by the running refresh
	woken   chan struct{}
	running atomic.Bool
	cancel  atomic.Pointer[context.CancelFunc] // of the last refresh

	mu sync.Mutex // held while rows change
	// making are files that no row may name yet.
	making map[string]*making
}

// making is a file that is being written, or was, for a row that is to come.
type making struct {
	sync.Mutex // held by the writer of the file
	pins       int
}

// ErrRunning: Run is running already.
var ErrRunning = errors.New("is running already")

var table = storage.NewTable("updates", func(u *Update) storage.Key { return storage.StringKey(u.UUID) })

func now() time.Time { return time.Now().UTC().Round(0) }

// New returns the feed. It reads what there is, takes ready updates with missing files back to pending, and removes files
// that no update names. Errors: ErrNotOwner if they belong to another store, opscenter.ErrInvalidOptions, ErrInvalid for settings that can't be, expression.ErrInvalid for a
// filter, opscenter.ErrNotFound for a channel, those of the store and of files.
func New(ctx context.Context, registry *opscenter.Registry, files Files, options Options) (*Manager, error) {
	if options.Logger == nil {
		options.Logger = slog.New(slog.DiscardHandler)
	}
	if files == nil {
		return nil, fmt.Errorf("there is no place for files: %w", opscenter.ErrInvalidOptions)
	}
	if options.Settings == nil {
		s := DefaultSettings()
		options.Settings = &s
	}
	onDemand := options.Interval < 0
	if onDemand {
		options.Interval = 0
	}
	err := defaults.Fill(opscenter.ErrInvalidOptions, defaults.Of("Interval", &options.Interval, DefaultInterval), defaults.Of("MaxFetches", &options.MaxFetches, DefaultMaxFetches),
		defaults.Of("MaxAttempts", &options.MaxAttempts, DefaultMaxAttempts), defaults.Of("RetryDelay", &options.RetryDelay, DefaultRetryDelay),
		defaults.Of("MaxUpload", &options.MaxUpload, int64(DefaultMaxUpload)))
	if err != nil {
		return nil, err
	}
	if onDemand {
		options.Interval = -1
	}
	if options.VerifyInterval == 0 {
		options.VerifyInterval = DefaultVerifyInterval
	}
	switch {
	case options.Reserve == 0:
		options.Reserve = DefaultReserve
	case options.Reserve < 0:
		options.Reserve = 0
	case !(options.Reserve < 1):
		return nil, fmt.Errorf("option Reserve is %v, it must be less than 1: %w", options.Reserve, opscenter.ErrInvalidOptions)
	}
	m := &Manager{registry: registry, files: files, options: options, log: options.Logger, turn: make(chan struct{}, 1), woken: make(chan struct{}, 1), making: map[string]*making{}}
	if err := registry.Store().Attach(ctx, table.Schema(), feeds.Schema()); err != nil {
		return nil, err
	}
	initial, stored := *options.Settings, false
	err = registry.Read(ctx, func(tx *opscenter.Snapshot) error {
		row, err := loadFeed(tx)
		if err == nil && row.Settings != nil {
			initial, stored = *row.Settings, true
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	s, err := m.prepare(initial)
	if err != nil {
		return nil, err
	}
	err = registry.Write(ctx, func(tx *opscenter.Tx) error {
		if err := tx.RequireChannel(s.DefaultChannel); err != nil || options.Settings.ServerDefaultChannel == "" || stored {
			return err
		}
		return tx.SetDefaultChannel(options.Settings.ServerDefaultChannel)
	})
	if err != nil {
		return nil, err
	}
	m.settings.Store(s)
	if stored && initial != *options.Settings {
		m.log.WarnContext(ctx, "the settings of the update feed are those that operators have set, not those of the program", "source", initial.Source)
	}
	if err := m.claim(ctx); err != nil {
		return nil, err
	}
	if err := m.recover(ctx); err != nil {
		return nil, err
	}
	return m, nil
}

// claim makes the files those of this store.
func (m *Manager) claim(ctx context.Context) error {
	claimer, ok := m.files.(Claimer)
	if !ok {
		return nil
	}
	if m.options.Owner != "" {
		return claimer.Claim(ctx, m.options.Owner)
	}
	owner := ""
	err := m.registry.Write(ctx, func(tx *opscenter.Tx) error {
		row, err := loadFeed(tx)
		if err != nil {
			return err
		}
		if row.Owner == "" {
			row.Owner = rand.Text()
			if err := feeds.Put(tx, row); err != nil {
				return err
			}
		}
		owner = row.Owner
		return nil
	})
	if err != nil {
		return err
	}
	return claimer.Claim(ctx, owner)
}

// Run refreshes now, and at each interval, until the context ends. What goes wrong is a warning. Errors: ErrRunning, and
// that of the context.
func (m *Manager) Run(ctx context.Context) error {
	if !m.running.CompareAndSwap(false, true) {
		return ErrRunning
	}
	defer m.running.Store(false)
	verified := time.Now()
	for {
		if err := m.Refresh(ctx, RefreshOptions{}); err != nil && ctx.Err() == nil && !errors.Is(err, ErrNoSource) {
			m.log.ErrorContext(ctx, "updates could not be refreshed", "error", err)
		}
		if m.options.VerifyInterval > 0 && time.Since(verified) >= m.options.VerifyInterval {
			verified = time.Now()
			if err := m.Verify(ctx); err != nil && ctx.Err() == nil {
				m.log.ErrorContext(ctx, "files of updates are damaged", "error", err)
			}
			continue // what is damaged is fetched anew
		}
		wait := time.Duration(math.MaxInt64)
		if m.options.Interval > 0 {
			wait = time.Duration(float64(m.options.Interval) * (0.9 + 0.2*mathrand.Float64()))
		}
		if m.options.VerifyInterval > 0 {
			wait = min(wait, m.options.VerifyInterval-time.Since(verified))
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-m.woken:
		case <-ctx.Done():
		}
		timer.Stop()
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
}

// wake makes Run refresh at once.
func (m *Manager) wake() {
	select {
	case m.woken <- struct{}{}:
	default: // it will
	}
}

// HasSource reports whether there is a source to refresh from.
func (m *Manager) HasSource() bool { return m.settings.Load().source != nil }

// RefreshSoon makes Run refresh at once; while it does, once more afterwards.
func (m *Manager) RefreshSoon() { m.wake() }

// Snapshot is the updates at one moment. All that it returns is shared: read it, don't modify it.
type Snapshot struct {
	updates []*Update
	byUUID  map[string]*Update
	cached  sync.Map
}

// Snapshot returns the updates there are.
func (m *Manager) Snapshot() *Snapshot { return m.view.Load() }

// Updates returns all, pending ones too, newest first.
func (s *Snapshot) Updates() []*Update { return s.updates }

// Update returns one, or opscenter.ErrNotFound.
func (s *Snapshot) Update(uuid string) (*Update, error) {
	if u := s.byUUID[uuid]; u != nil {
		return u, nil
	}
	return nil, fmt.Errorf("update %.40q: %w", uuid, opscenter.ErrNotFound)
}

// Cached returns the result of build, and calls it once per snapshot and name.
func (s *Snapshot) Cached(name string, build func() []byte) []byte {
	entry, _ := s.cached.LoadOrStore(name, sync.OnceValue(build))
	return entry.(func() []byte)()
}

// change runs fn in a transaction, with all updates; then it stores what has changed, and says what the channels offer.
func (m *Manager) change(ctx context.Context, reason string, fn func(c *changing) error) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	var after []*Update
	err := m.registry.Write(ctx, func(tx *opscenter.Tx) error {
		before, err := all(tx)
		if err != nil {
			return err
		}
		c := &changing{tx: tx, rows: map[string]*Update{}, changed: map[string]bool{}}
		for _, u := range before {
			c.rows[u.UUID] = u
		}
		if err := fn(c); err != nil {
			return err
		}
		after = c.list()
		return c.store(before, after, reason)
	})
	if err == nil {
		m.show(after)
	}
	return err
}

// changing are the updates in a transaction.
type changing struct {
	tx      *opscenter.Tx
	rows    map[string]*Update
	changed map[string]bool
}

// put stores an update; nothing of it may be shared with what was read.
func (c *changing) put(u Update) {
	u.LastUpdated = now()
	c.rows[u.UUID], c.changed[u.UUID] = &u, true
}

func (c *changing) remove(uuid string) { delete(c.rows, uuid) }

func (c *changing) list() []*Update {
	out := make([]*Update, 0, len(c.rows))
	for _, u := range c.rows {
		out = append(out, u)
	}
	slices.SortFunc(out, newestFirst)
	return out
}

func (c *changing) store(before, after []*Update, reason string) error {
	touched := map[string]bool{} // channels
	note := func(u *Update) {
		for _, channel := range u.Channels {
			touched[channel] = true
		}
	}
	for _, u := range before {
		if c.rows[u.UUID] == nil {
			note(u)
			if err := table.Delete(c.tx, storage.StringKey(u.UUID)); err != nil {
				return err
			}
		} else if c.changed[u.UUID] {
			note(u)
		}
	}
	for uuid := range c.changed {
		if u := c.rows[uuid]; u != nil {
			note(u)
			if err := table.Put(c.tx, u); err != nil {
				return err
			}
		}
	}
	for channel := range touched {
		offered, keys := Offered(after, channel), 0
		if offered != nil {
			keys = offered.SecureBootKeys
		}
		err := c.tx.SetOffer(channel, OfferOf(offered), keys, reason)
		if err != nil && !errors.Is(err, opscenter.ErrNotFound) { // one that is gone offers nothing
			return err
		}
	}
	return nil
}

// show makes rows visible to readers.
func (m *Manager) show(list []*Update) {
	s := &Snapshot{updates: list, byUUID: map[string]*Update{}}
	for _, u := range list {
		s.byUUID[u.UUID] = u
	}
	m.view.Store(s)
}

// all reads the updates, newest first.
func all(tx storage.ReadTx) (out []*Update, err error) {
	for u, err := range table.Scan(tx, storage.Range{}) {
		if err != nil {
			return nil, err
		}
		out = append(out, u)
	}
	slices.SortFunc(out, newestFirst)
	return out, nil
}

// recover finds out what a crash, or another program, has left.
func (m *Manager) recover(ctx context.Context) error {
	sizes := map[string]int64{}
	for info, err := range m.files.List(ctx) {
		if err != nil {
			return fmt.Errorf("the files of updates: %w", err)
		}
		sizes[info.SHA256] = info.Size
	}
	var lost []string
	err := m.change(ctx, "files are missing, or are back", func(c *changing) error {
		lost = nil
		for _, u := range c.list() {
			missing := ""
			for i := range u.Files {
				if size, ok := sizes[u.Files[i].SHA256]; !ok || size != u.Files[i].Size {
					missing = u.Files[i].Filename
					break
				}
			}
			if u.Status == StatusPending && missing == "" && u.Placed { // its files are back
				back := *u
				back.Status, back.Problem = StatusReady, ""
				if back.Held != "" {
					back.Problem = "is held back from channel " + back.Held
				}
				c.put(back)
			}
			if u.Status == StatusReady && missing != "" {
				back := *u
				back.Status, back.Problem = StatusPending, fmt.Sprintf("file %s is missing", missing)
				c.put(back)
				lost = append(lost, fmt.Sprintf("update %s: %s", u.Version, back.Problem))
				m.log.WarnContext(ctx, "an update is not offered any more", "version", u.Version, "problem", back.Problem)
			}
		}
		return nil
	})
	if err == nil && len(lost) > 0 {
		err = m.warn(ctx, warning.Updates, cut(strings.Join(lost, "; ")))
	}
	if err != nil {
		return err
	}
	return m.sweep(ctx)
}

// sweep removes files that no update names.
func (m *Manager) sweep(ctx context.Context) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	named := map[string]bool{}
	for _, u := range m.Snapshot().Updates() {
		for i := range u.Files {
			named[u.Files[i].SHA256] = true
		}
	}
	var orphans []string
	for _, list := range []iter.Seq2[FileInfo, error]{m.files.List(ctx), m.files.Unfinished(ctx)} {
		for info, err := range list {
			if err != nil {
				return fmt.Errorf("the files of updates: %w", err)
			}
			if !named[info.SHA256] && m.making[info.SHA256] == nil {
				orphans = append(orphans, info.SHA256)
			}
		}
	}
	for _, sum := range orphans {
		if err := m.files.Remove(ctx, sum); err != nil {
			return fmt.Errorf("a file of no update: %w", err)
		}
	}
	return nil
}

// pin keeps a file from being swept. It returns what ends that.
func (m *Manager) pin(sum string) (unpin func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	one := m.making[sum]
	if one == nil {
		one = &making{}
		m.making[sum] = one
	}
	one.pins++
	return func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		if one.pins--; one.pins == 0 {
			delete(m.making, sum)
		}
	}
}

// hold pins a file, and keeps others from writing it.
func (m *Manager) hold(sum string) (release func()) {
	unpin := m.pin(sum)
	m.mu.Lock()
	one := m.making[sum]
	m.mu.Unlock()
	one.Lock()
	return func() {
		one.Unlock()
		unpin()
	}
}

// by names the principal of ctx, for a reason.
func by(ctx context.Context) string {
	if who := opscenter.Principal(ctx); who != "" {
		return ", by " + who
	}
	return ""
}
