package opscenter_test

import (
	"context"
	"fmt"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
	"github.com/opscenter-go/sdk/opscenter/warning"
	"github.com/opscenter-go/sdk/storage"
	"github.com/opscenter-go/sdk/storage/badgerstore"
	"github.com/opscenter-go/sdk/storage/memstore"
)

// hooked is a store with something to do in the middle of a View, or instead of an Update.
type hooked struct {
	storage.Store
	inView atomic.Pointer[func()]
	skip   atomic.Int32 // Views before that one
	refuse atomic.Bool
	slow   atomic.Int64 // ns
}

func (s *hooked) View(ctx context.Context, fn func(storage.ReadTx) error) error {
	return s.Store.View(ctx, func(tx storage.ReadTx) error {
		if s.inView.Load() != nil && s.skip.Add(-1) < 0 {
			if happens := s.inView.Swap(nil); happens != nil {
				(*happens)()
			}
		}
		return fn(tx)
	})
}

func (s *hooked) Update(ctx context.Context, fn func(storage.WriteTx) error) error {
	if s.refuse.Load() {
		return fmt.Errorf("hooked: %w", storage.ErrDiskFull)
	}
	time.Sleep(time.Duration(s.slow.Load()))
	return s.Store.Update(ctx, fn)
}

// Flush ends, however much comes in meanwhile, and loses nothing.
func TestFlushEnds(t *testing.T) {
	store := &hooked{Store: memstore.New()}
	w := newWorld(t, store, opscenter.Options{})
	require.NoError(t, w.Warnings().Raise(t.Context(), "", warning.Input{Kind: "busy"}))
	stop, ended := make(chan struct{}), make(chan int)
	go func() {
		n := 0
		for {
			select {
			case <-stop:
				ended <- n
				return
			default:
				if w.Warnings().Raise(context.Background(), "", warning.Input{Kind: "busy", Message: fmt.Sprint(n)}) == nil { // else it is refused
					n++
				}
				// Two causes at one time count once, and the clock of a virtual machine may stand still.
				for at := time.Now(); time.Now().Round(0).Equal(at.Round(0)) && time.Since(at) < time.Second; {
					runtime.Gosched()
				}
			}
		}
	}()
	store.slow.Store(int64(2 * time.Millisecond))
	for range 5 {
		flushed := make(chan error, 1)
		go func() { flushed <- w.Observer().Flush(context.Background()) }()
		select {
		case err := <-flushed:
			require.NoError(t, err)
		case <-time.After(10 * time.Second):
			t.Fatal("it does not end")
		}
	}
	store.refuse.Store(true)
	_ = w.Observer().Flush(t.Context()) // if there happens to be anything
	store.refuse.Store(false)
	store.slow.Store(0)
	close(stop)
	n := <-ended
	require.NoError(t, w.Observer().Flush(t.Context()))
	page, err := w.Warnings().List(t.Context(), opscenter.WarningFilter{}, opscenter.Page{})
	require.NoError(t, err)
	require.LessOrEqual(t, page.Warnings[0].Count, n+1)
	require.Greater(t, page.Warnings[0].Count, n/2, "those of all flushes count")
	require.False(t, w.FlushPending(), "nothing is left to flush")
}

// A later flush stores times that could not be stored. It ignores removed servers.
func TestFlushIsTriedAgain(t *testing.T) {
	store := &hooked{Store: memstore.New()}
	w := newWorld(t, store, opscenter.Options{})
	for i := range 3 {
		w.ready(t, i)
	}
	store.refuse.Store(true)
	require.ErrorIs(t, w.Observer().Flush(t.Context()), storage.ErrDiskFull)
	require.True(t, w.FlushPending())
	store.refuse.Store(false)
	require.NoError(t, w.DeleteServer(t.Context(), "server01", false))
	seen := w.get(t, "server02").LastSeen
	require.NoError(t, w.Observer().Flush(t.Context()))
	require.False(t, w.FlushPending())
	again, err := opscenter.NewRegistry(store, opscenter.Options{})
	require.NoError(t, err)
	info, err := again.Server(t.Context(), "server02")
	require.NoError(t, err)
	require.WithinDuration(t, seen, info.LastSeen, time.Millisecond)
	require.NoError(t, w.DeleteServer(t.Context(), "server00", false))
	require.False(t, w.FlushPending(), "a removed server is not flushed")
}

// Deleting, registering, polling, warning and flushing at once leave nothing behind.
func TestMemoryKeepsPaceWithTheStore(t *testing.T) {
	w := memoryWorld(t)
	done := make(chan struct{})
	for i := range 4 {
		go func() {
			defer func() { done <- struct{}{} }()
			ctx := context.Background()
			for range 40 {
				token, err := w.CreateToken(ctx, opscenter.TokenSpec{})
				if err != nil {
					t.Error(err)
					return
				}
				if _, err := w.Register(ctx, registration(i, token.UUID)); err != nil {
					t.Error(err)
					return
				}
				name := fmt.Sprintf("server%02d", i)
				info, err := w.Server(ctx, name)
				if err != nil {
					t.Error(err)
					return
				}
				polled := make(chan struct{})
				go func() {
					defer close(polled)
					for range 4 {
						_ = w.Observer().Record(ctx, failed(info))
					}
					_ = w.Observer().Record(ctx, answer(info))
				}()
				_ = w.SelfUpdate(ctx, certificate(i), opscenter.SelfUpdate{Cause: lifecycle.CauseOSUpdateApplied})
				_ = w.Observer().Flush(ctx)
				if err := w.DeleteServer(ctx, name, false); err != nil {
					t.Error(err)
				}
				<-polled
			}
		}()
	}
	for range 4 {
		<-done
	}
	require.Empty(t, w.Counts())
	require.Empty(t, w.Warnings().Counts())
	require.Empty(t, w.warnings(t))
	require.NoError(t, w.Observer().Flush(t.Context()))
	require.Zero(t, w.Tracked(), "no removed server is remembered")
	require.False(t, w.FlushPending())
}

func TestLastSeenOutlivesTheProcess(t *testing.T) {
	dir := t.TempDir()
	open := func() (*opscenter.Registry, storage.Store) {
		store, err := badgerstore.Open(dir, badgerstore.Options{})
		require.NoError(t, err)
		registry, err := opscenter.NewRegistry(store, opscenter.Options{})
		require.NoError(t, err)
		return registry, store
	}
	registry, store := open()
	w := &world{Registry: registry, store: store}
	var seen []time.Time
	for i := range 5 {
		info := w.ready(t, i)
		o := answer(info)
		o.At = time.Now().UTC().Add(-time.Duration(i) * time.Second)
		require.NoError(t, registry.Observer().Record(t.Context(), o))
		seen = append(seen, w.get(t, info.Name).LastSeen)
	}
	require.NoError(t, w.DeleteServer(t.Context(), "server03", false))
	require.NoError(t, registry.Close())
	require.NoError(t, store.Close())
	registry, store = open()
	w = &world{Registry: registry, store: store}
	for i := range 5 {
		if i != 3 {
			require.WithinDuration(t, seen[i], w.get(t, fmt.Sprintf("server%02d", i)).LastSeen, time.Millisecond)
		}
	}
	// Servers that come and go between flushes don't mix up the rest.
	w.ready(t, 6)
	require.NoError(t, w.DeleteServer(t.Context(), "server01", false))
	info := w.get(t, "server02")
	require.NoError(t, registry.Observer().Record(t.Context(), answer(info)))
	seen[2] = w.get(t, "server02").LastSeen
	require.NoError(t, registry.Observer().Flush(t.Context()))
	require.NoError(t, registry.Close())
	require.NoError(t, store.Close())
	registry, store = open()
	w = &world{Registry: registry, store: store}
	for _, i := range []int{0, 2, 4} {
		require.WithinDuration(t, seen[i], w.get(t, fmt.Sprintf("server%02d", i)).LastSeen, time.Millisecond)
	}
	require.NoError(t, registry.Close())
	require.NoError(t, store.Close())
}
