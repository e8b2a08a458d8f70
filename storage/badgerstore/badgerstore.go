// Package badgerstore keeps a storage.Store on disk, in Badger.
//
// An Update that returned nil is on disk: it survives kill -9 and the loss of power, as far
// as the disk keeps what it acknowledged. Many waiting Updates share one sync. Opening
// verifies that all that was acknowledged is there; see [Open]. After a loss of power, damage to the commits of
// the last second may go unnoticed.
//
// [Store.Backup] writes a backup while the store goes on, and [Restore] makes a store of it. Do not copy the directory while a
// program has it open: its files are copied one after another, and Open mostly refuses the copy as corrupt. An atomic snapshot
// of the file system is safe: it is what a loss of power would leave, and opens with all that was acknowledged by then.
//
// # Performance
//
// The machine has 2 shared cores. The limit is bare Badger, and the decoding of the same two rows per server from JSON. It is
// filled in the same way: one transaction for each server, in no order. Figures are of single runs. A list is faster than its limit,
// because rows are stored in CBOR.
//
//	go test -run '^$' -bench Badger -timeout 30m ./opscenter
//
//	                             limit    Registry  ratio
//	get one of 100,000 servers   55 µs    56 µs     1.0
//	list 100,000 servers         2.4 s    1.1 s     0.5
//
// A registration includes a synced write. Package httpapi has its figures. This benchmark writes fleets that stay as they are, that
// change, and that have large facts. It reports the size of the directory, by the size of its rows and in MiB:
//
//	go test -run '^$' -bench Disk ./storage/badgerstore
package badgerstore

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"log/slog"
	"os"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/dgraph-io/badger/v4"
	badgeroptions "github.com/dgraph-io/badger/v4/options"

	"github.com/opscenter-go/sdk/storage"
	"github.com/opscenter-go/sdk/storage/feed"
)

// Defaults of Options.
const (
	// DefaultMinFree is how much room the file system must have left for a write to be accepted.
	// It covers what Badger may write behind an accepted commit: logs that are sparse files
	// until they are filled, flushed tables and compactions.
	DefaultMinFree = 256 << 20
	// DefaultGCInterval is the time between two collections of the value log.
	DefaultGCInterval = time.Hour
)

// Options of Open. The zero value is what most programs want.
type Options struct {
	// Logger gets what Badger has to say. Default: nothing is logged.
	Logger *slog.Logger
	// MinFree, in bytes: with less room than this on the file system, Update returns
	// storage.ErrDiskFull before anything is touched; Open wants a quarter of it, and Close half of it, but at most
	// 128 MiB. Default DefaultMinFree; below 0: no check.
	MinFree int64
	// GCInterval is the time between two collections of the value log; one runs at open, and whenever
	// the bytes replaced exceed those in the store by 16 MiB. Default DefaultGCInterval.
	GCInterval time.Duration
	// SkipVerify opens without reading through all keys, about a second per million of them.
	// Missing rows then go unnoticed. The size of the store is then taken to be that of its files.
	SkipVerify bool
	// RowCache bounds the cache of decoded rows, in bytes of their encoded form. They take about twice as much memory. Only
	// tables with storage.Table.Hot use it. Default DefaultRowCache (16 MiB); below 0: no cache.
	RowCache int64
	// FeedSize is how many changes a watcher may be behind before it is reset. Default 65,536.
	FeedSize int
}

// Sizes of an embedded store. Badger's defaults are for a server that does nothing else.
const (
	memTableSize   = 32 << 20
	valueLogSize   = 64 << 20
	blockCacheSize = 64 << 20
	indexCacheSize = 32 << 20
	// valueThreshold keeps larger rows in the value log, out of tables and their caches.
	valueThreshold = 8 << 10
	// maxCommit is what one Badger transaction takes, with its 15 % of a memtable, and some air.
	maxCommit = 4_600_000
	// maxGroup is how many Updates share a sync at the most.
	maxGroup = 512
)

// Store implements storage.Store.
type Store struct {
	dir        string
	options    Options
	db         *badger.DB
	journal    *journal
	unfinished []string // empty logs, set aside
	feed       *feed.Feed
	rows       *rowCache

	// Updates take turns on mu. Each runs against the open group, on top of the last commit. The last waiting Update
	// commits the group.
	mu      sync.Mutex
	waiting atomic.Int64
	group   *group
	state   state // of the last commit
	failed  error // Badger failed in a commit: only a reopened store knows the outcome
	tables  atomic.Pointer[map[string]*storage.TableSchema]

	commits, refused, written atomic.Uint64

	revision atomic.Uint64

	readers struct {
		sync.Mutex
		idle   *sync.Cond
		active map[uint64]int // revision → readers
		closed bool
	}

	account account       // under mu
	garbage chan struct{} // there is much to reclaim

	stop    chan struct{} // ends the collector
	stopped chan struct{}
}

// Open opens the store in dir, and creates it where there is none.
//
// Errors: storage.ErrLocked if another process has it open; storage.ErrFormat if a newer
// version of this package wrote it; storage.ErrCorrupt if a file was truncated or damaged,
// or something that was acknowledged is missing. Copy the directory before
// trying anything on a damaged store: Badger cuts off what it can't read. What a power cut leaves
// unfinished, such as a file that was just made and is empty, is no damage: the store opens, with all
// that was acknowledged.
func Open(dir string, options ...Options) (*Store, error) {
	s := &Store{dir: dir, garbage: make(chan struct{}, 1), stop: make(chan struct{}), stopped: make(chan struct{})}
	s.tables.Store(&map[string]*storage.TableSchema{})
	if len(options) > 0 {
		s.options = options[0]
	}
	if s.options.Logger == nil {
		s.options.Logger = slog.New(slog.DiscardHandler)
	}
	if s.options.MinFree == 0 {
		s.options.MinFree = DefaultMinFree
	}
	if s.options.GCInterval <= 0 {
		s.options.GCInterval = DefaultGCInterval
	}
	if s.options.RowCache == 0 {
		s.options.RowCache = DefaultRowCache
	}
	s.rows = newRowCache(s.options.RowCache)
	s.readers.active = map[uint64]int{}
	s.readers.idle = sync.NewCond(&s.readers)

	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("badgerstore: %w", err)
	}
	j, err := openJournal(dir)
	if err != nil {
		return nil, err
	}
	s.journal = j
	// Opening writes less than a running store may: what was in memory when it ended.
	if err := s.wantSpace(s.options.MinFree / 4); err != nil {
		_ = j.close()
		return nil, err
	}
	if err := checkTables(dir, !s.options.SkipVerify); err != nil {
		_ = j.close()
		return nil, err
	}
	if s.unfinished, err = setAside(dir); err != nil {
		_ = j.close()
		return nil, err
	}
	if s.db, err = open(dir, s.options.Logger); err != nil {
		_ = j.close()
		return nil, err
	}
	err = s.load()
	if err == nil {
		err = j.upgrade()
	}
	if err != nil {
		err = errors.Join(fmt.Errorf("badgerstore: %s: %w", dir, err), s.db.Close())
		_ = j.close()
		return nil, err
	}
	for _, path := range s.unfinished {
		s.options.Logger.Info("an empty log that was left unfinished is removed; nothing is missing without it", "path", path)
		_ = os.Remove(path)
	}
	s.feed = feed.New(s.state.Revision, s.options.FeedSize)
	s.revision.Store(s.state.Revision)
	s.db.SetDiscardTs(s.state.Revision)
	if s.options.SkipVerify && s.account.live == 0 { // load did not count
		s.account.live = logSize(dir)
	}
	s.account.dead = max(0, logSize(dir)-s.account.live)
	s.noteGarbage()
	go s.collect()
	return s, nil
}

// open starts Badger, with its panics over damaged files turned into errors.
func open(dir string, logger *slog.Logger) (db *badger.DB, err error) {
	// Files cut short under a memory map fault when they are read.
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			db, err = nil, fmt.Errorf("badgerstore: %s: %w: %v", dir, storage.ErrCorrupt, r)
		}
	}()
	opts := badger.DefaultOptions(dir).
		WithSyncWrites(true).
		WithDetectConflicts(false). // Updates take turns
		WithMemTableSize(memTableSize).
		WithNumMemtables(2).
		WithValueLogFileSize(valueLogSize).
		WithValueThreshold(valueThreshold).
		WithBlockCacheSize(blockCacheSize).
		WithIndexCacheSize(indexCacheSize).
		WithNumCompactors(2).
		WithMetricsEnabled(false).
		WithVerifyValueChecksum(true).
		WithChecksumVerificationMode(badgeroptions.OnBlockRead). // tables: see checkTables
		WithLogger(badgerLogger{logger})
	db, err = badger.OpenManaged(opts)
	switch {
	case err == nil:
		return db, nil
	case strings.Contains(err.Error(), "Cannot acquire directory lock"):
		return nil, lockedError(dir)
	case errors.Is(err, syscall.ENOSPC):
		return nil, fmt.Errorf("badgerstore: %s: %w: %v", dir, storage.ErrDiskFull, err)
	case errors.Is(err, fs.ErrPermission):
		return nil, fmt.Errorf("badgerstore: %s: %w", dir, err)
	}
	return nil, fmt.Errorf("badgerstore: %s: %w: %v", dir, storage.ErrCorrupt, err)
}

// View implements storage.Store.
func (s *Store) View(ctx context.Context, fn func(storage.ReadTx) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	revision, err := s.beginRead()
	if err != nil {
		return err
	}
	defer s.endRead(revision)
	tx := &transaction{store: s, base: s.db.NewTransactionAt(revision, false), revision: revision}
	defer tx.end()
	return fn(tx)
}

// beginRead keeps the versions of the current revision from being discarded, and the store open.
func (s *Store) beginRead() (uint64, error) {
	s.readers.Lock()
	defer s.readers.Unlock()
	if s.readers.closed {
		return 0, storage.ErrClosed
	}
	revision := s.revision.Load()
	s.readers.active[revision]++
	return revision, nil
}

func (s *Store) endRead(revision uint64) {
	s.readers.Lock()
	defer s.readers.Unlock()
	if s.readers.active[revision]--; s.readers.active[revision] == 0 {
		delete(s.readers.active, revision)
		s.readers.idle.Broadcast()
	}
}

// discard lets Badger forget versions that no reader can see any more.
func (s *Store) discard() {
	s.readers.Lock()
	defer s.readers.Unlock()
	oldest := s.revision.Load()
	for revision := range s.readers.active {
		oldest = min(oldest, revision)
	}
	s.db.SetDiscardTs(oldest)
}

// Sync implements storage.Synced. A View shows every commit at once.
func (s *Store) Sync(ctx context.Context) error {
	return s.View(ctx, func(storage.ReadTx) error { return nil })
}

// Watch implements storage.Store.
func (s *Store) Watch(ctx context.Context, since uint64, tables ...string) iter.Seq2[storage.Batch, error] {
	return s.feed.Watch(ctx, since, tables...)
}

// Close implements storage.Store. Where the disk is full, or the directory was removed, it says so, and leaves the
// files as they are: nothing is lost, and another process can open the store once there is room.
func (s *Store) Close() error {
	s.readers.Lock()
	if s.readers.closed {
		s.readers.Unlock()
		<-s.stopped
		return nil
	}
	s.readers.closed = true
	close(s.stop)
	for len(s.readers.active) > 0 {
		s.readers.idle.Wait()
	}
	s.readers.Unlock()
	<-s.stopped

	s.mu.Lock()
	defer s.mu.Unlock()
	if s.group != nil {
		s.commitGroup() // those who joined it wait for that, and who was to do it may come after us
	}
	s.feed.Close()
	if err := s.closeable(); err != nil {
		// Badger keeps its files open, and its lock on the directory, until the process ends.
		_ = s.journal.close()
		return fmt.Errorf("badgerstore: %s is left as it is, with all that was acknowledged in its logs, and can be opened by another process: %w", s.dir, err)
	}
	err := s.db.Close()
	if failed := s.journal.close(); s.failed == nil { // after a failed commit, the caller knows already
		err = errors.Join(err, failed)
	}
	if err != nil {
		return fmt.Errorf("badgerstore: closing %s: %w", s.dir, err)
	}
	return nil
}

// badgerLogger writes Badger's messages to slog.
type badgerLogger struct{ logger *slog.Logger }

func (l badgerLogger) Errorf(f string, v ...any)   { l.logger.Error("badger: " + line(f, v)) }
func (l badgerLogger) Warningf(f string, v ...any) { l.logger.Warn("badger: " + line(f, v)) }
func (l badgerLogger) Infof(f string, v ...any)    { l.logger.Debug("badger: " + line(f, v)) }
func (l badgerLogger) Debugf(string, ...any)       {}

func line(f string, v []any) string { return strings.TrimSpace(fmt.Sprintf(f, v...)) }
