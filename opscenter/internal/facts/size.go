package facts

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/opscenter-go/sdk/internal/jsonfilter"
	"github.com/opscenter-go/sdk/internal/truncate"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
)

// factsLimits are the limits in the order of Facts.parts.
var factsLimits = [4]int{lifecycle.MaxHardwareSize, lifecycle.MaxNetworkSize, lifecycle.MaxSecuritySize, lifecycle.MaxStorageSize}

// TooLarge reports whether a part is over its limit.
func TooLarge(f *lifecycle.Facts) bool {
	for i, part := range partsOf(f) {
		if len(*part.data) > factsLimits[i] {
			return true
		}
	}
	return false
}

// Reduced returns facts of which each part fits, and notes about the parts that it left out. It leaves out a whole part
// that is not JSON, with its error. It returns facts that fit as they are.
func Reduced(f *lifecycle.Facts) (out *lifecycle.Facts, notes []string) {
	out = f
	for i, part := range partsOf(f) {
		if len(*part.data) <= factsLimits[i] {
			continue
		}
		if out == f {
			all := *f
			all.Sums = nil
			out = &all
		}
		kept, left, err := ReducePart(*part.data, factsLimits[i])
		if err != nil {
			left = err.Error()
		}
		if *partsOf(out)[i].data = kept; left == "" {
			continue // it fits in its compact form
		}
		notes = append(notes, fmt.Sprintf("%s facts of %d bytes, at most %d are kept; left out: %s", part.name, len(*part.data), factsLimits[i], left))
	}
	return out, notes
}

// maxMembers bounds how many members of a document are looked at one by one.
const maxMembers = 4096

// reducePart returns as much of a document as fits into a number of bytes, and names what it has
// left out. It is deterministic:
//
//  1. The lists of virtual functions, "vfs", are left out. The document has their count beside them.
//  2. Then the largest members are, of the objects right below the document and of the document. The
//     largest go first by full 4 KiB, and those of one size by their names: so they are the same from
//     poll to poll, though counters in them grow.
//  3. Then the largest members of the document are, in that order.
//
// Nothing is kept of a document that does not fit even so, or that has more than maxMembers members.
func ReducePart(data json.RawMessage, limit int) (kept json.RawMessage, left string, err error) {
	kept, removed, err := jsonfilter.Append(make([]byte, 0, limit), data, func(key []byte) bool { return string(key) == "vfs" })
	if err != nil {
		return nil, "", err
	}
	var names []string
	more := 0
	if removed {
		names = append(names, fmt.Sprintf("%d virtual functions", countFunctions(data)))
	}
	for _, below := range []bool{true, false} {
		if len(kept) <= limit {
			break
		}
		var dropped []string
		var count int
		if kept, dropped, count, err = dropLargest(kept, limit-limit/16, below); err != nil {
			return nil, "", err
		}
		names = append(names, dropped...)
		more += count - len(dropped)
	}
	if len(kept) > limit {
		return nil, "all of it, which has too many members, or too large names of members", nil
	}
	if over := len(names) - maxLeftOut; over > 0 {
		names, more = names[:maxLeftOut:maxLeftOut], more+over
	}
	if more > 0 {
		names = append(names, fmt.Sprintf("and %d more", more))
	}
	return kept, strings.Join(names, ", "), nil
}

// dropLargest leaves out the largest members of a document until it has a size. below: also members of its members. It
// names the first maxLeftOut of them, and counts all. A document with too many members stays as it is.
func dropLargest(document json.RawMessage, size int, below bool) (kept json.RawMessage, names []string, count int, err error) {
	list, err := membersOf(document, below)
	if err != nil || len(list) > maxMembers {
		return document, nil, 0, err
	}
	slices.SortFunc(list, func(a, b member) int {
		return cmp.Or(cmp.Compare(b.size>>12, a.size>>12), cmp.Compare(a.path, b.path))
	})
	drop, have := map[string]bool{}, len(document)
	for _, m := range list {
		if have <= size {
			break
		}
		if drop[m.path] = true; len(names) < maxLeftOut {
			names = append(names, m.path)
		}
		count++
		have -= m.size
	}
	kept, err = without(document, drop)
	return kept, names, count, err
}

// maxMemberName is how much of the name of a member is told, in bytes.
const maxMemberName = 63

// maxLeftOut bounds how many names of what was left out are told.
const maxLeftOut = 10

// member is a member of a document, or of an object that is one.
type member struct {
	path string // of its names, which are cut
	size int    // of name and value
}

// membersOf lists the members of a document. below: it lists the members of its objects instead of the objects. It ends
// after maxMembers.
func membersOf(document []byte, below bool) (list []member, err error) {
	add := func(path string, key, value []byte) {
		if len(list) <= maxMembers {
			list = append(list, member{path, len(key) + len(value) + len(`"":,`)})
		}
	}
	err = jsonfilter.Members(document, func(key, value []byte) {
		path, any := truncate.Text(string(key), maxMemberName), false
		if below && len(value) > 0 && value[0] == '{' {
			_ = jsonfilter.Members(value, func(inner, value []byte) {
				add(path+"."+truncate.Text(string(inner), maxMemberName), inner, value)
				any = true
			})
		}
		if !any {
			add(path, key, value)
		}
	})
	return list, err
}

// without returns a document without the members with these paths, and those beyond.
func without(document []byte, drop map[string]bool) (json.RawMessage, error) {
	return rebuild(document, func(key string, value []byte) (json.RawMessage, bool) {
		if drop[key] {
			return nil, false
		}
		if len(value) == 0 || value[0] != '{' {
			return value, true
		}
		kept, err := rebuild(value, func(inner string, value []byte) (json.RawMessage, bool) { return value, !drop[key+"."+inner] })
		return kept, err == nil
	})
}

// rebuild copies an object, with what keep makes of its members.
func rebuild(object []byte, keep func(key string, value []byte) (json.RawMessage, bool)) (json.RawMessage, error) {
	out := append(make([]byte, 0, len(object)), '{')
	err := jsonfilter.Members(object, func(key, value []byte) {
		kept, ok := keep(truncate.Text(string(key), maxMemberName), value)
		if !ok {
			return
		}
		name, err := encodePlain(string(key))
		if err != nil {
			return
		}
		if len(out) > 1 {
			out = append(out, ',')
		}
		out = append(append(append(out, name...), ':'), kept...)
	})
	return append(out, '}'), err
}

// countFunctions counts the virtual functions of all cards of a document.
func countFunctions(document []byte) (n int) {
	var doc any
	if json.Unmarshal(document, &doc) != nil {
		return 0
	}
	var walk func(any)
	walk = func(v any) {
		switch v := v.(type) {
		case map[string]any:
			for key, value := range v {
				if list, ok := value.([]any); ok && key == "vfs" {
					n += len(list)
					continue
				}
				walk(value)
			}
		case []any:
			for _, value := range v {
				walk(value)
			}
		}
	}
	walk(doc)
	return n
}
