//go:build race

package rollout_test

// raceEnabled: the race detector is on, and tests take several times as long.
const raceEnabled = true
