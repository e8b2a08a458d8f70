package storetest

import (
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/storage"
)

// DefaultDeadline bounds each test of the suite.
const DefaultDeadline = 2 * time.Minute

// Deadline bounds each test of the suite; default: DefaultDeadline. A test that is not done by then
// fails with the rule that it is about and the stacks of all goroutines, and the next one goes on. What it left
// running may end the test binary later, when it fails in its turn.
func Deadline(d time.Duration) Option { return func(s *suite) { s.deadline = d } }

// within runs a test, and fails it when it is not done in time. What it left running is not waited for.
func (s *suite) within(t *testing.T, rule string, test func(*testing.T)) {
	t.Helper()
	if !inTime(s.deadline, func() { test(t) }) {
		t.Fatalf("the stacks of all goroutines:\n%s\nthe test is not done after %s (storetest.Deadline): the store keeps a call waiting. %s", stacks(), s.deadline, rule)
	}
}

// rules are those of storage.Store that a test is about, in which stores have been found to hang.
var rules = map[string]string{
	"SnapshotIsStable":   "No writer waits for a View (storage.Store.View).",
	"UpdateInsideView":   "The function of a View may call Update (storage.Store.View).",
	"WatchOrder":         "Watch yields what was committed (storage.Store.Watch).",
	"WatchLagAndReset":   "No writer waits for a reader of Watch, which is reset instead (storage.Store.Watch).",
	"WatchCancel":        "Watch ends with its context's error (storage.Store.Watch).",
	"WatchEnded":         "Watch with a context that has ended waits for nothing (storage.Store.Watch).",
	"WatchMissesNothing": "Watch yields all that was committed (storage.Store.Watch).",
	"Closed":             "Close ends each Watch with ErrClosed (storage.Store.Close).",
}

// closeInTime closes a store that may hang.
func (s *suite) closeInTime(t testing.TB, store storage.Store) {
	var err error
	if !inTime(s.deadline, func() { err = store.Close() }) {
		t.Errorf("Close has not returned after %s (storetest.Deadline)", s.deadline)
		return
	}
	require.NoError(t, err)
}

// inTime reports whether fn was done within d.
func inTime(d time.Duration, fn func()) bool {
	done := make(chan struct{})
	go func() {
		defer close(done) // also when fn fails the test, which ends its goroutine
		fn()
	}()
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-done:
		return true
	case <-timer.C:
		return false
	}
}

func stacks() []byte {
	buffer := make([]byte, 1<<20)
	return buffer[:runtime.Stack(buffer, true)]
}
