package inventory_test

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/internal/controltest"
	"github.com/opscenter-go/sdk/opscenter/inventory"
	"github.com/opscenter-go/sdk/storage"
	"github.com/opscenter-go/sdk/storage/memstore"
)

// TestSmallLimits: scans, renames and the removal of a unit keep to the limits of a store that has small ones.
func TestSmallLimits(t *testing.T) {
	for name, limits := range map[string]storage.Limits{"few writes": {MaxTxWrites: 36}, "few bytes": {MaxTxSize: 256 << 10}} {
		t.Run(name, func(t *testing.T) {
			store := controltest.Limit(memstore.New(memstore.Options{DetectMutation: true}), limits)
			p := newPlaneOver(t, store, inventory.Options{})
			server := boot(t, "sim")
			p.adopt(t, server, "")
			p.run(t)
			p.following(t, "sim", 20*time.Second)
			before := stored(t, p.Registry)
			server.Furnish(100)
			require.NoError(t, p.objects.ResyncCluster(t.Context(), "sim"))
			require.Greater(t, stored(t, p.Registry), before+90)
			require.Zero(t, store.Refused(), "transactions of scans over the limits")

			other, err := inventory.New(p.Registry, nil, inventory.Options{})
			require.NoError(t, err)
			documents := map[inventory.Kind][]json.RawMessage{}
			for i := range 60 {
				random := make([]byte, 8<<10)
				_, _ = rand.Read(random)
				documents[inventory.KindProfile] = append(documents[inventory.KindProfile], json.RawMessage(fmt.Sprintf(`{"name":"p%d","description":"%s"}`, i, hex.EncodeToString(random))))
			}
			documents[inventory.KindStorageVolume] = []json.RawMessage{json.RawMessage(`{"name":"v"}`)}
			for i := range 20 {
				documents[inventory.KindStorageVolume] = append(documents[inventory.KindStorageVolume], json.RawMessage(fmt.Sprintf(`{"name":"v/s%d"}`, i)))
			}
			require.NoError(t, other.Fill(t.Context(), "gone", documents))
			err = other.Rename(t.Context(), "gone", inventory.KindStorageVolume, "v", "w", time.Now())
			if limits.MaxTxWrites > 0 {
				require.ErrorContains(t, err, "more rows than one transaction", "a scan finds the new names")
			} else {
				require.NoError(t, err)
			}
			require.NoError(t, other.Purge(t.Context(), "gone"))
			require.Zero(t, store.Refused(), "transactions over the limits")
		})
	}
}
