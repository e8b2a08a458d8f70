package badgerstore_test

import (
	"testing"

	"go.uber.org/goleak"

	"github.com/opscenter-go/sdk/storage"
	"github.com/opscenter-go/sdk/storage/badgerstore"
	"github.com/opscenter-go/sdk/storage/storetest"
)

func TestConformance(t *testing.T) {
	// Badger leaves goroutines behind when it can't open a damaged directory, so only what
	// this test starts is looked at.
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	storetest.Run(t, func(dir string) (storage.Store, error) { return badgerstore.Open(dir) }, storetest.Durable())
}
