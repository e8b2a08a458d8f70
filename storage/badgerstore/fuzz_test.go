package badgerstore_test

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"os"
	"path/filepath"
	"testing"

	"github.com/opscenter-go/sdk/storage"
	"github.com/opscenter-go/sdk/storage/badgerstore"
)

// FuzzJournal reads journals: a revision that is believed is one that was written, and all else is a clear error.
func FuzzJournal(f *testing.F) {
	sector := func(text string, number uint64) []byte {
		data := make([]byte, 512)
		n := copy(data, text)
		if text == "" {
			binary.BigEndian.PutUint64(data, number)
		} else {
			binary.BigEndian.PutUint32(data[n:], uint32(number))
		}
		binary.BigEndian.PutUint32(data[508:], crc32.ChecksumIEEE(data[:508]))
		return data
	}
	good := append(append(sector("opscenter store\n", 1), sector("", 7)...), sector("", 8)...)
	f.Add(good)
	f.Add(good[:1000])
	f.Add(append(append(sector("opscenter store\n", 9), sector("", 7)...), sector("", 8)...))
	path := filepath.Join(f.TempDir(), "journal")
	f.Fuzz(func(t *testing.T, data []byte) {
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		file, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		revision, err := badgerstore.ReadJournal(file)
		if err != nil {
			if !errors.Is(err, storage.ErrCorrupt) && !errors.Is(err, storage.ErrFormat) {
				t.Fatal(err)
			}
			return
		}
		for slot := range 2 {
			if part := data[512*(1+slot):]; binary.BigEndian.Uint64(part) == revision {
				return
			}
		}
		t.Fatalf("revision %d is in neither slot", revision)
	})
}
