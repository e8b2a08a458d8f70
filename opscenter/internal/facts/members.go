package facts

import (
	"encoding/json"
	"fmt"

	"github.com/opscenter-go/sdk/internal/jsonfilter"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
)

// AppendMembers appends facts to dst as members of the JSON object that the REST API shows of a server: hardware_data, if it
// was read, and os_data. Each part must be a JSON document.
func AppendMembers(dst []byte, f *lifecycle.Facts) []byte {
	if f.Hardware != nil {
		dst = append(append(append(dst, `"hardware_data":`...), f.Hardware...), ',')
	}
	dst = append(dst, `"os_data":{`...)
	first := true
	for i, part := range partsOf(f) {
		if Part(i) == Hardware || *part.data == nil {
			continue
		}
		if !first {
			dst = append(dst, ',')
		}
		first = false
		dst = append(append(append(append(dst, '"'), part.name...), `":`...), *part.data...)
	}
	return append(dst, '}')
}

// fromMembers returns the facts of an object with the members that AppendMembers wrote. The parts are parts of object.
func fromMembers(object []byte) (*lifecycle.Facts, error) {
	out := &lifecycle.Facts{}
	var failed error
	err := jsonfilter.MembersWithin(object, 2, func(key, value []byte) {
		switch string(key) {
		case "hardware_data":
			out.Hardware = json.RawMessage(value)
		case "os_data":
			failed = jsonfilter.MembersWithin(value, 1, func(key, value []byte) {
				for i, part := range partsOf(out) {
					if Part(i) != Hardware && part.name == string(key) {
						*part.data = json.RawMessage(value)
					}
				}
			})
		}
	})
	if err == nil {
		err = failed
	}
	return out, err
}

// Open returns the facts that Merge returned as data.
func Open(data []byte) (*lifecycle.Facts, error) {
	object, err := decoder.DecodeAll(data, []byte{'{'})
	if err != nil {
		return nil, err
	}
	return fromMembers(append(object, '}'))
}

// OpenEarlier returns facts in the form in which earlier releases stored them: an object with a member for each part.
func OpenEarlier(data []byte) (*lifecycle.Facts, error) {
	object, err := Decompress(data)
	if err != nil {
		return nil, err
	}
	out := &lifecycle.Facts{}
	if err := json.Unmarshal(object, out); err != nil {
		return nil, err
	}
	return out, nil
}

// AppendOpen appends the members in data, as AppendMembers wrote them, to dst.
func AppendOpen(dst, data []byte) ([]byte, error) {
	out, err := decoder.DecodeAll(data, dst)
	if err != nil {
		return dst, fmt.Errorf("decompressing: %w", err)
	}
	return out, nil
}
