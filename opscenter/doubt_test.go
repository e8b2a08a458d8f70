package opscenter_test

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
	"github.com/opscenter-go/sdk/opscenter/warning"
	"github.com/opscenter-go/sdk/storage"
	"github.com/opscenter-go/sdk/storage/memstore"
)

// hooked is a store with something to do in the middle of a View, or instead of an Update.
type hooked struct {
	storage.Store
	inView atomic.Pointer[func()]
	refuse atomic.Bool
	slow   atomic.Int64 // ns
}

func (s *hooked) View(ctx context.Context, fn func(storage.ReadTx) error) error {
	return s.Store.View(ctx, func(tx storage.ReadTx) error {
		if happens := s.inView.Swap(nil); happens != nil {
			(*happens)()
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

// What is said while a poll's outcome is looked at is newer than what the poll found.
func TestSaidWhileAPollIsTakenIn(t *testing.T) {
	store := &hooked{Store: memstore.New()}
	w := newWorld(t, store, opscenter.Options{})
	info := w.ready(t, 0)
	w.observe(t, answer(info))
	w.observe(t, failed(info)) // the next one is looked at
	happens := func() {
		require.NoError(t, w.SelfUpdate(context.Background(), certificate(0), opscenter.SelfUpdate{Cause: lifecycle.CauseSystemShutdownTriggered}))
	}
	late := answer(info)
	store.inView.Store(&happens)
	w.observe(t, late)
	require.Equal(t, lifecycle.DetailShutDown, w.get(t, "server00").State.StatusDetail)
	// It was down, and is back: the answers count.
	back := answer(info)
	back.BootedAt = time.Now()
	require.False(t, w.Observer().RecordUnchanged(&back), "nothing is settled")
	w.observe(t, back)
	require.Equal(t, lifecycle.StatusReady, w.get(t, "server00").State.Status)
}

func TestLastSeenOfASelfUpdateIsNotLoweredByAPoll(t *testing.T) {
	w := memoryWorld(t)
	info := w.ready(t, 0)
	begun := answer(info)
	require.NoError(t, w.SelfUpdate(t.Context(), certificate(0), opscenter.SelfUpdate{Cause: lifecycle.CauseSystemIsReady}))
	seen := w.get(t, "server00").LastSeen
	w.observe(t, begun)
	require.Equal(t, seen, w.get(t, "server00").LastSeen)
}

// A store that kept secrets, and is opened by one that does not.
func TestSecretsOfAnEarlierTime(t *testing.T) {
	store := memstore.New()
	security := func(secret string, n int) *lifecycle.Facts {
		return &lifecycle.Facts{Security: json.RawMessage(fmt.Sprintf(`{"config":{"encryption_recovery_keys":[%q],"n":%d},"more":{"password":%q}}`, secret, n, secret))}
	}
	see := func(w *world, facts *lifecycle.Facts) {
		info := w.get(t, "server00")
		o := answer(info)
		o.Facts = facts
		w.observe(t, o)
	}
	keeping, err := opscenter.NewRegistry(store, opscenter.Options{KeepSecrets: true})
	require.NoError(t, err)
	w := &world{Registry: keeping, store: store, log: &logBuffer{}}
	w.ready(t, 0)
	see(w, security("hunter1", 1))
	see(w, security("hunter2", 1))
	history, err := w.FactsHistory(t.Context(), "server00")
	require.NoError(t, err)
	require.Contains(t, fmt.Sprint(history), "hunter2", "where they are kept, a change of them is one")

	w = newWorld(t, store, opscenter.Options{})
	facts, err := w.ServerFacts(t.Context(), "server00")
	require.NoError(t, err)
	requireNoSecret(t, string(facts.Security), "hunter")
	see(w, security("hunter3", 2))
	history, err = w.FactsHistory(t.Context(), "server00")
	require.NoError(t, err)
	requireNoSecret(t, fmt.Sprint(history), "hunter")
	require.Equal(t, []lifecycle.FieldChange{{Path: "security.config.n", From: "1", To: "2"}}, history[0].Changes)
	require.Len(t, history, 2)
}

// A document made to be slow to compare is not.
func TestFactsMadeToBeSlow(t *testing.T) {
	w := memoryWorld(t)
	info := w.ready(t, 0)
	document := func(n int) string {
		return fmt.Sprintf(`{%q:[%s]}`, strings.Repeat("k", 150<<10), strings.TrimSuffix(strings.Repeat(fmt.Sprint(n, ","), 90_000), ","))
	}
	w.observe(t, withFacts(answer(info), document(1)))
	begun := time.Now()
	w.observe(t, withFacts(answer(info), document(2)))
	require.Less(t, time.Since(begun), time.Minute)
	history, err := w.FactsHistory(t.Context(), "server00")
	require.NoError(t, err)
	require.Len(t, history[0].Changes, lifecycle.MaxFactChanges)
	require.Less(t, len(history[0].Changes[0].Path), 300)
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
				_ = w.Warnings().Raise(context.Background(), "", warning.Input{Kind: "busy", Message: fmt.Sprint(n)})
				n++
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
	require.Greater(t, page.Warnings[0].Count, n/2, "counted over all flushes, the refused one too")
	require.False(t, w.FlushPending(), "nothing is left to flush")
}

// What could not be flushed is flushed later; what was removed meanwhile is not.
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
	require.False(t, w.FlushPending(), "what is removed is not to be flushed")
}

// Polls that were under way when an outage of ours ended make nobody offline.
func TestLateFailuresOfAnOutage(t *testing.T) {
	certificate(10)
	synctest.Test(t, func(t *testing.T) {
		w, infos := fleet(t, 10, opscenter.Options{})
		for range 5 {
			time.Sleep(10 * time.Second)
			for _, info := range infos {
				w.observe(t, failed(info))
			}
		}
		require.True(t, w.Observer().FleetUnreachable())
		late := failed(infos[9])
		for _, info := range infos[:6] {
			w.observe(t, answer(info))
		}
		require.False(t, w.Observer().FleetUnreachable())
		w.observe(t, late)
		require.Zero(t, w.status(t, lifecycle.StatusOffline))
		for range 2 {
			time.Sleep(10 * time.Second)
			w.observe(t, failed(infos[9]))
		}
		require.Equal(t, 1, w.status(t, lifecycle.StatusOffline), "it is dead by itself")
	})
}

// Slow timeouts: the failures come further apart than the window.
func TestGuardWithSlowTimeouts(t *testing.T) {
	certificate(10)
	synctest.Test(t, func(t *testing.T) {
		w, infos := fleet(t, 5, opscenter.Options{})
		time.Sleep(time.Minute)
		w.observe(t, failed(infos[0]))
		time.Sleep(20 * time.Second) // the others time out much later
		for _, info := range infos {
			w.observe(t, failed(info))
		}
		require.True(t, w.Observer().FleetUnreachable())
	})
}

// A fleet that is removed while it counts as unreachable does not stay so.
func TestAnUnreachableFleetThatIsRemoved(t *testing.T) {
	certificate(10)
	synctest.Test(t, func(t *testing.T) {
		w, infos := fleet(t, 6, opscenter.Options{})
		for _, info := range infos {
			w.observe(t, failed(info))
		}
		require.True(t, w.Observer().FleetUnreachable())
		for _, info := range infos {
			require.NoError(t, w.DeleteServer(t.Context(), info.Name, false))
		}
		require.False(t, w.Observer().FleetUnreachable())
		require.NoError(t, w.Observer().Maintain(t.Context()))
		require.Empty(t, w.warnings(t))
	})
}

func TestFleetWarningIsCounted(t *testing.T) {
	certificate(10)
	synctest.Test(t, func(t *testing.T) {
		w, infos := fleet(t, 6, opscenter.Options{})
		for range 5 {
			time.Sleep(10 * time.Second)
			for _, info := range infos {
				w.observe(t, failed(info))
			}
		}
		page, err := w.Warnings().List(t.Context(), opscenter.WarningFilter{Kind: warning.Fleet}, opscenter.Page{})
		require.NoError(t, err)
		require.Greater(t, page.Warnings[0].Count, 3)
		require.True(t, page.Warnings[0].LastSeen.After(page.Warnings[0].FirstSeen))
	})
}

// One poll in a while that fails does not keep a server in the pillory.
func TestFlappingEndsInSpiteOfSingleFailures(t *testing.T) {
	w := newWorld(t, memstore.New(), opscenter.Options{FlapThreshold: 1, FlapSteady: 10 * time.Minute, FlapWindow: time.Hour})
	info := w.ready(t, 0)
	at := time.Now().UTC()
	see := func(o lifecycle.Observation) {
		at = at.Add(time.Minute)
		o.At = at
		w.observe(t, o)
	}
	for range 3 {
		see(failed(info))
	}
	for i := range 10 {
		see(answer(info))
		require.Equal(t, lifecycle.StatusOffline, w.get(t, "server00").State.Status, "%d", i)
		if i%3 == 0 {
			see(failed(info))
		}
		if time.Until(at) > 12*time.Minute {
			break
		}
	}
	for range 3 {
		see(answer(info))
	}
	require.Equal(t, lifecycle.StatusReady, w.get(t, "server00").State.Status)

	off := newWorld(t, memstore.New(), opscenter.Options{FlapThreshold: -1})
	info = off.ready(t, 0)
	for range 10 {
		off.observe(t, failed(info), failed(info), failed(info), answer(info))
	}
	require.Equal(t, lifecycle.StatusReady, off.get(t, "server00").State.Status, "switched off")
}

func TestTheReasonOfAnAlarmGoesWithIt(t *testing.T) {
	w := memoryWorld(t)
	info := w.ready(t, 0)
	right, wrong := answer(info), failed(info)
	right.Presented = info.Fingerprint
	wrong.Presented, wrong.Failure = strings.Repeat("ab", 32), &lifecycle.Failure{Kind: lifecycle.FailureCertificate, Message: "another certificate"}
	w.observe(t, right)
	w.observe(t, wrong)
	require.Contains(t, w.get(t, "server00").State.StatusReason, "another certificate")
	right.At = time.Now()
	w.observe(t, right)
	require.Equal(t, "answers, and is ready", w.get(t, "server00").State.StatusReason)
	require.Empty(t, w.warnings(t))
}

// Between full polls, light ones are as cheap.
func TestLightAndFullPollsSettle(t *testing.T) {
	w := memoryWorld(t)
	info := w.ready(t, 0)
	trusted := true
	cheap := 0
	for i := range 20 {
		o := answer(info)
		if i%2 == 0 {
			o = withFacts(o, `{"cpu":1}`)
			o.SystemStateTrusted = &trusted
		} else {
			o.Light = true
		}
		if w.Observer().RecordUnchanged(&o) {
			cheap++
		} else {
			w.observe(t, o)
		}
	}
	require.GreaterOrEqual(t, cheap, 16)
}

func TestLimitsCanBeSet(t *testing.T) {
	w := newWorld(t, memstore.New(), opscenter.Options{MaxFactsHistory: 5})
	info := w.ready(t, 0)
	for i := range 10 {
		w.observe(t, withFacts(answer(info), fmt.Sprintf(`{"n":%d}`, i)))
	}
	history, err := w.FactsHistory(t.Context(), "server00")
	require.NoError(t, err)
	require.Len(t, history, 5)
	lower, err := opscenter.NewRegistry(w.store, opscenter.Options{MaxFactsHistory: 2})
	require.NoError(t, err)
	require.NoError(t, lower.Observer().Record(t.Context(), withFacts(answer(info), `{"n":99}`)))
	history, err = lower.FactsHistory(t.Context(), "server00")
	require.NoError(t, err)
	require.Len(t, history, 2)

	certificate(10)
	synctest.Test(t, func(t *testing.T) {
		w, infos := fleet(t, 10, opscenter.Options{GuardShare: 0.9, GuardMinimum: 2, GuardWindow: time.Hour})
		for _, info := range infos {
			w.observe(t, answer(info))
		}
		for _, info := range infos[:8] {
			w.observe(t, failed(info))
		}
		require.False(t, w.Observer().FleetUnreachable(), "8 of 10 are less than 0.9")
		time.Sleep(30 * time.Minute)
		w.observe(t, failed(infos[8]))
		require.True(t, w.Observer().FleetUnreachable(), "within the hour")
	})
	for _, options := range []opscenter.Options{{GuardShare: 1.5}, {GuardMinimum: -1}, {GuardWindow: -1}, {FlapWindow: -1}, {FlapSteady: -1}, {MaxFactsHistory: -1}} {
		_, err := opscenter.NewRegistry(memstore.New(), options)
		require.ErrorIs(t, err, opscenter.ErrInvalidOptions)
	}
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
	require.Zero(t, w.Tracked(), "nobody is remembered who is gone")
	require.False(t, w.FlushPending())
}
