package memstore

import (
	"errors"

	"github.com/opscenter-go/sdk/storage"
)

// go-memdb takes the bytes it is given as they are; it may append to them, so each call
// returns fresh ones, with no room behind.

// primaryIndexer indexes a table by its primary key.
type primaryIndexer struct{ table *storage.TableSchema }

func (primaryIndexer) FromArgs(args ...any) ([]byte, error) { return keyArgument(args) }

func (x primaryIndexer) FromObject(found any) (bool, []byte, error) {
	return true, exact(x.table.Key(unwrap(found))), nil
}

// positionIndexer indexes a table by the positions of its rows in a secondary index.
type positionIndexer struct{ index *storage.IndexSchema }

func (positionIndexer) FromArgs(args ...any) ([]byte, error) { return keyArgument(args) }

func (x positionIndexer) FromObject(found any) (bool, [][]byte, error) {
	positions, err := x.index.Positions(unwrap(found))
	if err != nil {
		return false, nil, err
	}
	out := make([][]byte, len(positions))
	for i, p := range positions {
		out[i] = exact(p)
	}
	return len(out) > 0, out, nil
}

// constantIndexer is for the one row of the meta table.
type constantIndexer struct{}

func (constantIndexer) FromArgs(...any) ([]byte, error)      { return []byte{0}, nil }
func (constantIndexer) FromObject(any) (bool, []byte, error) { return true, []byte{0}, nil }

func exact(key storage.Key) []byte { return key[:len(key):len(key)] }

func keyArgument(args []any) ([]byte, error) {
	if len(args) != 1 {
		return nil, errors.New("one key is wanted")
	}
	key, ok := args[0].(storage.Key)
	if !ok {
		return nil, errors.New("a storage.Key is wanted")
	}
	return exact(key), nil
}
