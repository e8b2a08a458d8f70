package audit_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/audit"
	"github.com/opscenter-go/sdk/storage"
	"github.com/opscenter-go/sdk/storage/badgerstore"
	"github.com/opscenter-go/sdk/storage/memstore"
	"github.com/opscenter-go/sdk/storage/storetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func open(t *testing.T, store storage.Store, options audit.Options) *audit.Log {
	t.Helper()
	registry, err := opscenter.NewRegistry(store, opscenter.Options{})
	require.NoError(t, err)
	log, err := audit.New(registry, options)
	require.NoError(t, err)
	return log
}

func memory() storage.Store {
	return storetest.Twice(memstore.New(memstore.Options{DetectMutation: true}))
}

func list(t *testing.T, l *audit.Log, q audit.Query) []audit.Entry {
	t.Helper()
	page, err := l.List(t.Context(), q)
	require.NoError(t, err)
	return page.Entries
}

var errWrong = errors.New("the change failed")

func TestOutcomes(t *testing.T) {
	l := open(t, memory(), audit.Options{})
	ctx := opscenter.WithPrincipal(t.Context(), "alice")
	for _, c := range []struct {
		fails error
		want  audit.Outcome
	}{{nil, audit.Done}, {errWrong, audit.Failed}, {fmt.Errorf("x: %w", opscenter.ErrOutcomeUnknown), audit.Unknown}, {context.Canceled, audit.Unknown}, {fmt.Errorf("x: %w", context.DeadlineExceeded), audit.Unknown}} {
		err := l.Do(ctx, audit.Entry{Action: "a", Server: "s"}, func(ctx context.Context) error {
			require.NotEmpty(t, audit.ID(ctx))
			require.Equal(t, audit.UnderWay, list(t, l, audit.Query{Limit: 1})[0].Outcome, "the entry is stored before the change starts")
			return c.fails
		})
		require.Equal(t, c.fails, err)
		e := list(t, l, audit.Query{Limit: 1})[0]
		require.Equal(t, c.want, e.Outcome)
		require.Equal(t, "alice", e.By)
		require.False(t, e.EndedAt.IsZero())
		if c.fails != nil {
			require.Equal(t, c.fails.Error(), e.Error)
		}
		got, err := l.Get(t.Context(), e.ID)
		require.NoError(t, err)
		require.Equal(t, e, *got)
	}
	require.Panics(t, func() { _ = l.Do(ctx, audit.Entry{Action: "p"}, func(context.Context) error { panic("oops") }) })
	require.Equal(t, audit.Unknown, list(t, l, audit.Query{Action: "p"})[0].Outcome)
	_, err := l.Get(t.Context(), "none")
	require.ErrorIs(t, err, opscenter.ErrNotFound)
	// A nil log runs the function all the same.
	var none *audit.Log
	require.Equal(t, errWrong, none.Do(ctx, audit.Entry{}, func(context.Context) error { return errWrong }))
	require.NoError(t, none.Note(ctx, "x"))
	require.NoError(t, none.End(ctx, "x", nil))
}

// TestNestedDo: a Do within a Do adds to the outer entry, and End replaces only an unknown outcome.
func TestNestedDo(t *testing.T) {
	l := open(t, memory(), audit.Options{})
	var id string
	require.NoError(t, l.Do(t.Context(), audit.Entry{Action: "outer", Detail: "one"}, func(ctx context.Context) error {
		id = audit.ID(ctx)
		require.NoError(t, l.Do(ctx, audit.Entry{Action: "inner", Server: "s", Detail: "two"}, func(ctx context.Context) error {
			require.Equal(t, id, audit.ID(ctx))
			return l.Note(ctx, "three")
		}))
		audit.Later(ctx)
		return nil
	}))
	e := list(t, l, audit.Query{})
	require.Len(t, e, 1)
	require.Equal(t, "outer", e[0].Action)
	require.Equal(t, "s", e[0].Server)
	require.Equal(t, "one; two; three", e[0].Detail)
	require.Equal(t, audit.UnderWay, e[0].Outcome)
	require.NoError(t, l.End(t.Context(), id, opscenter.ErrOutcomeUnknown))
	require.NoError(t, l.End(t.Context(), id, nil), "a known outcome replaces an unknown one")
	require.NoError(t, l.End(t.Context(), id, errWrong))
	require.Equal(t, audit.Done, list(t, l, audit.Query{})[0].Outcome, "a known outcome stays")
	require.NoError(t, l.End(t.Context(), "gone", nil))
}

// TestDoWithoutStore: Do does not run a change whose entry can't be stored.
func TestDoWithoutStore(t *testing.T) {
	store := memory()
	l := open(t, store, audit.Options{})
	require.NoError(t, store.Close())
	err := l.Do(t.Context(), audit.Entry{Action: "a"}, func(context.Context) error {
		t.Error("the change ran")
		return nil
	})
	require.ErrorIs(t, err, storage.ErrClosed)
}

// TestRestartEndsUnfinished: after a restart, entries under way have outcome Unknown until End is called.
func TestRestartEndsUnfinished(t *testing.T) {
	dir := t.TempDir()
	store, err := badgerstore.Open(dir, badgerstore.Options{MinFree: 1})
	require.NoError(t, err)
	l := open(t, store, audit.Options{})
	var ids []string
	for range 450 { // needs several transactions
		require.NoError(t, l.Do(t.Context(), audit.Entry{Action: "a"}, func(ctx context.Context) error {
			ids = append(ids, audit.ID(ctx))
			audit.Later(ctx)
			return nil
		}))
	}
	require.NoError(t, store.Close())
	store, err = badgerstore.Open(dir, badgerstore.Options{MinFree: 1})
	require.NoError(t, err)
	defer store.Close()
	l = open(t, store, audit.Options{})
	require.Len(t, list(t, l, audit.Query{Outcome: audit.Unknown, Limit: 1000}), 450)
	require.NoError(t, l.End(t.Context(), ids[7], nil))
	e, err := l.Get(t.Context(), ids[7])
	require.NoError(t, err)
	require.Equal(t, audit.Done, e.Outcome)
}

// TestBounds: the log drops the oldest entries, and cuts long texts.
func TestBounds(t *testing.T) {
	store := memory()
	l := open(t, store, audit.Options{MaxEntries: 5})
	for i := range 12 {
		require.NoError(t, l.Do(t.Context(), audit.Entry{Action: fmt.Sprint(i), Detail: strings.Repeat("ä", 2*audit.MaxText)}, func(context.Context) error { return nil }))
	}
	entries := list(t, l, audit.Query{Oldest: true})
	require.Len(t, entries, 5)
	require.Equal(t, "7", entries[0].Action)
	require.LessOrEqual(t, len(entries[0].Detail), audit.MaxText+len("…"))
	l = open(t, store, audit.Options{MaxEntries: 2})
	require.Len(t, list(t, l, audit.Query{}), 2, "New applies a lower limit to stored entries")
	_, err := audit.New(nil, audit.Options{MaxEntries: -1})
	require.ErrorIs(t, err, opscenter.ErrInvalidOptions)
}

func TestQueries(t *testing.T) {
	l := open(t, memory(), audit.Options{})
	for i := range 25 {
		ctx := opscenter.WithPrincipal(t.Context(), []string{"alice", "bob"}[i%2])
		_ = l.Do(ctx, audit.Entry{Action: "a", Server: fmt.Sprint("s", i%5), Cluster: fmt.Sprint("c", i%3)}, func(context.Context) error {
			if i%7 == 0 {
				return errWrong
			}
			return nil
		})
	}
	require.Len(t, list(t, l, audit.Query{By: "bob"}), 12)
	require.Len(t, list(t, l, audit.Query{Server: "s1", By: "alice"}), 2)
	require.Len(t, list(t, l, audit.Query{Cluster: "c0"}), 9)
	require.Len(t, list(t, l, audit.Query{Outcome: audit.Failed}), 4)
	require.Empty(t, list(t, l, audit.Query{Since: time.Now().Add(time.Hour)}))
	require.Empty(t, list(t, l, audit.Query{Until: time.Now().Add(-time.Hour)}))
	require.Len(t, list(t, l, audit.Query{Since: time.Now().Add(-time.Hour), Until: time.Now().Add(time.Hour)}), 25)
	_, err := l.List(t.Context(), audit.Query{Outcome: "fine"})
	require.ErrorIs(t, err, opscenter.ErrInvalidFilter)
	for _, oldest := range []bool{false, true} {
		var all []uint64
		for before := uint64(0); ; {
			page, err := l.List(t.Context(), audit.Query{Limit: 4, Before: before, Oldest: oldest, Action: "a"})
			require.NoError(t, err)
			for _, e := range page.Entries {
				all = append(all, e.Sequence)
			}
			if before = page.Next; before == 0 {
				break
			}
		}
		require.Len(t, all, 25)
		require.Equal(t, oldest, all[0] < all[24])
	}
}

// TestWatch: Watch yields each entry, and yields it again with its outcome.
func TestWatch(t *testing.T) {
	l := open(t, memory(), audit.Options{})
	do := func(action string) {
		require.NoError(t, l.Do(t.Context(), audit.Entry{Action: action}, func(context.Context) error { return nil }))
	}
	do("before")
	do("known")
	known := list(t, l, audit.Query{Limit: 1})[0].Sequence
	do("seen")
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	got := map[string]audit.Outcome{}
	var group sync.WaitGroup
	started := make(chan struct{})
	group.Go(func() {
		for e, err := range l.Watch(ctx, known) {
			if err != nil {
				return
			}
			if len(got) == 0 {
				close(started)
			}
			got[e.Action] = e.Outcome
			if got["last"] == audit.Done {
				return
			}
		}
	})
	<-started
	for i := range 50 {
		do(fmt.Sprint(i))
	}
	do("last")
	group.Wait()
	require.NoError(t, ctx.Err())
	require.NotContains(t, got, "before")
	require.Equal(t, audit.Done, got["seen"])
	for i := range 50 {
		require.Equal(t, audit.Done, got[fmt.Sprint(i)])
	}
}

// TestWatchResumes: a reader that resumes after entries under way gets their outcomes. It gets those that
// ended before the call, and those that end later.
func TestWatchResumes(t *testing.T) {
	l := open(t, memory(), audit.Options{})
	release := map[string]chan struct{}{"slow": make(chan struct{}), "slower": make(chan struct{})}
	var group sync.WaitGroup
	for _, action := range []string{"slow", "slower"} {
		begun := make(chan struct{})
		group.Go(func() {
			_ = l.Do(t.Context(), audit.Entry{Action: action}, func(context.Context) error {
				close(begun)
				<-release[action]
				return nil
			})
		})
		<-begun
	}
	close(release["slow"])
	require.Eventually(t, func() bool {
		page, err := l.List(t.Context(), audit.Query{Action: "slow"})
		return err == nil && page.Entries[0].Outcome == audit.Done
	}, 10*time.Second, time.Millisecond)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	var got []string
	for e, err := range l.Watch(ctx, 2) {
		require.NoError(t, err)
		got = append(got, e.Action+" "+string(e.Outcome))
		if len(got) == 2 {
			close(release["slower"])
		}
		if e.Action == "slower" && e.Outcome == audit.Done {
			break
		}
	}
	group.Wait()
	require.Equal(t, []string{"slow done", "slower under way", "slower done"}, got)
}

// TestWatchLags: a reader that falls behind still gets all outcomes, also those of earlier entries.
func TestWatchLags(t *testing.T) {
	l := open(t, memstore.New(memstore.Options{FeedSize: 100}), audit.Options{})
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	id := ""
	require.NoError(t, l.Do(ctx, audit.Entry{Action: "slow"}, func(ctx context.Context) error {
		id = audit.ID(ctx)
		audit.Later(ctx)
		return nil
	}))
	outcomes := map[string]audit.Outcome{}
	begun := false
	for e, err := range l.Watch(ctx, 1) {
		require.NoError(t, err)
		outcomes[e.Action] = e.Outcome
		if !begun { // the reader is slow while these entries are stored
			begun = true
			require.NoError(t, l.End(ctx, id, nil))
			for i := range 400 {
				require.NoError(t, l.Do(ctx, audit.Entry{Action: fmt.Sprint(i)}, func(context.Context) error { return nil }))
			}
		}
		if outcomes["slow"] == audit.Done && outcomes["399"] == audit.Done {
			break
		}
	}
	require.NoError(t, ctx.Err())
}
