//go:build !race

package incusostest_test

import (
	"os"
	"testing"
	"testing/synctest"
	"time"
)

// quietly keeps what ExampleFleet prints to itself.
func quietly(tb testing.TB) {
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		tb.Fatal(err)
	}
	out := os.Stdout
	os.Stdout = null
	tb.Cleanup(func() {
		os.Stdout = out
		_ = null.Close()
	})
}

// TestFleetIsQuick: the two days of ExampleFleet take less than a second. The quickest of some runs
// counts: others may have the machine meanwhile.
func TestFleetIsQuick(t *testing.T) {
	quietly(t)
	quickest := time.Hour
	for range 10 {
		begun := time.Now()
		synctest.Test(t, func(*testing.T) { twoDays() })
		if quickest = min(quickest, time.Since(begun)); quickest < time.Second {
			return
		}
	}
	t.Errorf("two simulated days take %s", quickest)
}

// BenchmarkFleet is the two days of ExampleFleet.
func BenchmarkFleet(b *testing.B) {
	quietly(b)
	for b.Loop() {
		synctest.Test(new(testing.T), func(*testing.T) { twoDays() })
	}
}
