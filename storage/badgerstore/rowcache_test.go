package badgerstore

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
)

func (c *rowCache) held() (n, size int) {
	for i := range c.shards {
		n += c.shards[i].rows.Len()
		size += c.shards[i].size
	}
	return n, size
}

func TestRowCache(t *testing.T) {
	var none *rowCache
	require.Nil(t, newRowCache(0))
	none.put([]byte("a"), 1, "row", 1, false)
	require.Nil(t, none.get([]byte("a"), 1), "there is no cache")

	c := newRowCache(64 << 10)
	key := func(i int) []byte { return fmt.Appendf(nil, "key%05d", i) }
	c.put(key(0), 5, "five", 10, false)
	require.Equal(t, "five", c.get(key(0), 5))
	require.Nil(t, c.get(key(0), 4), "another version")
	require.Nil(t, c.get(key(0), 6))
	c.put(key(0), 4, "four", 10, false)
	require.Equal(t, "five", c.get(key(0), 5), "a reader of an old snapshot replaces no newer row")
	c.put(key(0), 7, "seven", 20, true)
	require.Equal(t, "seven", c.get(key(0), 7))
	n, size := c.held()
	require.Equal(t, 1, n)
	require.Equal(t, len(key(0))+20, size, "the replaced row does not count")

	c.put(key(1), 1, "large", 64<<10, false)
	require.Nil(t, c.get(key(1), 1), "a row that takes most of a shard is not kept")
	for i := range 10_000 {
		c.put(key(i), 8, i, 92, true)
	}
	n, size = c.held()
	require.InDelta(t, 655, n, 20)
	require.LessOrEqual(t, size, 64<<10)
	hits := 0
	for i := range 10_000 {
		if c.get(key(i), 8) != nil {
			hits++
		}
	}
	require.Equal(t, n, hits, "a scan keeps the rows that it found room for")
	require.NotNil(t, c.get(key(1), 8))
	for i := 20_000; i < 30_000; i++ {
		c.put(key(i), 8, i, 92, false)
	}
	require.Nil(t, c.get(key(1), 8), "rows that are read one by one replace the oldest")
	_, size = c.held()
	require.LessOrEqual(t, size, 64<<10)
}
