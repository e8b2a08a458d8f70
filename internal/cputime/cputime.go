// Package cputime tells how long the process has used processors. Benchmarks and timed tests measure with it what a run costs,
// where other processes may slow down the machine.
package cputime

import "time"

// Used returns how long the process has used processors in all its threads, in and outside the kernel.
func Used() (time.Duration, error) { return used() }
