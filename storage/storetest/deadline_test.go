package storetest_test

import (
	"context"
	"os"
	"os/exec"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/storage"
	"github.com/opscenter-go/sdk/storage/memstore"
	"github.com/opscenter-go/sdk/storage/storetest"
)

// alone is a store with one connection: a View keeps all others waiting.
type alone struct {
	storage.Store
	mu sync.Mutex
}

func (s *alone) View(ctx context.Context, fn func(storage.ReadTx) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.Store.View(ctx, fn)
}

func (s *alone) Update(ctx context.Context, fn func(storage.WriteTx) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.Store.Update(ctx, fn)
}

// TestDeadline: a store that hangs fails the tests in which it does, with a word why, and no others.
// The suite over that store runs in a process of its own.
func TestDeadline(t *testing.T) {
	if os.Getenv("OPSCENTER_ALONE") != "" {
		storetest.Run(t, func(string) (storage.Store, error) { return &alone{Store: memstore.New()}, nil }, storetest.SharesRows(), storetest.Deadline(3*time.Second))
		return
	}
	command := exec.Command(os.Args[0], "-test.run", "^TestDeadline$/^(Rollback|UpdateInsideView|CarelessCaller|PanicInUpdate)$", "-test.v")
	command.Env = append(os.Environ(), "OPSCENTER_ALONE=1")
	out, err := command.CombinedOutput()
	require.Error(t, err, "%s", out)
	for _, want := range []string{"--- PASS: TestDeadline/Rollback", "--- FAIL: TestDeadline/UpdateInsideView", "--- PASS: TestDeadline/PanicInUpdate", "--- SKIP: TestDeadline/CarelessCaller",
		"the test is not done after 3s (storetest.Deadline)", "(*alone).Update", "may call Update (storage.Store.View)"} {
		require.Contains(t, string(out), want)
	}
}
