package badgerstore_test

import (
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/internal/earlierstore"
	"github.com/opscenter-go/sdk/storage"
	"github.com/opscenter-go/sdk/storage/badgerstore"
)

// earlierStore is the store that commit 5f38f36 wrote; testdata has the program that wrote it.
func earlierStore(t *testing.T) (dir string) {
	t.Helper()
	return earlierstore.Unpack(t, filepath.Join("testdata", "5f38f36", "store.tar.gz"))
}

// The rows of that time, with the fields that this test needs.
type (
	earlierRow   struct{ Name, ID, UUID string }
	earlierEvent struct {
		Sequence             uint64
		Kind, Server, Reason string
	}
	earlierEntry struct {
		Sequence uint64 `json:"sequence"`
		ID       string `json:"uuid"`
		Action   string `json:"action"`
		Outcome  string `json:"outcome"`
	}
)

// TestEarlierStore opens a store of an earlier release, whose counters numbered its events, as the log that it is now.
func TestEarlierStore(t *testing.T) {
	dir := earlierStore(t)
	const written, recorded = 60, 5 // events, and entries of the audit log
	text := func(s string) []storage.Key {
		if s == "" {
			return nil
		}
		return []storage.Key{storage.StringKey(s)}
	}
	for round := range 2 {
		servers := storage.NewTable("servers", func(r *earlierRow) storage.Key { return storage.StringKey(r.Name) })
		tokens := storage.NewTable("tokens", func(r *earlierRow) storage.Key { return storage.StringKey(r.UUID) }).Secret()
		byID := servers.Unique("id", func(r *earlierRow) []storage.Key { return text(r.ID) })
		events := storage.NewLog("events", func(e *earlierEvent) *uint64 { return &e.Sequence })
		byServer := events.Index("server", func(e *earlierEvent) []storage.Key { return text(e.Server) })
		// Its index was unique. It is built again.
		audit := storage.NewLog("audit", func(e *earlierEntry) *uint64 { return &e.Sequence })
		byEntry := audit.Index("id", func(e *earlierEntry) []storage.Key { return text(e.ID) })

		store, err := badgerstore.Open(dir)
		require.NoError(t, err)
		require.NoError(t, store.Attach(t.Context(), servers.Schema(), tokens.Schema(), events.Schema(), audit.Schema()))
		require.NoError(t, store.View(t.Context(), func(tx storage.ReadTx) error {
			require.GreaterOrEqual(t, tx.Revision(), uint64(118))
			n := 0
			for server, err := range servers.Scan(tx, storage.Range{}) {
				require.NoError(t, err)
				found, err := byID.Get(tx, storage.StringKey(server.ID))
				require.NoError(t, err)
				require.Equal(t, server, found)
				n++
			}
			require.Equal(t, 7, n)
			n = 0
			for _, err := range tokens.Scan(tx, storage.Range{}) {
				require.NoError(t, err)
				n++
			}
			require.Equal(t, 2, n)
			n, ofServer := 0, 0
			for e, err := range events.Scan(tx, storage.Range{}) {
				require.NoError(t, err)
				if n++; n <= written {
					require.EqualValues(t, n, e.Sequence)
				} else {
					require.Equal(t, "new", e.Kind, "new events follow")
				}
				if e.Server == "server03" {
					ofServer++
				}
			}
			require.Equal(t, written+round, n)
			require.Positive(t, ofServer)
			for e, err := range byServer.Scan(tx, storage.Range{Prefix: storage.StringKey("server03")}) {
				require.NoError(t, err)
				require.Equal(t, "server03", e.Server)
				ofServer--
			}
			require.Zero(t, ofServer)
			n = 0
			for e, err := range audit.Scan(tx, storage.Range{}) {
				require.NoError(t, err)
				require.Equal(t, "server.reboot", e.Action)
				for found, err := range byEntry.Scan(tx, storage.Range{Prefix: storage.StringKey(e.ID)}) {
					require.NoError(t, err)
					require.Equal(t, e, found)
					n++
				}
			}
			require.Equal(t, recorded, n)
			return nil
		}))
		require.NoError(t, store.Update(t.Context(), func(tx storage.WriteTx) error {
			if err := events.Append(tx, &earlierEvent{Kind: "new", Server: "server03"}); err != nil {
				return err
			}
			return events.Modify(tx, storage.UintKey(1), func(e *earlierEvent) error { e.Reason = "edited"; return nil })
		}), "rows of that time can be changed, and new ones follow them")
		require.NoError(t, store.Close())
	}
}
