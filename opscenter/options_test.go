package opscenter_test

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/storage/memstore"
)

func TestLimitsCanBeSet(t *testing.T) {
	w := newWorld(t, memstore.New(), opscenter.Options{MaxFactsHistory: 5})
	info := w.ready(t, 0)
	for i := range 10 {
		w.observe(t, withFacts(answer(info), fmt.Sprintf(`{"n":%d}`, i)))
	}
	history, err := w.FactsHistory(t.Context(), "server00")
	require.NoError(t, err)
	require.Len(t, history, 5)
	lower, err := opscenter.NewRegistry(w.store, opscenter.Options{MaxFactsHistory: 2})
	require.NoError(t, err)
	require.NoError(t, lower.Observer().Record(t.Context(), withFacts(answer(info), `{"n":99}`)))
	history, err = lower.FactsHistory(t.Context(), "server00")
	require.NoError(t, err)
	require.Len(t, history, 2)

	certificate(10)
	synctest.Test(t, func(t *testing.T) {
		w, infos := fleet(t, 10, opscenter.Options{GuardShare: 0.9, GuardMinimum: 2, GuardWindow: time.Hour})
		for _, info := range infos {
			w.observe(t, answer(info))
		}
		for _, info := range infos[:8] {
			w.observe(t, failed(info))
		}
		require.False(t, w.Observer().FleetUnreachable(), "8 of 10 are less than 0.9")
		time.Sleep(30 * time.Minute)
		w.observe(t, failed(infos[8]))
		require.True(t, w.Observer().FleetUnreachable(), "within the hour")
	})
	for _, options := range []opscenter.Options{{GuardShare: 1.5}, {GuardMinimum: -1}, {GuardWindow: -1}, {FlapWindow: -1}, {FlapSteady: -1}, {MaxFactsHistory: -1}} {
		_, err := opscenter.NewRegistry(memstore.New(), options)
		require.ErrorIs(t, err, opscenter.ErrInvalidOptions)
	}
}

func TestALoweredEventLimitTakesEffect(t *testing.T) {
	store := memstore.New()
	first, err := opscenter.NewRegistry(store, opscenter.Options{})
	require.NoError(t, err)
	for i := range 100 {
		require.NoError(t, first.Channels().Publish(t.Context(), "stable", fmt.Sprint(i+1), "os"))
	}
	second, err := opscenter.NewRegistry(store, opscenter.Options{MaxEvents: 10})
	require.NoError(t, err)
	left, err := second.ListEvents(t.Context(), opscenter.EventFilter{Limit: 1000})
	require.NoError(t, err)
	require.Len(t, left, 10)
}
