package memstore_test

import (
	"testing"

	"go.uber.org/goleak"

	"github.com/opscenter-go/sdk/storage"
	"github.com/opscenter-go/sdk/storage/memstore"
	"github.com/opscenter-go/sdk/storage/storetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestConformance(t *testing.T) {
	storetest.Run(t, func(string) (storage.Store, error) { return memstore.New(memstore.Options{DetectMutation: true}), nil },
		storetest.DetectsMutation())
}

// TestDefaults runs what the default options do differently: rows are not checked.
func TestDefaults(t *testing.T) {
	store := memstore.New()
	storetest.Smoke(t, store)
}
