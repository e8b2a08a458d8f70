package opscenter_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/storage/memstore"
)

// TestEventsBefore: Before and After bound the events in both orders.
func TestEventsBefore(t *testing.T) {
	registry, err := opscenter.NewRegistry(memstore.New(), opscenter.Options{})
	require.NoError(t, err)
	defer registry.Close()
	for i := range 6 {
		require.NoError(t, registry.Channels().Create(t.Context(), fmt.Sprint("c", i), ""))
	}
	all, err := registry.ListEvents(t.Context(), opscenter.EventFilter{})
	require.NoError(t, err)
	require.GreaterOrEqual(t, len(all), 6)
	for from := range all {
		for to := range all {
			for _, newest := range []bool{false, true} {
				got, err := registry.ListEvents(t.Context(), opscenter.EventFilter{After: all[from].Sequence, Before: all[to].Sequence, Newest: newest})
				require.NoError(t, err)
				require.Len(t, got, max(0, to-from-1), "%d to %d", from, to)
				for i, e := range got {
					at := from + 1 + i
					if newest {
						at = to - 1 - i
					}
					require.Equal(t, all[at], e)
				}
			}
		}
	}
}
