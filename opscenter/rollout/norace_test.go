//go:build !race

package rollout_test

// raceEnabled: the race detector is off.
const raceEnabled = false
