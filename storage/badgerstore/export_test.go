package badgerstore

import "time"

// ReclaimAfter has a store reclaim the room of what was replaced after so many bytes, and as soon as it can.
func ReclaimAfter(n int64) { reclaimAfter, reclaimGap = n, time.Millisecond }
