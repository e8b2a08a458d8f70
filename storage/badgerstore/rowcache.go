package badgerstore

import (
	"hash/maphash"
	"math"
	"sync"

	"github.com/hashicorp/golang-lru/v2/simplelru"
)

// DefaultRowCache is the default of Options.RowCache: the rows of about 14,000 servers.
const DefaultRowCache = 16 << 20

// rowCache keeps decoded rows, each with the version that it had in Badger: a row of another version is not used. Rows are
// shared with readers, as storage.ReadTx says. It may be used concurrently.
type rowCache struct {
	seed   maphash.Seed
	shards [16]shard
}

// shard is a part of a rowCache, so that readers rarely wait for each other.
type shard struct {
	mu   sync.Mutex
	rows *simplelru.LRU[string, cachedRow]
	size int // of the encoded rows, with their keys
	max  int
}

type cachedRow struct {
	version uint64
	row     any
	size    int
}

// newRowCache returns a cache of so many encoded bytes. nil: there is none.
func newRowCache(size int64) *rowCache {
	if size <= 0 {
		return nil
	}
	c := &rowCache{seed: maphash.MakeSeed()}
	for i := range c.shards {
		rows, err := simplelru.NewLRU[string, cachedRow](math.MaxInt32, nil) // bounded by size
		if err != nil {
			panic(err) // the limit is a constant
		}
		c.shards[i].rows, c.shards[i].max = rows, int(size)/len(c.shards)
	}
	return c
}

func (c *rowCache) shard(key []byte) *shard {
	return &c.shards[maphash.Bytes(c.seed, key)%uint64(len(c.shards))]
}

// get returns the decoded row of a version of a key, or nil.
func (c *rowCache) get(key []byte, version uint64) any {
	if c == nil {
		return nil
	}
	s := c.shard(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	if found, ok := s.rows.Get(string(key)); ok && found.version == version {
		return found.row
	}
	return nil
}

// put keeps a row. scanned: a scan has read it. A scan that is larger than the cache must not replace it entry by entry, so it
// fills free room only.
func (c *rowCache) put(key []byte, version uint64, row any, encoded int, scanned bool) {
	if c == nil {
		return
	}
	s := c.shard(key)
	size := len(key) + encoded
	if size > s.max/8 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if before, ok := s.rows.Peek(string(key)); ok {
		if before.version > version {
			return // of a reader of an old snapshot
		}
		s.size -= before.size
	} else if scanned && s.size+size > s.max {
		return
	}
	s.rows.Add(string(key), cachedRow{version, row, size})
	s.size += size
	for s.size > s.max {
		_, oldest, _ := s.rows.RemoveOldest()
		s.size -= oldest.size
	}
}
