package storage_test

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/opscenter-go/sdk/storage"
)

// inner has what rows of the SDK have: named types, pointers, maps, and tags.
type inner struct {
	Named   kind              `json:"named,omitempty"`
	Maybe   *bool             `json:",omitempty"`
	At      time.Time         `json:",omitzero"`
	Members map[string]string `json:"members"`
}

type kind string

type compactRow struct {
	ID      string
	Count   uint64
	Less    int
	Share   float64
	On      bool
	Texts   []string
	Bytes   []byte
	Raw     json.RawMessage `json:",omitempty"`
	At      time.Time
	Took    time.Duration
	Inner   inner
	Pointer *inner
	List    []inner
	hidden  int
	Left    string `json:"-"`
}

func compactTables() (plain, compact *storage.Table[compactRow]) {
	key := func(r *compactRow) storage.Key { return storage.StringKey(r.ID) }
	return storage.NewTable("rows", key), storage.NewTable("rows", key).Compact()
}

// TestCompactKeepsAll: CBOR keeps what JSON keeps, and a row that was stored in JSON is read.
func TestCompactKeepsAll(t *testing.T) {
	plain, compact := compactTables()
	zones := []*time.Location{time.UTC, time.FixedZone("", 7*3600), time.FixedZone("", -90*60)}
	drawTime := rapid.Custom(func(t *rapid.T) time.Time {
		if rapid.Bool().Draw(t, "zero") {
			return time.Time{}
		}
		return time.Unix(rapid.Int64Range(0, 4e9).Draw(t, "s"), rapid.Int64Range(0, 999_999_999).Draw(t, "ns")).In(rapid.SampledFrom(zones).Draw(t, "zone"))
	})
	drawTexts := rapid.OneOf(rapid.Just([]string(nil)), rapid.Just([]string{}), rapid.SliceOf(rapid.String()))
	drawInner := rapid.Custom(func(t *rapid.T) inner {
		out := inner{Named: kind(rapid.String().Draw(t, "named")), At: drawTime.Draw(t, "at")}
		if rapid.Bool().Draw(t, "maybe") {
			out.Maybe = new(bool)
		}
		if rapid.Bool().Draw(t, "members") {
			out.Members = rapid.MapOf(rapid.String(), rapid.String()).Draw(t, "map")
		}
		return out
	})
	rapid.Check(t, func(t *rapid.T) {
		row := &compactRow{ID: rapid.String().Draw(t, "id"), Count: rapid.Uint64().Draw(t, "count"), Less: rapid.Int().Draw(t, "less"), Share: rapid.Float64().Draw(t, "share"),
			On: rapid.Bool().Draw(t, "on"), Texts: drawTexts.Draw(t, "texts"), Bytes: rapid.SliceOf(rapid.Byte()).Draw(t, "bytes"), At: drawTime.Draw(t, "at"),
			Took: time.Duration(rapid.Int64().Draw(t, "took")), Inner: drawInner.Draw(t, "inner"), List: rapid.SliceOf(drawInner).Draw(t, "list"), hidden: 1, Left: "out"}
		if rapid.Bool().Draw(t, "raw") {
			row.Raw = json.RawMessage(`{"a":[1]}`)
		}
		if rapid.Bool().Draw(t, "pointer") {
			one := drawInner.Draw(t, "pointer to")
			row.Pointer = &one
		}
		inJSON, err := plain.Schema().Encode(row)
		require.NoError(t, err)
		want, err := plain.Schema().Decode(inJSON)
		require.NoError(t, err)

		data, err := compact.Schema().Encode(row)
		require.NoError(t, err)
		got, err := compact.Schema().Decode(data)
		require.NoError(t, err)
		shown, err := plain.Schema().Encode(got)
		require.NoError(t, err)
		require.Equal(t, string(inJSON), string(shown))
		require.Equal(t, want.(*compactRow).Texts == nil, got.(*compactRow).Texts == nil, "nil stays apart from empty")
		require.True(t, want.(*compactRow).At.Equal(got.(*compactRow).At))

		earlier, err := compact.Schema().Decode(inJSON)
		require.NoError(t, err)
		require.Equal(t, want, earlier, "a row of an earlier release")
	})
}

func TestCompactRefuses(t *testing.T) {
	_, compact := compactTables()
	for _, row := range []*compactRow{{ID: "a", Texts: []string{"\xff"}}, {ID: "\xff"}, {ID: "a", Inner: inner{Members: map[string]string{"\xff": ""}}}} {
		_, err := compact.Schema().Encode(row)
		require.ErrorIs(t, err, storage.ErrEncoding, "text that is not UTF-8")
	}
	_, err := compact.Schema().Encode(&compactRow{ID: "a", Bytes: []byte{0xff}})
	require.NoError(t, err, "bytes are no text")
	_, err = compact.Schema().Encode(&compactRow{ID: "a", Bytes: make([]byte, storage.MaxRowSize)})
	require.ErrorIs(t, err, storage.ErrTooLarge)
	data, err := compact.Schema().Encode(&compactRow{ID: "a", Texts: []string{"b"}})
	require.NoError(t, err)
	for name, bad := range map[string][]byte{"empty": {}, "cut": data[:len(data)-1], "longer": append(data[:len(data):len(data)], 0), "no row": {1, 0x61, 'x'}, "no JSON": []byte("x")} {
		_, err := compact.Schema().Decode(bad)
		require.ErrorIs(t, err, storage.ErrCorrupt, name)
	}
	_, err = compact.Schema().Decode([]byte{2, 0xa0})
	require.ErrorIs(t, err, storage.ErrCorrupt)
	require.ErrorContains(t, err, "form 2")
}
