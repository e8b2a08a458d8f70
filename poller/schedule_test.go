package poller

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
)

var usual = timing{interval: 5 * time.Minute, fast: 5 * time.Second, retry: 10 * time.Second, maxBackoff: 15 * time.Minute, threshold: 3}

func server(id string, status lifecycle.Status, detail lifecycle.StatusDetail, failures int) *opscenter.ServerInfo {
	return &opscenter.ServerInfo{Server: opscenter.Server{ID: id, Name: id, Certificate: "x"},
		State: lifecycle.ServerState{Status: status, StatusDetail: detail}, Failures: failures}
}

func TestNextPoll(t *testing.T) {
	now := time.Date(2026, 8, 1, 12, 0, 0, 0, time.UTC)
	for _, test := range []struct {
		status   lifecycle.Status
		detail   lifecycle.StatusDetail
		failures int
		want     time.Duration
	}{
		{lifecycle.StatusPending, lifecycle.DetailRegistering, 0, 5 * time.Second},
		{lifecycle.StatusPending, lifecycle.DetailRegistering, 2, 5 * time.Second},
		{lifecycle.StatusReady, lifecycle.DetailUpdating, 0, 5 * time.Second},
		{lifecycle.StatusReady, lifecycle.DetailUpdatingApplication, 0, 5 * time.Second},
		{lifecycle.StatusReady, lifecycle.DetailEvacuating, 0, 5 * time.Second},
		{lifecycle.StatusReady, lifecycle.DetailRestoring, 0, 5 * time.Second},
		{lifecycle.StatusOffline, lifecycle.DetailRebooting, 9, 5 * time.Second},
		{lifecycle.StatusReady, lifecycle.DetailNone, 1, 10 * time.Second},
		{lifecycle.StatusOffline, lifecycle.DetailUnresponsive, 3, 10 * time.Second},
		{lifecycle.StatusOffline, lifecycle.DetailUnresponsive, 4, 20 * time.Second},
		{lifecycle.StatusOffline, lifecycle.DetailUnresponsive, 6, 80 * time.Second},
		{lifecycle.StatusOffline, lifecycle.DetailUnresponsive, 9, 640 * time.Second},
		{lifecycle.StatusOffline, lifecycle.DetailUnresponsive, 10, 15 * time.Minute},
		{lifecycle.StatusOffline, lifecycle.DetailShutDown, 1_000_000_000, 15 * time.Minute},
	} {
		wait, _ := usual.next(server("a", test.status, test.detail, test.failures), now)
		require.Equal(t, test.want, wait, "%+v", test)
	}
	wait, _ := usual.next(server("a", lifecycle.StatusUnregistered, "", 0), now)
	require.Equal(t, never, wait)
	bare := server("a", lifecycle.StatusReady, "", 0)
	bare.Certificate = ""
	wait, _ = usual.next(bare, now)
	require.Equal(t, never, wait)
	for _, test := range []struct {
		status   lifecycle.Status
		failures int
		class    class
	}{{lifecycle.StatusReady, 0, answering}, {lifecycle.StatusReady, 1, retrying}, {lifecycle.StatusOffline, 0, offline}, {lifecycle.StatusOffline, 5, offline},
		{lifecycle.StatusPending, 0, answering}, {lifecycle.StatusPending, 1, retrying}} {
		_, got := usual.next(server("a", test.status, "", test.failures), now)
		require.Equal(t, test.class, got, "%+v", test)
	}
}

// The phase of a server is stable: its polls are one interval apart, whenever phased is called.
func TestPhase(t *testing.T) {
	now := time.Date(2026, 8, 1, 12, 0, 0, 0, time.UTC)
	for i := range 100 {
		id := fmt.Sprint("id ", i)
		wait := usual.phased(id, now)
		require.Positive(t, wait)
		require.LessOrEqual(t, wait, usual.interval)
		first := now.Add(wait)
		require.Equal(t, time.Nanosecond, usual.phased(id, first.Add(-time.Nanosecond)), "a restart does not move the phase")
		require.Equal(t, usual.interval, usual.phased(id, first))
		require.Equal(t, usual.interval-20*time.Second, usual.phased(id, first.Add(20*time.Second)), "a slow poll does not move the phase")
	}
	// Many servers spread over the interval.
	const fleet = 100_000
	perSecond := map[time.Duration]int{}
	for i := range fleet {
		perSecond[usual.phased(fmt.Sprintf("%08x-0000-4000-8000-%012x", i, i*7), now).Truncate(time.Second)]++
	}
	largest := 0
	for _, n := range perSecond {
		largest = max(largest, n)
	}
	mean := fleet / usual.interval.Seconds()
	require.Less(t, float64(largest), 1.5*mean)
}

func TestQueue(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	var q, other queue
	var entries []*entry
	for range 200 {
		e := &entry{}
		entries = append(entries, e)
		q.set(e, time.Duration(r.IntN(1000))*time.Second)
	}
	for range 2000 {
		e := entries[r.IntN(len(entries))]
		switch r.IntN(5) {
		case 0:
			e.dequeue()
		case 1:
			other.set(e, time.Duration(r.IntN(1000))*time.Second)
		default:
			q.set(e, time.Duration(r.IntN(1000))*time.Second)
		}
	}
	for _, q := range []*queue{&q, &other} {
		for i, e := range *q {
			require.Equal(t, i, e.index)
			require.Same(t, q, e.queue)
		}
		var order []time.Duration
		for len(*q) > 0 {
			e := (*q)[0]
			require.Nil(t, q.first(e.due-1))
			require.Same(t, e, q.first(e.due))
			e.dequeue()
			require.Nil(t, e.queue)
			order = append(order, e.due)
		}
		require.True(t, slices.IsSorted(order))
	}
}

func TestLane(t *testing.T) {
	r := rand.New(rand.NewPCG(2, 2))
	l := lane{limit: 3}
	var in []*entry // in the order of their start
	for range 1000 {
		if i := r.IntN(len(in) + 1); i < len(in) && (l.full() || r.IntN(2) == 0) {
			l.remove(in[i])
			in = slices.Delete(in, i, i+1)
		} else if !l.full() {
			e := &entry{}
			l.add(e)
			in = append(in, e)
		}
		require.Equal(t, len(in), l.busy)
		var got []*entry
		for e := l.first; e != nil; e = e.next {
			got = append(got, e)
		}
		require.Equal(t, len(in), len(got))
		for i := range got {
			require.Same(t, in[i], got[i])
		}
	}
}
