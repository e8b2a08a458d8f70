package storage

import (
	"bytes"
	"fmt"

	"github.com/fxamacker/cbor/v2"
)

// compactForm is the first byte of a row in CBOR. A row in JSON begins with "{". Another form of rows would have another
// byte.
const compactForm = 1

// compactEncoding and compactDecoding keep all that encoding/json keeps: nil apart from empty, the zone and the
// nanoseconds of a time, the tags "json" of fields.
var (
	compactEncoding = must(cbor.EncOptions{Sort: cbor.SortBytewiseLexical, Time: cbor.TimeRFC3339Nano, OmitEmpty: cbor.OmitEmptyGoValue, TextMarshaler: cbor.TextMarshalerTextString}.UserBufferEncMode())
	compactDecoding = must(cbor.DecOptions{FieldNameMatching: cbor.FieldNameMatchingCaseSensitive, TextUnmarshaler: cbor.TextUnmarshalerTextString}.DecMode())
)

func must[M any](mode M, err error) M {
	if err != nil {
		panic(err) // the options are constants
	}
	return mode
}

// Compact makes stores keep the rows of the table in CBOR, which is read several times faster than JSON and keeps bytes as
// they are. Rows that are stored in JSON are still read. Call it before the table is attached. Do not remove it later:
// without it, rows in CBOR are ErrCorrupt. T, and each type
// within it except time.Time and json.RawMessage, must not implement json.Marshaler: CBOR does not call it.
func (t *Table[T]) Compact() *Table[T] {
	t.schema.compact = true
	fromJSON := t.schema.decode
	fromCBOR := func(data []byte) (any, error) {
		row := new(T)
		if err := compactDecoding.Unmarshal(data, row); err != nil {
			return nil, err
		}
		return row, nil
	}
	t.schema.encode = func(row any) ([]byte, error) {
		var out bytes.Buffer
		out.WriteByte(compactForm)
		err := compactEncoding.MarshalToBuffer(row, &out)
		return out.Bytes(), err
	}
	t.schema.decode = func(data []byte) (any, error) {
		switch {
		case len(data) > 0 && data[0] == compactForm:
			return fromCBOR(data[1:])
		case len(data) > 0 && data[0] != '{' && data[0] < ' ':
			return nil, fmt.Errorf("a row of form %d, which this release does not know", data[0])
		}
		return fromJSON(data)
	}
	return t
}
