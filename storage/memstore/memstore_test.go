package memstore_test

import (
	"testing"

	"github.com/stretchr/testify/require"
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

func TestShared(t *testing.T) {
	storetest.RunShared(t, func(t *testing.T) storetest.Engine {
		engine := memstore.New(memstore.Options{DetectMutation: true})
		t.Cleanup(func() { _ = engine.Close() })
		return storetest.Engine{Open: func() (storage.Store, error) { return engine.Open(), nil }}
	})
}

// TestRowsOutliveTheStore: a program that starts again over the same rows is a store that is opened after another's end.
func TestRowsOutliveTheStore(t *testing.T) {
	type row struct{ ID string }
	rows := storage.NewTable("rows", func(r *row) storage.Key { return storage.StringKey(r.ID) })
	first := memstore.New()
	require.NoError(t, first.Attach(t.Context(), rows.Schema()))
	require.NoError(t, first.Update(t.Context(), func(tx storage.WriteTx) error { return rows.Put(tx, &row{ID: "a"}) }))
	require.NoError(t, first.Close())
	second := first.Open()
	defer second.Close()
	require.NoError(t, second.Attach(t.Context(), rows.Schema()))
	require.NoError(t, second.View(t.Context(), func(tx storage.ReadTx) error {
		require.EqualValues(t, 1, tx.Revision())
		_, err := rows.Get(tx, storage.StringKey("a"))
		return err
	}))
	// Rows of another type can't be told apart from these in memory.
	type other struct{ ID string }
	others := storage.NewTable("rows", func(r *other) storage.Key { return storage.StringKey(r.ID) })
	third := first.Open()
	defer third.Close()
	require.ErrorIs(t, third.Attach(t.Context(), others.Schema()), storage.ErrSchema)
}

// TestDefaults runs what the default options do differently: rows are not checked.
func TestDefaults(t *testing.T) {
	store := memstore.New()
	storetest.Smoke(t, store)
}
