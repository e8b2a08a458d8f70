package opscenter_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/internal/controltest"
	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/event"
	"github.com/opscenter-go/sdk/opscenter/incusostest"
	"github.com/opscenter-go/sdk/opscenter/internal/presence"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
	"github.com/opscenter-go/sdk/opscenter/warning"
	"github.com/opscenter-go/sdk/storage"
	"github.com/opscenter-go/sdk/storage/memstore"
)

// TestSmallLimits: observations, the flush, and a jump of the clock keep to the limits of a store that has small ones.
func TestSmallLimits(t *testing.T) {
	const n = 60
	for name, limits := range map[string]storage.Limits{"few writes": {MaxTxWrites: 36}, "few bytes": {MaxTxSize: 96 << 10}} {
		t.Run(name, func(t *testing.T) {
			store := controltest.Limit(memstore.New(memstore.Options{DetectMutation: true}), limits)
			w := newWorld(t, store, opscenter.Options{LastSeenInterval: 1000 * time.Hour})
			var seen []lifecycle.Observation
			for i := range n {
				info := w.add(t, i)
				o := answer(info)
				o.Facts = &lifecycle.Facts{Hardware: incusostest.Hardware(uint64(i + 1))}
				seen = append(seen, o)
			}
			require.NoError(t, w.Observer().Record(t.Context(), seen...))
			for i := range n {
				for range 2 { // the second one only counts
					require.NoError(t, w.Warnings().Raise(t.Context(), fmt.Sprintf("server%02d", i), warning.Input{Kind: "busy"}))
				}
				_, _, err := w.BeginAction(t.Context(), fmt.Sprintf("server%02d", i), lifecycle.ActionEvacuate)
				require.NoError(t, err)
			}
			require.True(t, w.FlushPending())
			require.NoError(t, w.Observer().Flush(t.Context()))
			require.False(t, w.FlushPending())
			w.TurnClock(func() time.Time { return time.Now().Add(8 * time.Hour) })
			require.NoError(t, w.Observer().Maintain(t.Context()))
			last, err := w.ListEvents(t.Context(), opscenter.EventFilter{Newest: true, Limit: 1})
			require.NoError(t, err)
			require.Equal(t, event.ClockJumped, last[0].Kind)
			require.Zero(t, store.Refused(), "transactions over the limits")
		})
	}
}

// TestLargeBuckets: a flush writes few large buckets of last seen times into a store for small transactions.
func TestLargeBuckets(t *testing.T) {
	var list []presence.Seen
	for range 10 {
		list = append(list, presence.Seen{Members: &presence.Members{IDs: make([]string, 900)}, Times: &presence.Times{Ages: make([]byte, 2500)}})
	}
	require.Equal(t, 10, opscenter.SeenStep(list, storage.Limits{MaxTxWrites: storage.MaxTxWrites, MaxTxSize: storage.MaxTxSize}))
	require.Equal(t, 2, opscenter.SeenStep(list, storage.Limits{MaxTxWrites: storage.MaxTxWrites, MaxTxSize: 256 << 10}))
	require.Equal(t, 3, opscenter.SeenStep(list, storage.Limits{MaxTxWrites: 6, MaxTxSize: storage.MaxTxSize}))
}
