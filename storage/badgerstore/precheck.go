package badgerstore

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"

	"github.com/dgraph-io/badger/v4"
	badgeroptions "github.com/dgraph-io/badger/v4/options"
	"github.com/dgraph-io/badger/v4/table"
	"github.com/dgraph-io/ristretto/v2/z"

	"github.com/opscenter-go/sdk/storage"
)

// checkTables reads Badger's tables before Badger does: it opens them in goroutines of its
// own, where its panic over a damaged one could not be caught.
func checkTables(dir string, verify bool) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("badgerstore: %w", err)
	}
	defaults := badger.DefaultOptions(dir)
	options := table.Options{
		ReadOnly:           true,
		BlockSize:          defaults.BlockSize,
		BloomFalsePositive: defaults.BloomFalsePositive,
		Compression:        defaults.Compression,
		ChkMode:            badgeroptions.NoVerification,
	}
	if verify {
		options.ChkMode = badgeroptions.OnTableRead
	}
	listed, err := tablesOf(dir)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		path := filepath.Join(dir, entry.Name())
		if filepath.Ext(path) != ".sst" {
			continue
		}
		if id, ok := table.ParseFileID(entry.Name()); ok && listed != nil && !listed(id) {
			continue // never finished: Badger removes it
		}
		if err := checkTable(path, options); err != nil {
			return fmt.Errorf("badgerstore: %s: %w: %v", path, storage.ErrCorrupt, err)
		}
	}
	return nil
}

func checkTable(path string, options table.Options) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("unreadable table: %.200v", r)
		}
	}()
	file, err := z.OpenMmapFile(path, os.O_RDONLY, 0)
	if err != nil {
		return err
	}
	defer file.Close(-1)
	_, err = table.OpenTable(file, options)
	return err
}
