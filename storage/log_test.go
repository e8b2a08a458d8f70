package storage_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/storage"
	"github.com/opscenter-go/sdk/storage/memstore"
)

type note struct {
	Number uint64
	Text   string
}

func TestLogNumbers(t *testing.T) {
	notes := storage.NewLog("notes", func(n *note) *uint64 { return &n.Number })
	schema := notes.Schema()
	require.True(t, schema.IsLog())
	require.False(t, books.Schema().IsLog())
	row := &note{Text: "x"}
	last := uint64(0)
	for _, at := range []struct {
		revision uint64
		index    int
	}{{1, 0}, {1, 1}, {1, storage.MaxTxAppends - 1}, {2, 0}, {1 << 37, 0}} {
		keyed, err := schema.WithKey(row, at.revision, at.index)
		require.NoError(t, err)
		number := keyed.(*note).Number
		require.Greater(t, number, last)
		require.Equal(t, storage.LogNumber(at.revision, at.index), number)
		require.Equal(t, storage.UintKey(number), schema.Key(keyed))
		back, ok := schema.Key(keyed).FirstUint()
		require.True(t, ok)
		require.Equal(t, number, back)
		last = number
	}
	require.Zero(t, row.Number, "the caller's row stays as it is")
	require.EqualValues(t, uint64(1)<<53, last, "the first number that JavaScript can't tell from the next")
	_, err := schema.WithKey(row, 1, storage.MaxTxAppends)
	require.ErrorIs(t, err, storage.ErrTooLarge)
	_, err = books.Schema().WithKey(&book{}, 1, 0)
	require.ErrorIs(t, err, storage.ErrSchema)
	_, ok := storage.StringKey("12345678").FirstUint()
	require.False(t, ok)
}

func TestLogDeclarations(t *testing.T) {
	require.PanicsWithValue(t, "storage: log notes can't have the unique index text", func() {
		storage.NewLog("notes", func(n *note) *uint64 { return &n.Number }).Unique("text", func(n *note) []storage.Key { return nil })
	})
	var shared uint64
	require.Panics(t, func() { storage.NewLog("notes", func(*note) *uint64 { return &shared }) })
	type unstored struct {
		Number uint64 `json:"-"`
	}
	require.Panics(t, func() { storage.NewLog("notes", func(n *unstored) *uint64 { return &n.Number }) })
}

// limited tells limits of its own.
type limited struct {
	storage.Store
	limits storage.Limits
}

func (l limited) Limits() storage.Limits { return l.limits }

func TestLimitsOf(t *testing.T) {
	store := memstore.New()
	defer store.Close()
	defaults := storage.Limits{MaxTxWrites: storage.MaxTxWrites, MaxTxSize: storage.MaxTxSize}
	require.Equal(t, defaults, storage.LimitsOf(store))
	require.Equal(t, defaults, storage.LimitsOf(limited{store, storage.Limits{}}))
	less := storage.Limits{MaxTxWrites: 100, MaxTxSize: 1 << 20}
	require.Equal(t, less, storage.LimitsOf(limited{store, less}))
}

func TestRowsOfLimits(t *testing.T) {
	limits := storage.Limits{MaxTxWrites: 128}
	require.Equal(t, 20, limits.Rows(20, 3), "all that are wanted")
	require.Equal(t, 42, limits.Rows(500, 3))
	require.Equal(t, 1, limits.Rows(500, 1000))
}
