package poller

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/opscenter"
)

var usual = timing{interval: 5 * time.Minute, fast: 5 * time.Second, retry: 10 * time.Second, maxBackoff: 15 * time.Minute, threshold: 3}

func server(id string, status opscenter.Status, detail opscenter.StatusDetail, failures int) *opscenter.ServerInfo {
	return &opscenter.ServerInfo{Server: opscenter.Server{ID: id, Name: id, Certificate: "x"},
		State: opscenter.ServerState{Status: status, StatusDetail: detail}, Failures: failures}
}

func TestNext(t *testing.T) {
	now := time.Date(2026, 8, 1, 12, 0, 0, 0, time.UTC)
	for _, test := range []struct {
		status   opscenter.Status
		detail   opscenter.StatusDetail
		failures int
		want     time.Duration
	}{
		{opscenter.StatusPending, opscenter.DetailRegistering, 0, 5 * time.Second},
		{opscenter.StatusPending, opscenter.DetailRegistering, 2, 5 * time.Second},
		{opscenter.StatusReady, opscenter.DetailUpdating, 0, 5 * time.Second},
		{opscenter.StatusReady, opscenter.DetailUpdatingApplication, 0, 5 * time.Second},
		{opscenter.StatusReady, opscenter.DetailEvacuating, 0, 5 * time.Second},
		{opscenter.StatusReady, opscenter.DetailRestoring, 0, 5 * time.Second},
		{opscenter.StatusOffline, opscenter.DetailRebooting, 9, 5 * time.Second},
		{opscenter.StatusReady, opscenter.DetailNone, 1, 10 * time.Second},
		{opscenter.StatusOffline, opscenter.DetailUnresponsive, 3, 10 * time.Second},
		{opscenter.StatusOffline, opscenter.DetailUnresponsive, 4, 20 * time.Second},
		{opscenter.StatusOffline, opscenter.DetailUnresponsive, 6, 80 * time.Second},
		{opscenter.StatusOffline, opscenter.DetailUnresponsive, 9, 640 * time.Second},
		{opscenter.StatusOffline, opscenter.DetailUnresponsive, 10, 15 * time.Minute},
		{opscenter.StatusOffline, opscenter.DetailShutDown, 1_000_000_000, 15 * time.Minute},
	} {
		require.Equal(t, now.Add(test.want), usual.next(server("a", test.status, test.detail, test.failures), now), "%+v", test)
	}
	require.Equal(t, never, usual.next(server("a", opscenter.StatusUnregistered, "", 0), now))
	bare := server("a", opscenter.StatusReady, "", 0)
	bare.Certificate = ""
	require.Equal(t, never, usual.next(bare, now))
}

// The phase of a server is stable: whenever it is asked, its turns lie one interval apart.
func TestPhase(t *testing.T) {
	now := time.Date(2026, 8, 1, 12, 0, 0, 0, time.UTC)
	for i := range 100 {
		id := fmt.Sprint("id ", i)
		first := usual.phased(id, now)
		require.True(t, first.After(now))
		require.LessOrEqual(t, first.Sub(now), usual.interval)
		require.Equal(t, first, usual.phased(id, first.Add(-time.Nanosecond)), "a restart in between changes nothing")
		require.Equal(t, first.Add(usual.interval), usual.phased(id, first))
		require.Equal(t, first.Add(usual.interval), usual.phased(id, first.Add(20*time.Second)), "nor does a poll that took its time")
	}
	// Many servers spread over the interval.
	const fleet = 100_000
	perSecond := map[int64]int{}
	for i := range fleet {
		perSecond[usual.phased(fmt.Sprintf("%08x-0000-4000-8000-%012x", i, i*7), now).Unix()]++
	}
	largest := 0
	for _, n := range perSecond {
		largest = max(largest, n)
	}
	mean := fleet / usual.interval.Seconds()
	require.Less(t, float64(largest), 1.5*mean)
}

func TestQueue(t *testing.T) {
	base := time.Date(2026, 8, 1, 12, 0, 0, 0, time.UTC)
	r := rand.New(rand.NewPCG(1, 1))
	var q queue
	var entries []*entry
	for i := range 200 {
		e := &entry{name: fmt.Sprint(i), index: -1}
		entries = append(entries, e)
		q.set(e, base.Add(time.Duration(r.IntN(1000))*time.Second))
	}
	for range 2000 {
		e := entries[r.IntN(len(entries))]
		switch r.IntN(4) {
		case 0:
			q.remove(e)
		case 1:
			q.set(e, never)
		default:
			q.set(e, base.Add(time.Duration(r.IntN(1000))*time.Second))
		}
	}
	for i, e := range q {
		require.Equal(t, i, e.index)
	}
	var order []time.Time
	for len(q) > 0 {
		e := q[0]
		q.remove(e)
		require.Equal(t, -1, e.index)
		order = append(order, e.due)
	}
	require.True(t, slices.IsSortedFunc(order, time.Time.Compare))
}
