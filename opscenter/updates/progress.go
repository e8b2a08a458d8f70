package updates

import (
	"fmt"
	"sync"
	"time"
)

// Progress is how far a refresh is.
type Progress struct {
	// Running: a refresh is under way; else this is how the last one ended.
	Running bool
	// Started and Ended are zero if that was not yet.
	Started, Ended time.Time
	// Version of the update whose files are fetched; empty: none.
	Version string
	// Files and Bytes are what this refresh is to fetch in all, and how much of it is here.
	Files, FilesDone int
	Bytes, BytesDone int64
	// Problems are what went wrong, each with the update, or the source, that it is about.
	Problems []string
}

// String is a line for people.
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

// maxProblems is how many problems of a refresh are told.
const maxProblems = 20

// progress is the Progress that is being made.
type progress struct {
	mu  sync.Mutex
	now Progress
}

// Progress returns how far the refresh is that is under way, or how the last one ended.
func (m *Manager) Progress() Progress {
	m.progress.mu.Lock()
	defer m.progress.mu.Unlock()
	out := m.progress.now
	out.Problems = append([]string(nil), out.Problems...)
	return out
}

func (p *progress) change(do func(*Progress)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	do(&p.now)
}

func (p *progress) problem(text string) {
	p.change(func(now *Progress) {
		if len(now.Problems) < maxProblems {
			now.Problems = append(now.Problems, text)
		}
	})
}
