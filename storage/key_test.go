package storage_test

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/storage"
)

func TestKeysOrderAsTheirParts(t *testing.T) {
	at := time.Date(2026, 8, 1, 12, 0, 0, 0, time.UTC)
	ascending := [][]storage.Key{
		{storage.StringKey(""), storage.StringKey("\x00"), storage.StringKey("\x00a"), storage.StringKey("a"), storage.StringKey("a\x00"), storage.StringKey("a").Str("b"), storage.StringKey("aa")},
		{storage.UintKey(0), storage.UintKey(1), storage.UintKey(255), storage.UintKey(256), storage.UintKey(1 << 63)},
		{storage.Key(nil).Time(time.Time{}), storage.Key(nil).Time(at.AddDate(-100, 0, 0)), storage.Key(nil).Time(at), storage.Key(nil).Time(at.Add(1))},
	}
	// A key whose first part is "a" sorts with "a", whatever follows.
	ascending[0][3], ascending[0][4], ascending[0][5] = storage.StringKey("a"), storage.StringKey("a").Str("b"), storage.StringKey("a\x00")
	for _, keys := range ascending {
		for i := 1; i < len(keys); i++ {
			require.Negative(t, keys[i-1].Compare(keys[i]), "%s, %s", keys[i-1], keys[i])
		}
	}
	base := storage.StringKey("a")
	one, two := base.Str("b"), base.Str("c")
	require.NotEqual(t, one, two, "building a key leaves the others alone")
	require.Equal(t, "a/b", one.String())
	require.Equal(t, `a/7/2026-08-01T12:00:00Z/"\x00"`, base.Uint(7).Time(at).Str("\x00").String())
}

func TestRanges(t *testing.T) {
	for _, r := range []storage.Range{{}, {Prefix: storage.StringKey("b")}, {After: storage.StringKey("b")}, {Prefix: storage.StringKey("b"), After: storage.StringKey("b").Str("c")}, {Prefix: storage.Key{0xff, 0xff}}} {
		for _, reverse := range []bool{false, true} {
			r.Reverse = reverse
			from, to := r.Bounds()
			for _, key := range []storage.Key{storage.StringKey("a"), storage.StringKey("b"), storage.StringKey("b").Str("c"), storage.StringKey("b").Str("d"), storage.StringKey("c"), {0xff, 0xff, 0x01}} {
				inside := key.Compare(from) >= 0 && (to == nil || key.Compare(to) < 0)
				require.Equal(t, r.Contains(key), inside, "%+v %s", r, key)
			}
		}
	}
}

func TestErrorsNameTableAndKey(t *testing.T) {
	type row struct{ ID string }
	open := storage.NewTable("open", func(r *row) storage.Key { return storage.StringKey(r.ID) })
	closed := storage.NewTable("closed", func(r *row) storage.Key { return storage.StringKey(r.ID) }).Secret()
	require.EqualError(t, open.Schema().Primary.Wrap(storage.StringKey("k"), storage.ErrNotFound), "table open: k: not found")
	require.EqualError(t, closed.Schema().Primary.Wrap(storage.StringKey("k"), storage.ErrNotFound), "table closed: not found")
	_, err := closed.Schema().Encode(&row{ID: "hunter2" + strings.Repeat("x", storage.MaxRowSize)})
	require.ErrorIs(t, err, storage.ErrTooLarge)
	require.NotContains(t, err.Error(), "hunter2")
}

func FuzzKey(f *testing.F) {
	f.Add("a", "a\x00", uint64(1))
	f.Fuzz(func(t *testing.T, a, b string, n uint64) {
		ka, kb := storage.StringKey(a).Uint(n), storage.StringKey(b).Uint(n)
		if got, want := ka.Compare(kb), strings.Compare(a, b); got != want {
			t.Fatalf("%q and %q: %d, %d is wanted", a, b, got, want)
		}
		if back, ok := ka.FirstString(); !ok || back != a {
			t.Fatalf("%q comes back as %q", a, back)
		}
		if a != b && bytes.HasPrefix(storage.StringKey(a), storage.StringKey(b)) {
			t.Fatalf("%q is a prefix of %q", b, a)
		}
		_ = storage.Key(a).String() // any bytes can be shown
		storage.Key(a).FirstString()
	})
}

func TestStringsKey(t *testing.T) {
	require.Equal(t, storage.StringKey("a").Str("").Str("b\x00c").Str("\x00"), storage.StringsKey("a", "", "b\x00c", "\x00"))
	require.Empty(t, storage.StringsKey())
}
