package controltest

import (
	"context"
	"fmt"
	"sync/atomic"

	"github.com/opscenter-go/sdk/storage"
)

// LimitedStore is a store with limits of its own, as a backend over a service has. It counts each row and each of its
// index entries, also for a deleted row.
type LimitedStore struct {
	storage.Store
	limits  storage.Limits
	refused atomic.Int64
}

// Limit gives a store smaller limits. 0: the default.
func Limit(store storage.Store, limits storage.Limits) *LimitedStore {
	return &LimitedStore{Store: store, limits: limits}
}

// Limits implements storage.Limited.
func (s *LimitedStore) Limits() storage.Limits { return s.limits }

// Refused returns how many Updates were over the limits.
func (s *LimitedStore) Refused() int { return int(s.refused.Load()) }

// Update implements storage.Store.
func (s *LimitedStore) Update(ctx context.Context, fn func(storage.WriteTx) error) error {
	over := false
	err := s.Store.Update(ctx, func(tx storage.WriteTx) error {
		limited := &limitedTx{WriteTx: tx, limits: storage.LimitsOf(s)}
		err := fn(limited)
		over = limited.over
		if over && err == nil {
			err = storage.ErrTooLarge
		}
		return err
	})
	if over {
		s.refused.Add(1)
	}
	return err
}

// limitedTx counts the writes of a transaction.
type limitedTx struct {
	storage.WriteTx
	limits       storage.Limits
	writes, size int
	over         bool
}

func (t *limitedTx) grow(table *storage.TableSchema, row any, size int) error {
	t.writes++
	t.size += size
	for _, index := range table.Indexes {
		keys, err := index.Keys(row)
		if err != nil {
			return err
		}
		t.writes += len(keys)
	}
	if t.writes > t.limits.MaxTxWrites || t.size > t.limits.MaxTxSize {
		t.over = true
		return fmt.Errorf("table %s: %d writes, %d bytes: %w", table.Name, t.writes, t.size, storage.ErrTooLarge)
	}
	return nil
}

func (t *limitedTx) Put(table *storage.TableSchema, row any) error {
	data, err := table.Encode(row)
	if err == nil {
		err = t.grow(table, row, len(table.Key(row))+len(data))
	}
	if err != nil {
		return err
	}
	return t.WriteTx.Put(table, row)
}

func (t *limitedTx) Append(table *storage.TableSchema, row any) error {
	data, err := table.Encode(row)
	if err == nil {
		err = t.grow(table, row, len(data))
	}
	if err != nil {
		return err
	}
	return t.WriteTx.Append(table, row)
}

func (t *limitedTx) Delete(table *storage.TableSchema, key storage.Key) error {
	row, err := t.Get(table.Primary, key)
	if err == nil {
		err = t.grow(table, row, len(key))
	}
	if err != nil {
		return err
	}
	return t.WriteTx.Delete(table, key)
}
