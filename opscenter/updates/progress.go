package updates

import (
	"fmt"
	"sync"
	"time"
)

// Progress describes the current refresh, or the last one.
type Progress struct {
	// Running: a refresh is in progress. Otherwise the other fields describe the last refresh.
	Running bool
	// Started and Ended are in UTC. They are zero if no refresh has started or ended yet.
	Started, Ended time.Time
	// Version of the update whose files are being fetched; empty: none.
	Version string
	// Files is the number of files to fetch, FilesDone the number of files fetched.
	Files, FilesDone int
	// Bytes is the size of the files to fetch, BytesDone the number of bytes fetched.
	Bytes, BytesDone int64
	// Problems has up to 20 problems, each with the name of the update or of the source.
	Problems []string
}

// String returns the progress in one line, for people.
func (p Progress) String() string {
	switch {
	case p.Started.IsZero():
		return "no refresh so far"
	case !p.Running && len(p.Problems) > 0:
		return fmt.Sprintf("refreshed at %s, with %d problems: %s", p.Ended.Format(time.TimeOnly), len(p.Problems), p.Problems[0])
	case !p.Running:
		return fmt.Sprintf("refreshed at %s, %d files fetched", p.Ended.Format(time.TimeOnly), p.FilesDone)
	case p.Files == 0:
		return "reading the index"
	}
	return fmt.Sprintf("update %s: %d of %d files, %d of %d MiB", p.Version, p.FilesDone, p.Files, p.BytesDone>>20, p.Bytes>>20)
}

// maxProblems is the maximum length of Progress.Problems.
const maxProblems = 20

// progress holds the current Progress.
type progress struct {
	mu  sync.Mutex
	now Progress
}

// Progress returns the progress of the current refresh, or of the last one.
func (m *Manager) Progress() Progress {
	m.progress.mu.Lock()
	defer m.progress.mu.Unlock()
	out := m.progress.now
	out.Problems = append([]string(nil), out.Problems...)
	return out
}

// change calls do with the current Progress, under the lock.
func (p *progress) change(do func(*Progress)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	do(&p.now)
}

// problem adds a problem, up to maxProblems.
func (p *progress) problem(text string) {
	p.change(func(now *Progress) {
		if len(now.Problems) < maxProblems {
			now.Problems = append(now.Problems, text)
		}
	})
}
