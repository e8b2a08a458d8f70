package badgerstore

import (
	"os"
	"time"
)

// ReclaimAfter has a store reclaim the room of what was replaced after so many bytes, and as soon as it can.
func ReclaimAfter(n int64) { reclaimAfter, reclaimGap = n, time.Millisecond }

// ReadJournal returns the revision that a journal says was acknowledged.
func ReadJournal(file *os.File) (uint64, error) {
	j := &journal{file: file}
	err := j.read()
	return j.acknowledged, err
}
