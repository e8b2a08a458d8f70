// Package cputime tells how long the process has used processors. Benchmarks and timed tests measure with it what a run costs,
// where other processes may slow down the machine.
package cputime

import (
	"testing"
	"time"
)

// Used returns how long the process has used processors in all its threads, in and outside the kernel. An error of the system
// ends the test.
func Used(tb testing.TB) time.Duration {
	tb.Helper()
	out, err := used()
	if err != nil {
		tb.Fatal(err)
	}
	return out
}
