package boundedlog

import (
	"context"
	"errors"

	"github.com/opscenter-go/sdk/storage"
)

// Earlier releases kept each log within its limits by counters: rows of four tables, which each writer changed.
type (
	retiredCount struct{ Class string }
	retiredOwner struct{ Name string }
	retiredPlace struct {
		Owner string
		Place uint64
	}
	retiredCounter struct{ Name string }
)

// step is how many rows one transaction deletes.
const step = 500

// Retired is the tables in which earlier releases kept the counters of a log. Declare it once, as a package variable.
type Retired []*storage.TableSchema

// NewRetired returns the tables whose names begin with log, and counters, the one that held the last number.
func NewRetired(log, counters string) Retired {
	return Retired{
		storage.NewTable(log+"_counts", func(c *retiredCount) storage.Key { return storage.StringKey(c.Class) }).Schema(),
		storage.NewTable(log+"_owners", func(o *retiredOwner) storage.Key { return storage.StringKey(o.Name) }).Schema(),
		storage.NewTable(log+"_places", func(p *retiredPlace) storage.Key { return storage.StringKey(p.Owner).Uint(p.Place) }).Schema(),
		storage.NewTable(counters, func(c *retiredCounter) storage.Key { return storage.StringKey(c.Name) }).Schema(),
	}
}

// Clear deletes the rows of the tables.
func (r Retired) Clear(ctx context.Context, store storage.Store) error {
	if err := store.Attach(ctx, r...); err != nil {
		return err
	}
	for _, schema := range r {
		if err := clearTable(ctx, store, schema); err != nil {
			return err
		}
	}
	return nil
}

func clearTable(ctx context.Context, store storage.Store, schema *storage.TableSchema) error {
	step := storage.LimitsOf(store).Rows(step, 1)
	for {
		var keys []storage.Key
		err := store.View(ctx, func(tx storage.ReadTx) error {
			keys = nil
			for row, err := range tx.Scan(schema.Primary, storage.Range{}) {
				if err != nil {
					return err
				}
				if keys = append(keys, schema.Key(row)); len(keys) == step {
					break
				}
			}
			return nil
		})
		if err != nil || len(keys) == 0 {
			return err
		}
		err = store.Update(ctx, func(tx storage.WriteTx) error {
			for _, key := range keys {
				if err := tx.Delete(schema, key); err != nil && !errors.Is(err, storage.ErrNotFound) {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
}
