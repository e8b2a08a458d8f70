package badgerstore

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/dgraph-io/badger/v4"

	"github.com/opscenter-go/sdk/storage"
)

// asideExtension marks an empty log that was moved away, until all is known to be there without it.
const asideExtension = ".empty"

// setAside moves away the newest log of each kind if it is empty: Badger had just made it when the
// power went (github.com/dgraph-io/badger/issues/2207), and refuses to open with it. Or it was
// emptied by damage, with all that was in it; load finds that. It returns what was moved, now or in an earlier try.
func setAside(dir string) (aside []string, err error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("badgerstore: %w", err)
	}
	newest := map[string]string{}
	for _, entry := range entries { // sorted: the newest of its kind comes last
		newest[filepath.Ext(entry.Name())] = entry.Name()
		if filepath.Ext(entry.Name()) == asideExtension {
			aside = append(aside, filepath.Join(dir, entry.Name()))
		}
	}
	for _, ext := range []string{".mem", ".vlog"} {
		if newest[ext] == "" {
			continue
		}
		path := filepath.Join(dir, newest[ext])
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
		if err := syncDir(dir); err != nil {
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
