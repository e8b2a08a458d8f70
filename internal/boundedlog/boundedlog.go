// Package boundedlog keeps the rows of a log within limits: so many of each share, so that an owner who writes much
// overwrites nothing but its own rows.
//
// The rows are the caller's, in a storage log, which gives them their numbers. Writers append and count nothing. Now and
// then the caller asks for the surplus, and deletes it.
package boundedlog

import (
	"iter"
	"sync/atomic"
)

// Share is a part of a log.
type Share struct {
	Name string
	// Max is how many rows of the share are kept, the newest; 0: all.
	Max int
}

// Surplus returns the numbers of the rows that are over the limit of any of their shares, the newest first. newest yields
// the rows of the log, the newest first. of returns the number and the shares of a row. A row that is over the limit of
// one share takes no room in the others. It returns the error of newest.
func Surplus[T any](newest iter.Seq2[*T, error], of func(*T) (number uint64, shares []Share)) (out []uint64, err error) {
	kept := map[string]int{}
	for row, err := range newest {
		if err != nil {
			return nil, err
		}
		number, shares := of(row)
		over := false
		for _, s := range shares {
			over = over || s.Max > 0 && kept[s.Name] >= s.Max
		}
		if over {
			out = append(out, number)
			continue
		}
		for _, s := range shares {
			kept[s.Name]++
		}
	}
	return out, nil
}

// Due tells when enough rows were appended for a look at the surplus. The zero value is not usable; see NewDue. Its
// methods may be called concurrently.
type Due struct {
	every    int64
	appended atomic.Int64
}

// NewDue returns a Due for a log of at most max rows: half as many more are appended between two looks.
func NewDue(max int) *Due { return &Due{every: int64(max/2) + 1} }

// Appended counts rows, and reports whether a look is due. Each caller is told so until one looks.
func (d *Due) Appended(n int) bool {
	return n > 0 && d.appended.Add(int64(n)) >= d.every
}

// Any reports whether rows were appended since the last look.
func (d *Due) Any() bool { return d.appended.Load() > 0 }

// Look begins a look at the surplus. Rows that are appended from now on count for the next one. The caller calls failed if
// the surplus could not be deleted: then the look stays due.
func (d *Due) Look() (failed func()) {
	n := d.appended.Swap(0)
	return func() { d.appended.Add(n) }
}
