package inventory

import (
	"bytes"
	"encoding/json"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/opscenter-go/sdk/internal/jsonfilter"
)

// Limits of a stored change.
const (
	// MaxFields bounds the fields of a change. Further fields are left out.
	MaxFields = 50
	// MaxValue bounds each value of a field, in bytes of JSON. A longer value is left out.
	MaxValue = 1 << 10
)

// FieldChange is a field that changed.
type FieldChange struct {
	// Path of the field, such as description, config["ipv4.address"] or devices.root.size.
	Path string
	// From and To are the values before and after, as JSON. Empty: the field was missing, or the value is over MaxValue.
	From json.RawMessage `json:",omitempty"`
	To   json.RawMessage `json:",omitempty"`
}

// derived are the members that follow from other objects, or from the running instance. They are kept current, but
// are no changes of the object. The name is no change either: it only changes with a rename.
var derived = map[string]bool{"used_by": true, "last_used_at": true, "state": true, "name": true}

// diff returns the fields that differ between two documents, without derived members. same reports that nothing
// differs, not even a derived member.
func diff(from, to json.RawMessage) (fields []FieldChange, same bool) {
	if bytes.Equal(from, to) {
		return nil, true
	}
	var before, after map[string]any
	if decodeNumbers(from, &before) != nil || decodeNumbers(to, &after) != nil {
		return []FieldChange{{Path: "", From: bounded(from), To: bounded(to)}}, false
	}
	same = reflect.DeepEqual(before, after)
	for name := range derived {
		delete(before, name)
		delete(after, name)
	}
	d := differ{}
	d.objects("", before, after)
	return d.fields, same
}

func decodeNumbers(data []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	return d.Decode(into)
}

type differ struct{ fields []FieldChange }

func (d *differ) objects(path string, from, to map[string]any) {
	keys := slices.Sorted(maps.Keys(from))
	for key := range to {
		if _, both := from[key]; !both {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	for _, key := range keys {
		before, was := from[key]
		after, is := to[key]
		if was && is && reflect.DeepEqual(before, after) {
			continue
		}
		below := join(path, key)
		inner, ok1 := before.(map[string]any)
		outer, ok2 := after.(map[string]any)
		if ok1 && ok2 {
			d.objects(below, inner, outer)
			continue
		}
		if len(d.fields) == MaxFields {
			return
		}
		change := FieldChange{Path: below}
		if was {
			change.From = encode(before)
		}
		if is {
			change.To = encode(after)
		}
		d.fields = append(d.fields, change)
	}
}

func encode(value any) json.RawMessage {
	data, err := json.Marshal(value)
	if err != nil {
		return nil
	}
	return bounded(data)
}

func bounded(data json.RawMessage) json.RawMessage {
	if len(data) > MaxValue {
		return nil
	}
	return data
}

// join extends a path by a key, in the notation of filter expressions.
func join(path, key string) string {
	plain := key != "" && !strings.ContainsFunc(key, func(r rune) bool {
		return r != '_' && (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z')
	}) && (key[0] < '0' || key[0] > '9')
	switch {
	case !plain:
		return path + "[" + strconv.Quote(key) + "]"
	case path == "":
		return key
	}
	return path + "." + key
}

// withoutSecrets leaves out the fields that are secrets, and the secrets within other fields.
func withoutSecrets(fields []FieldChange) (out []FieldChange) {
	for _, f := range fields {
		if secretPath(f.Path) {
			continue
		}
		for _, value := range []*json.RawMessage{&f.From, &f.To} {
			if len(*value) == 0 || (*value)[0] != '{' && (*value)[0] != '[' {
				continue
			}
			if plain, _, err := jsonfilter.Append(nil, *value, isSecret); err == nil {
				*value = plain
			}
		}
		out = append(out, f)
	}
	return out
}

// secretPath reports whether a path leads to a secret.
func secretPath(path string) bool {
	if at := strings.LastIndex(path, `["`); at >= 0 && strings.HasSuffix(path, `"]`) {
		key, err := strconv.Unquote(path[at+1 : len(path)-1])
		return err != nil || isSecret([]byte(key))
	}
	return isSecret([]byte(path[strings.LastIndexByte(path, '.')+1:]))
}
