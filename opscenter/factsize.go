package opscenter

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/opscenter-go/sdk/internal/jsonfilter"
)

// Limits of the parts of facts, in bytes, before compression: what can't be compressed at all
// still fits into a row together. Of a part that is larger is kept what fits, see reducePart: the
// others are not concerned, and WarningFacts says what was left out.
const (
	MaxHardwareSize = 384 << 10
	MaxNetworkSize  = 128 << 10
	MaxSecuritySize = 48 << 10
	MaxStorageSize  = 128 << 10
	// MaxFactsSize is the sum of them, with room for their names.
	MaxFactsSize = MaxHardwareSize + MaxNetworkSize + MaxSecuritySize + MaxStorageSize + 1<<10
)

// factsLimits are the limits in the order of Facts.parts.
var factsLimits = [4]int{MaxHardwareSize, MaxNetworkSize, MaxSecuritySize, MaxStorageSize}

// reduced returns facts of which each part fits, and says what was left out of them. A part that
// is not JSON is left out as a whole, with its error. Facts that fit are returned as they are.
func (f *Facts) reduced() (out *Facts, notes []string) {
	out = f
	for i, part := range f.parts() {
		if len(*part.data) <= factsLimits[i] {
			continue
		}
		if out == f {
			all := *f
			out = &all
		}
		kept, left, err := reducePart(*part.data, factsLimits[i])
		if err != nil {
			left = err.Error()
		}
		*out.parts()[i].data = kept
		notes = append(notes, fmt.Sprintf("%s facts of %d bytes, at most %d are kept; left out: %s", part.name, len(*part.data), factsLimits[i], left))
	}
	return out, notes
}

// reducePart returns as much of a document as fits into a number of bytes, and names what it has
// left out. First go the lists of virtual functions, "vfs", of which the document has the count
// beside them; then the largest members of the document, or of the objects right below it, the
// largest first by full 4 KiB, those of one size by their names: so it is the same ones from poll to
// poll, though counters in them grow. It is deterministic.
func reducePart(data json.RawMessage, limit int) (kept json.RawMessage, left string, err error) {
	functions := 0
	kept, removed, err := jsonfilter.Append(make([]byte, 0, limit), data, func(key []byte) bool { return string(key) == "vfs" })
	if err != nil {
		return nil, "", err
	}
	var names []string
	if removed {
		functions = countFunctions(data)
		names = append(names, fmt.Sprintf("%d virtual functions", functions))
	}
	limit -= limit / 16
	if len(kept) <= limit {
		return kept, strings.Join(names, ", "), nil
	}
	list, err := membersOf(kept)
	if err != nil {
		return nil, "", err
	}
	slices.SortStableFunc(list, func(a, b member) int {
		return cmp.Or(cmp.Compare(b.size>>12, a.size>>12), cmp.Compare(a.path(), b.path()))
	})
	drop, size := map[string]bool{}, len(kept)
	for _, m := range list {
		if size <= limit {
			break
		}
		drop[m.path()] = true
		size -= m.size + len(m.name) + len(`"":,`)
		names = append(names, m.path())
	}
	if kept, err = without(kept, drop); err != nil {
		return nil, "", err
	}
	if len(names) > maxLeftOut {
		names = append(names[:maxLeftOut:maxLeftOut], fmt.Sprintf("and %d more", len(names)-maxLeftOut))
	}
	return kept, strings.Join(names, ", "), nil
}

// maxLeftOut bounds how many names of what was left out are told.
const maxLeftOut = 10

// member is a member of a document, or of an object that is one.
type member struct {
	parent, name string
	size         int
}

func (m *member) path() string { return strings.TrimPrefix(m.parent+"."+m.name, ".") }

// membersOf lists what can be left out of a document: the members of the objects that are its
// members, and its other members.
func membersOf(document []byte) (list []member, err error) {
	err = jsonfilter.Members(document, func(key, value []byte) {
		below := 0
		if len(value) > 0 && value[0] == '{' {
			_ = jsonfilter.Members(value, func(inner, value []byte) {
				list = append(list, member{parent: cutTo(string(key), MaxLabelLength), name: cutTo(string(inner), MaxLabelLength), size: len(value)})
				below++
			})
		}
		if below == 0 {
			list = append(list, member{name: cutTo(string(key), MaxLabelLength), size: len(value)})
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
		kept, ok := keep(cutTo(string(key), MaxLabelLength), value)
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
