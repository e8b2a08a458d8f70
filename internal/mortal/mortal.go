// Package mortal kills controllers in tests: from some write to their store, or call to a
// server, on, they do nothing more.
package mortal

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"sync"

	"github.com/opscenter-go/sdk/storage"
)

// ErrDead is what a dead controller is told.
var ErrDead = errors.New("the controller is dead")

// Fate kills a controller: from some write, or call to a server, on, it does nothing more.
type Fate struct {
	mu     sync.Mutex
	writes int // so far
	calls  int
	kill   Point
	dead   chan struct{}
	over   bool
}

// Point is where a controller dies.
type Point struct {
	Call   bool // at a call to a server; else at a write
	Number int  // from 1; 0: never
	After  bool // it is carried out still
}

func (p Point) String() string {
	what, when := "write", "before"
	if p.Call {
		what = "call"
	}
	if p.After {
		when = "after"
	}
	return fmt.Sprintf("%s %s %d", when, what, p.Number)
}

// step passes a write or a call. It returns whether it is carried out, and whether anybody hears of it.
func (f *Fate) step(call bool) (carriedOut, heard bool) {
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

// IsDead reports whether it is over.
func (f *Fate) IsDead() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.over
}

// Store is a store whose controller can die.
type Store struct {
	storage.Store
	Fate *Fate
}

func (m Store) View(ctx context.Context, fn func(storage.ReadTx) error) error {
	if m.Fate.IsDead() {
		return ErrDead
	}
	return m.Store.View(ctx, fn)
}

func (m Store) Update(ctx context.Context, fn func(storage.WriteTx) error) error {
	wrote := false
	var carriedOut, heard bool
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
		if !wrote { // fn may be run again
			wrote = true
			carriedOut, heard = m.Fate.step(false)
		}
		if !carriedOut {
			return ErrDead
		}
		return nil
	})
	if wrote && !heard {
		return ErrDead
	}
	return err
}

func (m Store) Watch(ctx context.Context, since uint64, tables ...string) iter.Seq2[storage.Batch, error] {
	return m.Store.Watch(ctx, since, tables...)
}

type countingTx struct {
	storage.WriteTx
	wrote bool
}

func (c *countingTx) Put(t *storage.TableSchema, row any) error {
	c.wrote = true
	return c.WriteTx.Put(t, row)
}

func (c *countingTx) Delete(t *storage.TableSchema, key storage.Key) error {
	c.wrote = true
	return c.WriteTx.Delete(t, key)
}

// New returns the fate of a controller that is immortal until Set.
func New() *Fate { return &Fate{dead: make(chan struct{})} }

// Set says where the controller dies, counted from now on.
func (f *Fate) Set(kill Point) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.writes, f.calls, f.kill = 0, 0, kill
}

// Counts returns how many writes and calls there were since Set.
func (f *Fate) Counts() (writes, calls int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.writes, f.calls
}

// Dead is closed when it is over.
func (f *Fate) Dead() <-chan struct{} { return f.dead }

// Points lists all places to die at: before and after each write, and each call.
func Points(writes, calls int) (out []Point) {
	for n := 1; n <= writes; n++ {
		out = append(out, Point{Number: n, After: true}, Point{Number: n})
	}
	for n := 1; n <= calls; n++ {
		out = append(out, Point{Call: true, Number: n, After: true}, Point{Call: true, Number: n})
	}
	return out
}

// Call passes a call to a server: it is not carried out if the controller is dead, and nobody
// hears of it if it dies right after.
func (f *Fate) Call(ctx context.Context, call func(context.Context) error) error {
	carriedOut, heard := f.step(true)
	if carriedOut {
		if !heard {
			ctx = context.WithoutCancel(ctx)
		}
		if err := call(ctx); err != nil && heard {
			return err
		}
	}
	if !heard {
		return ErrDead
	}
	return nil
}
