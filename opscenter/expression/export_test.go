package expression

import "time"

// SetMaxTotalTime sets the limit of MaxTotalTime, and returns a function that restores it.
func SetMaxTotalTime(d time.Duration) (back func()) {
	before := maxTotalTime
	maxTotalTime = d
	return func() { maxTotalTime = before }
}
