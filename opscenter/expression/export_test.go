package expression

import "time"

// SetMaxTotalTime sets the bound of all evaluations of a Matcher, and returns what puts it back.
func SetMaxTotalTime(d time.Duration) (back func()) {
	before := maxTotalTime
	maxTotalTime = d
	return func() { maxTotalTime = before }
}
