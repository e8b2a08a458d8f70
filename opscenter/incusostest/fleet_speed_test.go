//go:build !race

package incusostest_test

import (
	"os"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opscenter-go/sdk/internal/cputime"
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

// The two days of ExampleFleet take less than a second of one processor. The fastest of several runs counts, because other
// processes may slow down the machine. What a run waits for them does not count.
func TestFleetIsQuick(t *testing.T) {
	discardOutput(t)
	quickest := time.Hour
	for range 10 {
		begun, before := time.Now(), cputime.Used(t)
		synctest.Test(t, func(*testing.T) { twoDays() })
		if quickest = min(quickest, time.Since(begun), cputime.Used(t)-before); quickest < time.Second {
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
