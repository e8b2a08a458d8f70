package facts

import (
	"bytes"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/opscenter-go/sdk/internal/truncate"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
)

// maxMore bounds how far changes are counted that are not kept.
const maxMore = 1000

// Diff lists the values that differ. It leaves out values that change all the time. Without keepSecrets it leaves out
// secrets, too.
func Diff(before, after *lifecycle.Facts, keepSecrets bool) lifecycle.FactsRevision {
	d := differ{keepSecrets: keepSecrets}
	old := partsOf(before)
	for i, part := range partsOf(after) {
		if *old[i].data == nil || *part.data == nil || bytes.Equal(*old[i].data, *part.data) {
			continue // a part that is read for the first time is no change
		}
		a, errA := parse(*old[i].data)
		b, errB := parse(*part.data)
		if errA != nil || errB != nil {
			continue
		}
		d.path = append(d.path[:0], part.name)
		d.diff(a, b)
	}
	return d.out
}

// differ compares documents. It makes the path of a value only if the value differs.
type differ struct {
	keepSecrets bool
	path        []any // keys and indexes
	out         lifecycle.FactsRevision
}

func (d *differ) full() bool { return d.out.More >= maxMore }

// within compares the values one step further down.
func (d *differ) within(step, from, to any, had, has bool) {
	d.path = append(d.path, step)
	switch {
	case had && has:
		d.diff(from, to)
	case had:
		d.add(from, nil, true, false)
	default:
		d.add(nil, to, false, true)
	}
	d.path = d.path[:len(d.path)-1]
}

func (d *differ) diff(a, b any) {
	switch x := a.(type) {
	case map[string]any:
		if y, ok := b.(map[string]any); ok {
			keys := slices.Sorted(maps.Keys(x))
			for key := range y {
				if _, both := x[key]; !both {
					keys = append(keys, key)
				}
			}
			slices.Sort(keys)
			for _, key := range keys {
				if isVolatile([]byte(key)) || !d.keepSecrets && isSecret([]byte(key)) {
					continue
				}
				from, had := x[key]
				to, has := y[key]
				if d.within(key, from, to, had, has); d.full() {
					return
				}
			}
			return
		}
	case []any:
		if y, ok := b.([]any); ok {
			for i := range max(len(x), len(y)) {
				var from, to any
				if i < len(x) {
					from = x[i]
				}
				if i < len(y) {
					to = y[i]
				}
				if d.within(i, from, to, i < len(x), i < len(y)); d.full() {
					return
				}
			}
			return
		}
	}
	if !reflect.DeepEqual(a, b) {
		d.add(a, b, true, true)
	}
}

func (d *differ) add(from, to any, had, has bool) {
	if len(d.out.Changes) == lifecycle.MaxFactChanges {
		d.out.More++
		return
	}
	change := lifecycle.FieldChange{Path: d.where()}
	if had {
		change.From = d.show(from)
	}
	if has {
		change.To = d.show(to)
	}
	d.out.Changes = append(d.out.Changes, change)
}

func (d *differ) where() string {
	var out strings.Builder
	for i, step := range d.path {
		switch step := step.(type) {
		case int:
			fmt.Fprintf(&out, "[%d]", step)
		case string:
			if i > 0 {
				out.WriteByte('.')
			}
			out.WriteString(step[:min(len(step), lifecycle.MaxFactValue)])
		}
		if out.Len() > lifecycle.MaxFactValue {
			break
		}
	}
	return truncate.Text(out.String(), lifecycle.MaxFactValue)
}

// show returns a value as JSON, cut, without secrets unless they are to be kept.
func (d *differ) show(value any) string {
	data, err := encodePlain(value)
	if err == nil && !d.keepSecrets {
		data, err = RedactSecrets(data)
	}
	if err != nil {
		return ""
	}
	return truncate.Text(string(data), lifecycle.MaxFactValue)
}
