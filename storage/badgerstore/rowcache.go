package badgerstore

import (
	"hash/maphash"
	"math"
	"sync"

	"github.com/hashicorp/golang-lru/v2/simplelru"
)

// DefaultRowCache is the default of Options.RowCache: the rows of about 14,000 servers.
const DefaultRowCache = 16 << 20

// rowCache keeps what keys of hot tables lead to at the last commit: decoded rows, and the primary keys to which unique indexes
// lead. A reader so need not ask Badger. Rows are shared with readers, as storage.ReadTx says. A rowCache may be used
// concurrently. nil: there is none.
//
// Each commit tells the cache all such keys that it writes, before a snapshot shows it. So an entry is true for each
// snapshot that is not older than the entry's version.
type rowCache struct {
	seed   maphash.Seed
	shards [128]shard
}

// shard is a part of a rowCache, so that readers rarely wait for each other.
type shard struct {
	mu      sync.Mutex
	entries *simplelru.LRU[string, cacheEntry]
	size    int // of the encoded values, with their keys
	max     int
	// written is the last commit that wrote a key of the shard, whether the cache has that key or not.
	written uint64
}

type cacheEntry struct {
	version uint64
	value   any
	size    int
}

// newRowCache returns a cache of so many encoded bytes. nil: there is none.
func newRowCache(size int64) *rowCache {
	if size <= 0 {
		return nil
	}
	c := &rowCache{seed: maphash.MakeSeed()}
	for i := range c.shards {
		entries, err := simplelru.NewLRU[string, cacheEntry](math.MaxInt32, nil) // bounded by size
		if err != nil {
			panic(err) // the limit is a constant
		}
		c.shards[i].entries, c.shards[i].max = entries, int(size)/len(c.shards)
	}
	return c
}

func (c *rowCache) shard(key []byte) *shard {
	return &c.shards[maphash.Bytes(c.seed, key)%uint64(len(c.shards))]
}

// get returns what a key leads to in the snapshot of a revision, and its version. nil: the cache does not know.
func (c *rowCache) get(key []byte, revision uint64) (value any, version uint64) {
	if c == nil {
		return nil, 0
	}
	s := c.shard(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	if found, ok := s.entries.Get(string(key)); ok && found.version <= revision {
		return found.value, found.version
	}
	return nil, 0
}

// put keeps what a reader has found in the snapshot of a revision. It keeps nothing that may have been replaced since. scanned: a
// scan has read it. A scan that is larger than the cache must not replace it entry by entry, so it fills free room only.
func (c *rowCache) put(key []byte, e cacheEntry, revision uint64, scanned bool) {
	if c == nil {
		return
	}
	e.size += len(key)
	s := c.shard(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.written > revision || scanned && s.size+e.size > s.max {
		return
	}
	s.set(string(key), e)
}

// committed tells of the writes of a commit.
func (c *rowCache) committed(writes map[string]write, revision uint64) {
	if c == nil {
		return
	}
	for key, w := range writes {
		if w.hot {
			s := c.shard([]byte(key))
			s.mu.Lock()
			s.written = revision
			s.set(key, cacheEntry{revision, w.decoded, len(key) + len(w.value)})
			s.mu.Unlock()
		}
	}
}

// set replaces an entry. It keeps none without a value, and none that takes most of the shard.
func (s *shard) set(key string, e cacheEntry) {
	if before, ok := s.entries.Peek(key); ok {
		s.size -= before.size
		s.entries.Remove(key)
	}
	if e.value == nil || e.size > s.max/8 {
		return
	}
	s.entries.Add(key, e)
	s.size += e.size
	for s.size > s.max {
		_, oldest, _ := s.entries.RemoveOldest()
		s.size -= oldest.size
	}
}

// purge drops all entries.
func (c *rowCache) purge() {
	if c == nil {
		return
	}
	for i := range c.shards {
		s := &c.shards[i]
		s.mu.Lock()
		s.entries.Purge()
		s.size = 0
		s.mu.Unlock()
	}
}
