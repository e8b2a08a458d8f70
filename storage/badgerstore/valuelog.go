package badgerstore

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"reflect"

	"github.com/dgraph-io/badger/v4"

	"github.com/opscenter-go/sdk/storage"
)

// Badger does not miss a file of its value log, nor the end of one, until a row is read that was in it. What is in
// which file is told by the pointers that its tables have instead of large rows.

// pointer is where a large row is.
type pointer struct{ file, length, offset uint32 }

// pointsIntoLog is the bit that Badger marks a pointer with, and pointerSize its length: three numbers of the
// machine's byte order. TestValueLogIsChecked fails should that ever change.
const (
	pointsIntoLog = 1 << 1
	pointerSize   = 12
)

// pointerOf returns where a row is, if it is in the value log. Badger has no method for it.
func pointerOf(item *badger.Item) (pointer, bool) {
	fields := reflect.ValueOf(item).Elem()
	meta, where := fields.FieldByName("meta"), fields.FieldByName("vptr")
	if !meta.IsValid() || !where.IsValid() || meta.Kind() != reflect.Uint8 || where.Kind() != reflect.Slice || meta.Uint()&pointsIntoLog == 0 {
		return pointer{}, false
	}
	data := where.Bytes()
	if len(data) < pointerSize {
		return pointer{}, false
	}
	return pointer{binary.NativeEndian.Uint32(data), binary.NativeEndian.Uint32(data[4:]), binary.NativeEndian.Uint32(data[8:])}, true
}

// logFile is what rows are in a file of the value log: the first and the last of them are read.
type logFile struct {
	first, last       uint32
	firstKey, lastKey []byte
	end               int64
}

// logFiles are those that rows are in.
type logFiles map[uint32]*logFile

// note takes note of a row.
func (l logFiles) note(item *badger.Item) {
	at, ok := pointerOf(item)
	if !ok {
		return
	}
	file := l[at.file]
	if file == nil {
		file = &logFile{first: at.offset, last: at.offset, firstKey: item.KeyCopy(nil), lastKey: item.KeyCopy(nil)}
		l[at.file] = file
	}
	if at.offset < file.first {
		file.first, file.firstKey = at.offset, item.KeyCopy(file.firstKey)
	}
	if at.offset > file.last {
		file.last, file.lastKey = at.offset, item.KeyCopy(file.lastKey)
	}
	file.end = max(file.end, int64(at.offset)+int64(at.length))
}

// check looks whether each file is there, is as long as what is in it, and has its first and last row still.
func (l logFiles) check(dir string, txn *badger.Txn) error {
	for number, file := range l {
		path := filepath.Join(dir, fmt.Sprintf("%06d.vlog", number))
		info, err := os.Stat(path)
		if err != nil {
			return fmt.Errorf("%w: rows are in a file that is not there: %v", storage.ErrCorrupt, err)
		}
		if info.Size() < file.end {
			return fmt.Errorf("%w: %s has %d bytes, and there are rows up to byte %d", storage.ErrCorrupt, path, info.Size(), file.end)
		}
		for _, key := range [][]byte{file.firstKey, file.lastKey} {
			item, err := txn.Get(key)
			if err == nil {
				err = readable(item)
			}
			if err != nil {
				return fmt.Errorf("%w: %s: %v", storage.ErrCorrupt, path, err)
			}
		}
	}
	return nil
}

// readable returns an error unless the value of a row can be read: Badger only logs that it can't.
func readable(item *badger.Item) error {
	return item.Value(func(value []byte) error {
		if size := item.ValueSize(); len(value) == 0 && size > 0 {
			return fmt.Errorf("a row of about %d bytes can't be read", size)
		}
		return nil
	})
}
