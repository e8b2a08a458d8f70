// Package phase spreads periodic work evenly over its interval.
package phase

import (
	"time"

	"github.com/cespare/xxhash/v2"
)

// Until returns how long after now the next turn of an ID is: more than 0, and at most interval, which must be above 0.
// An ID has one turn in each interval. The turn depends on the ID, the interval and the time of day alone, so a restart
// does not move it.
func Until(id string, interval time.Duration, now time.Time) time.Duration {
	turn := time.Duration(xxhash.Sum64String(id) % uint64(interval))
	wait := turn - time.Duration(now.UnixNano()%int64(interval))
	if wait <= 0 {
		wait += interval
	}
	return wait
}
