package opscenter

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/opscenter-go/sdk/opscenter/internal/facts"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
	"github.com/opscenter-go/sdk/opscenter/warning"
	"github.com/opscenter-go/sdk/storage"
)

// alarm is the memory of a warning: what changes with every poll.
type alarm struct {
	uuid      string
	message   string
	count     int // since the last flush
	last      time.Time
	unflushed bool
	number    uint64 // of the transaction that raised it
}

func (m *memory) loadWarnings(tx storage.ReadTx) error {
	for w, err := range warnings.Scan(tx, storage.Range{}) {
		if err != nil {
			return err
		}
		m.open[subjectOf(w)] = &alarm{uuid: w.UUID, message: w.Message, last: w.LastSeen}
		if w.Kind == warning.Fleet && w.ServerID == "" {
			m.guard.trip()
		}
	}
	return nil
}

// warned takes in the warnings a transaction raised and cleared.
func (m *memory) warned(w *writing) {
	for _, subject := range w.closed {
		m.cleared[subject] = max(m.cleared[subject], w.number)
		a := m.open[subject]
		if a == nil || a.number > w.number {
			continue // raised again since
		}
		if a.unflushed {
			m.pending--
		}
		delete(m.open, subject)
	}
	for _, raised := range w.raised {
		subject := subjectOf(&raised)
		if m.cleared[subject] > w.number {
			continue // cleared again, which was heard of first
		}
		m.open[subject] = &alarm{uuid: raised.UUID, message: raised.Message, last: raised.LastSeen, number: w.number}
		if t := m.tracks[raised.ServerID]; t != nil {
			t.settled = facts.Digest{} // a poll has to see whether it still holds
		}
	}
}

// needsWarning reports whether the store must change for these warnings: one is not there, or
// one that is has no cause any more.
func (m *memory) needsWarning(id string, t *lifecycle.Transition) bool {
	m.mu.RLock()
	defer m.mu.RUnlock()
	for _, w := range t.Warnings {
		if m.open[warningSubject{w.Kind, id}] == nil {
			return true
		}
	}
	for _, kind := range t.Judged {
		if m.open[warningSubject{kind, id}] != nil && t.Clears(kind) {
			return true
		}
	}
	return false
}

// hasWarnings reports whether there are warnings of a server that polls raise and clear.
func (m *memory) hasWarnings(id string) bool {
	for _, kind := range []warning.Kind{warning.Unreachable, warning.Certificate, warning.Identity, warning.Untrusted, warning.Flapping, warning.Unreadable, warning.Facts} {
		if m.open[warningSubject{kind, id}] != nil {
			return true
		}
	}
	return false
}

// repeat counts that there is cause for a warning still.
func (m *memory) repeat(id string, w warning.Input, at time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	a := m.open[warningSubject{w.Kind, id}]
	if a == nil || at.Equal(a.last) {
		return
	}
	a.count++
	a.last = at
	if w.Message != "" {
		a.message = w.Message
	}
	if !a.unflushed {
		a.unflushed = true
		m.pending++
	}
}

// warningStep is how many warnings one transaction of a flush writes.
const warningStep = 500

// flushWarnings stores how often there was cause for warnings since the last time. What comes
// while it does is left to the next.
func (r *Registry) flushWarnings(ctx context.Context) error {
	m := &r.memory
	type seenAgain struct {
		subject warningSubject
		alarm   alarm
	}
	var all []seenAgain
	m.mu.Lock()
	for subject, a := range m.open {
		if a.unflushed {
			all = append(all, seenAgain{subject, *a})
			a.unflushed, a.count = false, 0
			m.pending--
		}
	}
	m.mu.Unlock()
	for list := range slices.Chunk(all, warningStep) {
		err := r.store.Update(ctx, func(tx storage.WriteTx) error {
			for _, one := range list {
				known, err := warnings.Find(tx, storage.StringKey(one.alarm.uuid))
				if err != nil {
					return err
				}
				if known == nil {
					continue // cleared meanwhile
				}
				changed := *known
				changed.Count += one.alarm.count
				changed.LastSeen, changed.Message = one.alarm.last, one.alarm.message
				if err := warnings.Put(tx, &changed); err != nil {
					return err
				}
			}
			return nil
		})
		if err == nil {
			continue
		}
		// This step, and those that were not tried.
		done := 0
		for done < len(all) && all[done].subject != list[0].subject {
			done++
		}
		m.mu.Lock()
		for _, one := range all[done:] {
			if a := m.open[one.subject]; a != nil && a.uuid == one.alarm.uuid {
				a.count += one.alarm.count
				if !a.unflushed {
					a.unflushed = true
					m.pending++
				}
			}
		}
		m.mu.Unlock()
		return fmt.Errorf("storing how often warnings were seen: %w", err)
	}
	return nil
}

// CountWarnings returns how many warnings there are of each kind.
func (r *Registry) CountWarnings() map[warning.Kind]int {
	m := &r.memory
	m.mu.RLock()
	defer m.mu.RUnlock()
	out := map[warning.Kind]int{}
	for subject := range m.open {
		out[subject.kind]++
	}
	return out
}
