//go:build race

package rollout_test

// raceEnabled: everything takes several times as long.
const raceEnabled = true
