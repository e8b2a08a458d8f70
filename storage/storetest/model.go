package storetest

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/opscenter-go/sdk/storage"
)

// model compares random transactions with a map. One store serves all runs: each begins by emptying it.
func (s *suite) model(t *testing.T) {
	store, ts := s.store(t)
	rapid.Check(t, func(r *rapid.T) {
		m := map[string]item{}
		require.NoError(r, store.Update(t.Context(), func(tx storage.WriteTx) error {
			for row, err := range ts.items.Scan(tx, storage.Range{}) {
				if err != nil {
					return err
				}
				if err := ts.items.Delete(tx, itemKey(row.ID)); err != nil {
					return err
				}
			}
			return nil
		}))
		for range rapid.IntRange(1, 8).Draw(r, "transactions") {
			draft := map[string]item{}
			for id, row := range m {
				draft[id] = row
			}
			abort := rapid.IntRange(0, 4).Draw(r, "abort") == 0
			stop := errors.New("aborted")
			ops := rapid.SliceOfN(rapid.Custom(drawOp), 1, 12).Draw(r, "ops")
			err := store.Update(t.Context(), func(tx storage.WriteTx) error {
				clear(draft)
				for id, row := range m {
					draft[id] = row
				}
				for _, op := range ops {
					op.apply(r, ts, tx, draft)
				}
				if abort {
					return stop
				}
				return nil
			})
			if abort {
				require.ErrorIs(r, err, stop)
			} else {
				require.NoError(r, err)
				m = draft
			}
			require.NoError(r, store.View(t.Context(), func(tx storage.ReadTx) error {
				compare(r, ts, tx, m, storage.Range{})
				compare(r, ts, tx, m, drawRange(r))
				return nil
			}))
		}
	})
}

var (
	drawID  = rapid.SampledFrom([]string{"", "a", "a\x00", "a\x00b", "ab", "b", "c1", "c10", "ü", "z"})
	drawTag = rapid.SampledFrom([]string{"", "x", "x\x00", "xy", "y"})
)

type op struct {
	kind  string
	row   item
	bound storage.Range
}

func drawRow(r *rapid.T) item {
	return item{
		ID:    drawID.Draw(r, "id"),
		Owner: rapid.SampledFrom([]string{"", "", "o", "o\x00", "p"}).Draw(r, "owner"),
		Tags:  rapid.SliceOfN(drawTag, 0, 3).Draw(r, "tags"),
		Size:  rapid.SampledFrom([]uint64{0, 1, 2, 256, 1 << 40}).Draw(r, "size"),
		Text:  rapid.StringN(0, 5, -1).Filter(utf8.ValidString).Draw(r, "text"),
	}
}

func drawOp(r *rapid.T) op {
	return op{
		kind:  rapid.SampledFrom([]string{"put", "put", "put", "delete", "modify", "check"}).Draw(r, "kind"),
		row:   drawRow(r),
		bound: drawRange(r),
	}
}

func drawRange(r *rapid.T) storage.Range {
	out := storage.Range{Reverse: rapid.Bool().Draw(r, "reverse")}
	switch rapid.IntRange(0, 3).Draw(r, "prefix") {
	case 1:
		out.Prefix = storage.StringKey(drawTag.Draw(r, "prefix tag"))
	case 2:
		out.Prefix = storage.Key(nil).StrPrefix(drawTag.Draw(r, "prefix of tags"))
	}
	switch rapid.IntRange(0, 3).Draw(r, "after") {
	case 1:
		out.After = storage.StringKey(drawTag.Draw(r, "after tag"))
	case 2:
		out.After = storage.StringKey(drawTag.Draw(r, "after tag")).Str(drawID.Draw(r, "after id"))
	}
	return out
}

// holder returns the other row with that owner.
func holder(m map[string]item, row item) bool {
	for id, other := range m {
		if row.Owner != "" && other.Owner == row.Owner && id != row.ID {
			return true
		}
	}
	return false
}

func (o op) apply(r *rapid.T, ts *tables, tx storage.WriteTx, m map[string]item) {
	old, exists := m[o.row.ID]
	switch o.kind {
	case "put":
		row := o.row
		err := ts.items.Put(tx, &row)
		if holder(m, row) {
			require.ErrorIs(r, err, storage.ErrExists)
			return
		}
		require.NoError(r, err)
		m[row.ID] = row
	case "modify":
		err := ts.items.Modify(tx, itemKey(o.row.ID), func(i *item) error {
			require.Equal(r, canonical(old), canonical(*i))
			i.Tags, i.Owner = o.row.Tags, o.row.Owner
			return nil
		})
		switch {
		case !exists:
			require.ErrorIs(r, err, storage.ErrNotFound)
		case holder(m, o.row):
			require.ErrorIs(r, err, storage.ErrExists)
		default:
			require.NoError(r, err)
			old.Tags, old.Owner = o.row.Tags, o.row.Owner
			m[o.row.ID] = old
		}
	case "delete":
		err := ts.items.Delete(tx, itemKey(o.row.ID))
		if !exists {
			require.ErrorIs(r, err, storage.ErrNotFound)
			return
		}
		require.NoError(r, err)
		delete(m, o.row.ID)
	case "check":
		compare(r, ts, tx, m, o.bound)
	}
}

func canonical(i item) string {
	return fmt.Sprintf("%q %q %q %d %q", i.ID, i.Owner, i.Tags, i.Size, i.Text)
}

// compare reads everything in every way and compares it with the model.
func compare(r *rapid.T, ts *tables, tx storage.ReadTx, m map[string]item, bound storage.Range) {
	for _, id := range []string{"", "a", "a\x00", "b", "c1", "nobody"} {
		row, err := ts.items.Get(tx, itemKey(id))
		if want, ok := m[id]; ok {
			require.NoError(r, err)
			require.Equal(r, canonical(want), canonical(*row))
		} else {
			require.ErrorIs(r, err, storage.ErrNotFound)
		}
	}
	for _, owner := range []string{"o", "o\x00", "p"} {
		row, err := ts.byOwner.Get(tx, storage.StringKey(owner))
		found := err == nil
		want := false
		for _, i := range m {
			if i.Owner == owner {
				want = true
				require.Equal(r, canonical(i), canonical(*row))
			}
		}
		require.Equal(r, want, found)
	}
	positions := map[string]func(item) []storage.Key{
		"":      func(i item) []storage.Key { return []storage.Key{itemKey(i.ID)} },
		"owner": func(i item) []storage.Key { return optional(i.Owner) },
		"tag": func(i item) []storage.Key {
			var keys []storage.Key
			for _, tag := range i.Tags {
				keys = append(keys, storage.StringKey(tag).Str(i.ID))
			}
			slices.SortFunc(keys, storage.Key.Compare)
			return slices.CompactFunc(keys, storage.Key.Equal)
		},
		"size": func(i item) []storage.Key { return []storage.Key{storage.UintKey(i.Size).Str(i.ID)} },
	}
	for _, ix := range append([]*storage.IndexSchema{ts.items.Schema().Primary}, ts.items.Schema().Indexes...) {
		type entry struct {
			at      storage.Key
			id, row string
		}
		var want []entry
		for _, i := range m {
			for _, p := range positions[ix.Name](i) {
				if bound.Contains(p) {
					want = append(want, entry{p, i.ID, canonical(i)})
				}
			}
		}
		slices.SortFunc(want, func(a, b entry) int {
			order := cmp.Or(a.at.Compare(b.at), strings.Compare(a.row, b.row))
			if bound.Reverse {
				order = -order
			}
			return order
		})
		got, expected := []string{}, []string{}
		var keys, wantKeys []storage.Key
		for _, e := range want {
			expected = append(expected, e.row)
			wantKeys = append(wantKeys, itemKey(e.id))
		}
		for key, err := range tx.Keys(ix, bound) {
			require.NoError(r, err)
			keys = append(keys, key)
		}
		require.Equal(r, wantKeys, keys, "index %q, keys of range %+v", ix.Name, bound)
		for row, err := range tx.Scan(ix, bound) {
			require.NoError(r, err)
			got = append(got, canonical(*row.(*item)))
		}
		require.Equal(r, expected, got, "index %q, range %+v", ix.Name, bound)
	}
}

func optional(s string) []storage.Key {
	if s == "" {
		return nil
	}
	return []storage.Key{storage.StringKey(s)}
}
