//go:build !race

package incusostest_test

import (
	"os"
	"testing"
	"testing/synctest"
	"time"
)

// discardOutput discards the standard output for the rest of the test.
func discardOutput(tb testing.TB) {
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

// The two days of ExampleFleet take less than a second. The fastest of several runs counts, because other processes may
// slow down the machine.
func TestFleetIsQuick(t *testing.T) {
	discardOutput(t)
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

// BenchmarkFleet measures the two days of ExampleFleet.
func BenchmarkFleet(b *testing.B) {
	discardOutput(b)
	for b.Loop() {
		synctest.Test(new(testing.T), func(*testing.T) { twoDays() })
	}
}
