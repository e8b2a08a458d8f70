// Package mortal simulates the death of a controller in tests. From a chosen write to its store, or a chosen call to a server,
// the controller has no further effect.
package mortal

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"sync"

	"github.com/opscenter-go/sdk/storage"
)

// ErrDead is the error that a dead controller gets for each write and call.
var ErrDead = errors.New("the controller is dead")

// Fate decides when a controller dies. All methods may be called concurrently.
type Fate struct {
	mu     sync.Mutex
	writes int // since Set
	calls  int
	kill   Point
	dead   chan struct{}
	over   bool
}

// Point is a point at which a controller dies.
type Point struct {
	Call   bool // at a call to a server; otherwise at a write
	Number int  // of the write or call, from 1; 0: never
	After  bool // the write or call still takes effect
}

// String returns the point, such as "before write 3".
func (p Point) String() string {
	operation, when := "write", "before"
	if p.Call {
		operation = "call"
	}
	if p.After {
		when = "after"
	}
	return fmt.Sprintf("%s %s %d", when, operation, p.Number)
}

// step counts a write or a call. It reports whether the operation takes effect, and whether the controller learns its outcome.
func (f *Fate) step(call bool) (effective, reported bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.over {
		return false, false
	}
	n := &f.writes
	if call {
		n = &f.calls
	}
	*n++
	if f.kill.Call == call && f.kill.Number == *n {
		f.over = true
		close(f.dead)
		return f.kill.After, false
	}
	return true, true
}

// IsDead reports whether the controller is dead.
func (f *Fate) IsDead() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.over
}

// Store is the store of a controller that can die.
type Store struct {
	storage.Store
	Fate *Fate
}

// View implements storage.Store. A dead controller gets ErrDead.
func (m Store) View(ctx context.Context, fn func(storage.ReadTx) error) error {
	if m.Fate.IsDead() {
		return ErrDead
	}
	return m.Store.View(ctx, fn)
}

// Update implements storage.Store. A transaction with writes counts as one write.
func (m Store) Update(ctx context.Context, fn func(storage.WriteTx) error) error {
	wrote := false
	var effective, reported bool
	err := m.Store.Update(ctx, func(tx storage.WriteTx) error {
		counted := &countingTx{WriteTx: tx}
		if m.Fate.IsDead() {
			return ErrDead
		}
		if err := fn(counted); err != nil {
			return err
		}
		if !counted.wrote {
			return nil
		}
		if !wrote { // count once, although the store may run fn again
			wrote = true
			effective, reported = m.Fate.step(false)
		}
		if !effective {
			return ErrDead
		}
		return nil
	})
	if wrote && !reported {
		return ErrDead
	}
	return err
}

// Watch implements storage.Store. It goes on after the death.
func (m Store) Watch(ctx context.Context, since uint64, tables ...string) iter.Seq2[storage.Batch, error] {
	return m.Store.Watch(ctx, since, tables...)
}

// countingTx records whether a transaction writes.
type countingTx struct {
	storage.WriteTx
	wrote bool
}

// Put implements storage.WriteTx.
func (c *countingTx) Put(t *storage.TableSchema, row any) error {
	c.wrote = true
	return c.WriteTx.Put(t, row)
}

// Delete implements storage.WriteTx.
func (c *countingTx) Delete(t *storage.TableSchema, key storage.Key) error {
	c.wrote = true
	return c.WriteTx.Delete(t, key)
}

// New returns the Fate of a controller that lives until Set.
func New() *Fate { return &Fate{dead: make(chan struct{})} }

// Set sets the point at which the controller dies, and resets the counts.
func (f *Fate) Set(kill Point) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.writes, f.calls, f.kill = 0, 0, kill
}

// Counts returns the numbers of writes and calls since Set.
func (f *Fate) Counts() (writes, calls int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.writes, f.calls
}

// Dead returns a channel that is closed when the controller dies.
func (f *Fate) Dead() <-chan struct{} { return f.dead }

// Points returns all points for these numbers of writes and calls: before and after each.
func Points(writes, calls int) (out []Point) {
	for n := 1; n <= writes; n++ {
		out = append(out, Point{Number: n, After: true}, Point{Number: n})
	}
	for n := 1; n <= calls; n++ {
		out = append(out, Point{Call: true, Number: n, After: true}, Point{Call: true, Number: n})
	}
	return out
}

// Call runs a call to a server. A dead controller gets ErrDead without a call. A controller that dies after the call gets
// ErrDead instead of the outcome.
func (f *Fate) Call(ctx context.Context, call func(context.Context) error) error {
	effective, reported := f.step(true)
	if effective {
		if !reported {
			ctx = context.WithoutCancel(ctx)
		}
		if err := call(ctx); err != nil && reported {
			return err
		}
	}
	if !reported {
		return ErrDead
	}
	return nil
}
