package badgerstore

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/dgraph-io/badger/v4"

	"github.com/opscenter-go/sdk/internal/durable"
	"github.com/opscenter-go/sdk/storage"
)

// asideExtension marks an empty log that was moved away, until all is known to be there without it.
const asideExtension = ".empty"

// setAside moves away the logs that are empty: Badger had just made one when the power went
// (github.com/dgraph-io/badger/issues/2207), or had just emptied one to remove it, and refuses to open with it. Or it was
// emptied by damage, with all that was in it; load finds that. It returns what was moved, now or in an earlier try.
func setAside(dir string) (aside []string, err error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("badgerstore: %w", err)
	}
	for _, entry := range entries {
		path := filepath.Join(dir, entry.Name())
		switch filepath.Ext(path) {
		case asideExtension:
			aside = append(aside, path)
			continue
		case ".mem", ".vlog":
		default:
			continue
		}
		info, err := os.Stat(path)
		if err != nil {
			return nil, fmt.Errorf("badgerstore: %w", err)
		}
		if info.Size() > 0 {
			continue
		}
		if err := os.Rename(path, path+asideExtension); err != nil {
			return nil, fmt.Errorf("badgerstore: %w", err)
		}
		aside = append(aside, path+asideExtension)
	}
	if len(aside) > 0 {
		if err := durable.SyncDir(dir); err != nil {
			return nil, fmt.Errorf("badgerstore: %w", err)
		}
	}
	return aside, nil
}

// tablesOf reports which tables Badger's manifest lists; nil: there is no manifest yet.
func tablesOf(dir string) (func(id uint64) bool, error) {
	file, err := os.Open(filepath.Join(dir, badger.ManifestFilename))
	if err != nil {
		return nil, nil // for Badger to say
	}
	defer file.Close()
	manifest, _, err := badger.ReplayManifestFile(file, 0, badger.DefaultOptions(dir))
	if err != nil {
		return nil, fmt.Errorf("badgerstore: %s: %w: %v", dir, storage.ErrCorrupt, err)
	}
	return func(id uint64) bool { _, ok := manifest.Tables[id]; return ok }, nil
}
