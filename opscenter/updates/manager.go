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
	"github.com/opscenter-go/sdk/internal/truncate"
	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/warning"
	"github.com/opscenter-go/sdk/storage"
)

// Defaults of the Options of the same names.
const (
	// DefaultInterval is the default of Options.Interval.
	DefaultInterval       = time.Hour
	DefaultMaxFetches     = 4
	DefaultMaxAttempts    = 5
	DefaultRetryDelay     = time.Second
	DefaultMaxUpload      = 20 << 30
	DefaultReserve        = 0.1
	DefaultVerifyInterval = 7 * 24 * time.Hour
)

// Options are the options of New. The zero value mirrors the stable channel of IncusOS, for x86_64 and for each
// architecture of the registered servers.
type Options struct {
	// Logger logs fetched updates and problems. Default: nothing is logged.
	Logger *slog.Logger
	// Settings are used until operators set others; the Manager does not apply them again after that. Default:
	// DefaultSettings. With an empty Settings.Source updates are only uploaded.
	Settings *Settings
	// Source, unless nil, replaces the source in the settings.
	Source Source
	// Trust verifies the signatures of uploads and of the source in the settings. Default: IncusOS.
	Trust Trust
	// HTTP are the options for the source in the settings. The settings replace its URL, Trust and TokenInQuery.
	HTTP HTTPOptions
	// Interval is the time between two refreshes of Run; it varies by up to a tenth. Default 1 hour; below 0: Run
	// refreshes at its start and on demand.
	Interval time.Duration
	// MaxFetches is the number of files that are fetched in parallel. Default 4.
	MaxFetches int
	// MaxAttempts is the number of successive attempts without progress after which fetching a file fails. Default 5.
	MaxAttempts int
	// RetryDelay is the delay before the second attempt. It doubles with each attempt, up to a minute. Default 1 s.
	RetryDelay time.Duration
	// MaxUpload is the maximum size of an uploaded archive and of its unpacked files, in bytes. Default 20 GiB.
	MaxUpload int64
	// Reserve is the share of the disk that stays free. Default 0.1; below 0: none. It must be less than 1.
	Reserve float64
	// Owner names the store that owns the files. Set it for successive stores in memory over the same files. Default: a
	// random name that the store keeps.
	Owner string
	// VerifyInterval is the time between two calls of Verify by Run. Default 7 days; below 0: Run never verifies.
	VerifyInterval time.Duration
}

// Manager is the update feed. All methods may be called concurrently.
type Manager struct {
	registry *opscenter.Registry
	files    Files
	options  Options
	log      *slog.Logger
	settings atomic.Pointer[prepared]
	view     atomic.Pointer[Snapshot]
	progress progress

	refreshing chan struct{} // holds a value while a refresh runs
	wakeups    chan struct{} // holds a value if Run is to refresh at once
	running    atomic.Bool
	cancel     atomic.Pointer[context.CancelFunc] // of the last refresh

	mu sync.Mutex // held while rows change
	// pinned has the files that sweep must keep although no row names them yet, by SHA-256.
	pinned map[string]*pinnedFile
}

// pinnedFile counts the pins of a file that is being written for a future row.
type pinnedFile struct {
	sync.Mutex // held by the writer of the file
	pins       int
}

// ErrRunning: Run was called while another Run of the Manager is running.
var ErrRunning = errors.New("is running already")

// table stores the updates.
var table = storage.NewTable("updates", func(u *Update) storage.Key { return storage.StringKey(u.UUID) })

// now is the time of the Registry's clock. In a transaction, use that of the transaction.
func (m *Manager) now() time.Time { return m.registry.Observer().Now() }

// New returns the Manager of the updates in the store of registry. It makes ready updates with missing files pending, and
// removes files that no update names. Errors: ErrNotOwner if the files belong to another store, opscenter.ErrInvalidOptions,
// ErrInvalid for unusable settings, expression.ErrInvalid for a filter, opscenter.ErrNotFound for a channel, and those of
// the store and of files.
func New(ctx context.Context, registry *opscenter.Registry, files Files, options Options) (*Manager, error) {
	if options.Logger == nil {
		options.Logger = slog.New(slog.DiscardHandler)
	}
	if files == nil {
		return nil, fmt.Errorf("files is nil: %w", opscenter.ErrInvalidOptions)
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
	m := &Manager{registry: registry, files: files, options: options, log: options.Logger, refreshing: make(chan struct{}, 1), wakeups: make(chan struct{}, 1), pinned: map[string]*pinnedFile{}}
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
		m.log.WarnContext(ctx, "the update feed ignores Options.Settings, because operators have stored other settings", "source", initial.Source)
	}
	if err := m.claim(ctx); err != nil {
		return nil, err
	}
	if err := m.checkFiles(ctx); err != nil {
		return nil, err
	}
	return m, nil
}

// claim records this store as the owner of the files.
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

// Run refreshes at once and at each interval, until the context ends. It raises warnings and logs for problems, and goes
// on. Errors: ErrRunning, and that of the context.
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
			continue // the refresh fetches damaged files again
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
		case <-m.wakeups:
		case <-ctx.Done():
		}
		timer.Stop()
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
}

// wake makes Run refresh at once, or again after the refresh in progress.
func (m *Manager) wake() {
	select {
	case m.wakeups <- struct{}{}:
	default: // a refresh is due already
	}
}

// HasSource reports whether updates come from a source. Without one, Refresh returns ErrNoSource.
func (m *Manager) HasSource() bool { return m.settings.Load().source != nil }

// RefreshSoon makes Run refresh at once. During a refresh, Run refreshes once more afterwards.
func (m *Manager) RefreshSoon() { m.wake() }

// Snapshot is the list of updates at one moment. Its results are shared: callers must not modify them.
type Snapshot struct {
	updates []*Update
	byUUID  map[string]*Update
	cached  sync.Map
}

// Snapshot returns the current updates.
func (m *Manager) Snapshot() *Snapshot { return m.view.Load() }

// Updates returns all updates, pending ones too, newest first.
func (s *Snapshot) Updates() []*Update { return s.updates }

// Update returns the update with the UUID. Errors: opscenter.ErrNotFound.
func (s *Snapshot) Update(uuid string) (*Update, error) {
	if u := s.byUUID[uuid]; u != nil {
		return u, nil
	}
	return nil, fmt.Errorf("update %.40q: %w", uuid, opscenter.ErrNotFound)
}

// Cached returns the result of build. It calls build once for each name of a snapshot.
func (s *Snapshot) Cached(name string, build func() []byte) []byte {
	entry, _ := s.cached.LoadOrStore(name, sync.OnceValue(build))
	return entry.(func() []byte)()
}

// change runs fn in a transaction on all updates. It then stores the changed updates, and the offers of their channels.
func (m *Manager) change(ctx context.Context, reason string, fn func(c *changeSet) error) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	var after []*Update
	err := m.registry.Write(ctx, func(tx *opscenter.Tx) error {
		before, err := loadUpdates(tx)
		if err != nil {
			return err
		}
		c := &changeSet{tx: tx, rows: map[string]*Update{}, changed: map[string]bool{}}
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
		m.setSnapshot(after)
	}
	return err
}

// changeSet holds all updates within a transaction, and the UUIDs of the changed ones.
type changeSet struct {
	tx      *opscenter.Tx
	rows    map[string]*Update
	changed map[string]bool
}

// put stores an update. The caller must not modify slices or maps that u shares with the former row.
func (c *changeSet) put(u Update) {
	u.LastUpdated = c.tx.Now()
	c.rows[u.UUID], c.changed[u.UUID] = &u, true
}

// remove removes an update.
func (c *changeSet) remove(uuid string) { delete(c.rows, uuid) }

// list returns the updates, newest first.
func (c *changeSet) list() []*Update {
	out := make([]*Update, 0, len(c.rows))
	for _, u := range c.rows {
		out = append(out, u)
	}
	slices.SortFunc(out, newestFirst)
	return out
}

// store writes the changed rows, and sets the offers of the channels that they were in or are in.
func (c *changeSet) store(before, after []*Update, reason string) error {
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
		if err != nil && !errors.Is(err, opscenter.ErrNotFound) { // a removed channel offers nothing
			return err
		}
	}
	return nil
}

// setSnapshot replaces the snapshot that readers get.
func (m *Manager) setSnapshot(list []*Update) {
	s := &Snapshot{updates: list, byUUID: map[string]*Update{}}
	for _, u := range list {
		s.byUUID[u.UUID] = u
	}
	m.view.Store(s)
}

// loadUpdates reads all updates, newest first.
func loadUpdates(tx storage.ReadTx) (out []*Update, err error) {
	for u, err := range table.Scan(tx, storage.Range{}) {
		if err != nil {
			return nil, err
		}
		out = append(out, u)
	}
	slices.SortFunc(out, newestFirst)
	return out, nil
}

// checkFiles compares the updates with the stored files. It makes updates with missing files pending, and updates whose
// files are back ready again. A crash or another program may have changed the files.
func (m *Manager) checkFiles(ctx context.Context) error {
	sizes := map[string]int64{}
	for info, err := range m.files.List(ctx) {
		if err != nil {
			return fmt.Errorf("listing the files of updates: %w", err)
		}
		sizes[info.SHA256] = info.Size
	}
	var lost []string
	err := m.change(ctx, "files of updates went missing or came back", func(c *changeSet) error {
		lost = nil
		for _, u := range c.list() {
			missing := ""
			for i := range u.Files {
				if size, ok := sizes[u.Files[i].SHA256]; !ok || size != u.Files[i].Size {
					missing = u.Files[i].Filename
					break
				}
			}
			if u.Status == StatusPending && missing == "" && u.Placed { // all its files are stored again
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
				m.log.WarnContext(ctx, "an update is no longer offered", "version", u.Version, "problem", back.Problem)
			}
		}
		return nil
	})
	if err == nil && len(lost) > 0 {
		err = m.warn(ctx, warning.Updates, truncate.Text(strings.Join(lost, "; "), maxProblem))
	}
	if err != nil {
		return err
	}
	return m.sweep(ctx)
}

// sweep removes the files that no update names and that are not pinned.
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
				return fmt.Errorf("listing the files of updates: %w", err)
			}
			if !named[info.SHA256] && m.pinned[info.SHA256] == nil {
				orphans = append(orphans, info.SHA256)
			}
		}
	}
	for _, sum := range orphans {
		if err := m.files.Remove(ctx, sum); err != nil {
			return fmt.Errorf("removing an unused file: %w", err)
		}
	}
	return nil
}

// pin protects a file from sweep until unpin is called.
func (m *Manager) pin(sum string) (unpin func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	one := m.pinned[sum]
	if one == nil {
		one = &pinnedFile{}
		m.pinned[sum] = one
	}
	one.pins++
	return func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		if one.pins--; one.pins == 0 {
			delete(m.pinned, sum)
		}
	}
}

// lockFile pins a file and makes the caller its only writer until release is called. It waits for another writer.
func (m *Manager) lockFile(sum string) (release func()) {
	unpin := m.pin(sum)
	m.mu.Lock()
	one := m.pinned[sum]
	m.mu.Unlock()
	one.Lock()
	return func() {
		one.Unlock()
		unpin()
	}
}

// byPrincipal returns ", by NAME" for the principal of ctx, or "". It is appended to reasons of events.
func byPrincipal(ctx context.Context) string {
	if name := opscenter.Principal(ctx); name != "" {
		return ", by " + name
	}
	return ""
}
