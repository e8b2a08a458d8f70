// Package jsonkeep reads JSON objects into structs, and writes them again without losing unknown members. Members of newer
// releases and unchanged members keep their bytes and their places.
//
// A struct takes part by embedding Rest. Its fields have json tags. A field is a bool, an integer, a string, a struct that
// embeds Rest, or a pointer to one. It may also be a slice, or a map by string, of these.
package jsonkeep

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"sync"
	"unicode"
)

// Rest has the members of the object from which its struct was decoded. The zero value belongs to a new object. Copies of a
// struct share it; it is never modified.
type Rest struct {
	// members is a pointer so that printing the struct does not print the members, which may be secrets. Nil: nothing was
	// decoded.
	members *[]member
}

// list returns the members in the order of the document.
func (r *Rest) list() []member {
	if r.members == nil {
		return nil
	}
	return *r.members
}

// member is a member of an object, undecoded.
type member struct {
	name string
	raw  json.RawMessage
}

// embeddedRest returns the Rest of a struct.
func (r *Rest) embeddedRest() *Rest { return r }

// embedder is a pointer to a struct that embeds Rest.
type embedder interface{ embeddedRest() *Rest }

var embedderType = reflect.TypeFor[embedder]()

// Unknown returns the members for which the struct has no field, by name. object is a struct that embeds Rest, or a pointer
// to one.
func Unknown(object any) map[string]json.RawMessage {
	v := addressable(reflect.ValueOf(object))
	out := map[string]json.RawMessage{}
	known := fieldsOf(v.Type())
	for _, m := range rest(v).list() {
		if _, ok := known.byName[m.name]; !ok {
			out[m.name] = m.raw
		}
	}
	return out
}

// Decode reads an object into the struct that into points to, and overwrites its former value. Errors name the field, and
// never contain its value.
func Decode(data []byte, into any) error {
	v := reflect.ValueOf(into).Elem()
	v.SetZero()
	var whole json.RawMessage
	if err := json.Unmarshal(data, &whole); err != nil {
		return err
	}
	return decodeObject(data, v, "", 0)
}

// Encode writes a struct that embeds Rest, or the struct behind a pointer.
func Encode(object any) ([]byte, error) {
	return appendObject(nil, addressable(reflect.ValueOf(object)))
}

// addressable returns the struct behind a pointer, or an addressable copy of a struct.
func addressable(v reflect.Value) reflect.Value {
	if v.Kind() == reflect.Pointer {
		return v.Elem()
	}
	if v.CanAddr() {
		return v
	}
	out := reflect.New(v.Type()).Elem()
	out.Set(v)
	return out
}

// rest returns the Rest of a struct.
func rest(v reflect.Value) *Rest { return v.Addr().Interface().(embedder).embeddedRest() }

// embedsRest reports whether t is a struct that embeds Rest.
func embedsRest(t reflect.Type) bool {
	return t.Kind() == reflect.Struct && reflect.PointerTo(t).Implements(embedderType)
}

// fields are the fields of a struct that have a JSON name.
type fields struct {
	list   []field
	byName map[string]int    // indexes of list
	folded map[string]string // names by their folded form
}

// field is a field of a struct with its JSON name.
type field struct {
	name      string
	index     int
	omitEmpty bool
}

var cache sync.Map // *fields by reflect.Type

// fieldsOf returns the fields of a struct type.
func fieldsOf(t reflect.Type) *fields {
	if known, ok := cache.Load(t); ok {
		return known.(*fields)
	}
	out := &fields{byName: map[string]int{}, folded: map[string]string{}}
	for i := range t.NumField() {
		f := t.Field(i)
		name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		if f.Anonymous || !f.IsExported() || name == "" || name == "-" {
			continue
		}
		out.byName[name] = len(out.list)
		out.folded[fold(name)] = name
		out.list = append(out.list, field{name, i, strings.Contains(options, "omitempty")})
	}
	cache.Store(t, out)
	return out
}

// fold maps two names to the same text if encoding/json treats them as equal. It replaces each character by the least one that
// differs from it only in case.
func fold(name string) string {
	return strings.Map(func(r rune) rune {
		least := r
		for other := unicode.SimpleFold(r); other != r; other = unicode.SimpleFold(other) {
			least = min(least, other)
		}
		return least
	}, name)
}

var errObject = errors.New("it must be an object")

// MaxDepth is the maximum nesting of structs. Decoding reads each level once more than the level around it.
const MaxDepth = 32

var errDepth = fmt.Errorf("objects nest deeper than %d levels", MaxDepth)

// decodeObject decodes an object into a struct, and stores its members in the Rest.
func decodeObject(data []byte, v reflect.Value, path string, depth int) error {
	if depth > MaxDepth {
		return errDepth
	}
	d := json.NewDecoder(bytes.NewReader(data))
	if token, err := d.Token(); err != nil || token != json.Delim('{') {
		return atPath(path, errors.Join(err, errObject))
	}
	known := fieldsOf(v.Type())
	remembered := rest(v)
	var members []member
	defer func() { remembered.members = &members }()
	places := map[string]int{}
	for d.More() {
		token, err := d.Token()
		if err != nil {
			return atPath(path, err)
		}
		name, _ := token.(string)
		var raw json.RawMessage
		if err := d.Decode(&raw); err != nil {
			return atPath(join(path, name), err)
		}
		if i, twice := places[name]; twice { // the last one counts, as in encoding/json
			members[i].raw = raw
		} else {
			places[name] = len(members)
			members = append(members, member{name, raw})
		}
	}
	if _, err := d.Token(); err != nil { // the end of the object
		return atPath(path, err)
	}
	for _, m := range members {
		// A server with encoding/json would read this member as the field.
		if exact, folded := known.folded[fold(m.name)]; folded && exact != m.name {
			return atPath(join(path, m.name), fmt.Errorf("the field is spelled %s", exact))
		}
		if i, ok := known.byName[m.name]; ok {
			if err := decodeValue(m.raw, v.Field(known.list[i].index), join(path, m.name), depth); err != nil {
				return err
			}
		}
	}
	return nil
}

// join appends a name to a path.
func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}

// atPath adds a path to an error.
func atPath(path string, err error) error {
	if path == "" {
		return err
	}
	return fmt.Errorf("%s: %w", path, err)
}

// decodeValue decodes a value into a field, or into an element of one.
func decodeValue(raw []byte, v reflect.Value, path string, depth int) error {
	null := bytes.Equal(raw, []byte("null"))
	switch t := v.Type(); {
	case null && (t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice || t.Kind() == reflect.Map):
		v.SetZero()
		return nil
	case embedsRest(t):
		if null {
			return nil
		}
		return decodeObject(raw, v, path, depth+1)
	case t.Kind() == reflect.Pointer && embedsRest(t.Elem()):
		v.Set(reflect.New(t.Elem()))
		return decodeObject(raw, v.Elem(), path, depth+1)
	case t.Kind() == reflect.Slice && embedsRest(t.Elem()):
		var list []json.RawMessage
		if err := plain(raw, &list, path); err != nil {
			return err
		}
		v.Set(reflect.MakeSlice(t, len(list), len(list)))
		for i := range list {
			if err := decodeValue(list[i], v.Index(i), fmt.Sprintf("%s[%d]", path, i), depth); err != nil {
				return err
			}
		}
		return nil
	case t.Kind() == reflect.Map && embedsRest(t.Elem()):
		var all map[string]json.RawMessage
		if err := plain(raw, &all, path); err != nil {
			return err
		}
		v.Set(reflect.MakeMapWithSize(t, len(all)))
		for _, key := range slices.Sorted(maps.Keys(all)) {
			one := reflect.New(t.Elem()).Elem()
			if err := decodeValue(all[key], one, fmt.Sprintf("%s[%q]", path, key), depth); err != nil {
				return err
			}
			v.SetMapIndex(reflect.ValueOf(key).Convert(t.Key()), one)
		}
		return nil
	}
	return plain(raw, v.Addr().Interface(), path)
}

// plain decodes a value without structs that embed Rest. Errors omit the value, which may be secret.
func plain(raw []byte, into any, path string) error {
	err := json.Unmarshal(raw, into)
	var mistake *json.UnmarshalTypeError
	if errors.As(err, &mistake) {
		err = fmt.Errorf("%s is not of the field's type", mistake.Value)
		if strings.HasPrefix(mistake.Value, "number ") {
			err = fmt.Errorf("it must be a whole number in range, not %s", mistake.Value)
		}
	}
	if err != nil {
		return atPath(path, err)
	}
	return nil
}

// appendObject appends a struct as an object: first the members that were decoded, then the new ones.
func appendObject(out []byte, v reflect.Value) ([]byte, error) {
	known := fieldsOf(v.Type())
	out = append(out, '{')
	first := true
	add := func(name string, raw []byte) error {
		key, err := marshal(name)
		if err != nil {
			return err
		}
		if !first {
			out = append(out, ',')
		}
		first = false
		out = append(append(append(out, key...), ':'), raw...)
		return nil
	}
	written := make([]bool, len(known.list))
	for _, m := range rest(v).list() {
		raw := []byte(m.raw)
		if i, ok := known.byName[m.name]; ok {
			f := known.list[i]
			written[i] = true
			now := v.Field(f.index)
			before := reflect.New(now.Type()).Elem()
			if err := decodeValue(m.raw, before, m.name, 0); err != nil || !reflect.DeepEqual(before.Interface(), now.Interface()) {
				if f.omitEmpty && empty(now) {
					continue // the field was cleared
				}
				if raw, err = appendValue(nil, now); err != nil {
					return nil, err
				}
			}
		}
		if err := add(m.name, raw); err != nil {
			return nil, err
		}
	}
	for i, f := range known.list {
		value := v.Field(f.index)
		// An empty field of a decoded object is not added.
		if written[i] || empty(value) && (f.omitEmpty || rest(v).members != nil) {
			continue
		}
		raw, err := appendValue(nil, value)
		if err != nil {
			return nil, err
		}
		if err := add(f.name, raw); err != nil {
			return nil, err
		}
	}
	return append(out, '}'), nil
}

// empty reports whether omitempty would omit the value.
func empty(v reflect.Value) bool {
	switch v.Kind() {
	case reflect.Slice, reflect.Map:
		return v.Len() == 0
	}
	return v.IsZero()
}

// appendValue appends the value of a field, or an element of one.
func appendValue(out []byte, v reflect.Value) ([]byte, error) {
	switch t := v.Type(); {
	case embedsRest(t):
		return appendObject(out, addressable(v))
	case t.Kind() == reflect.Pointer && embedsRest(t.Elem()):
		if v.IsNil() {
			return append(out, "null"...), nil
		}
		return appendObject(out, v.Elem())
	case t.Kind() == reflect.Slice && embedsRest(t.Elem()) && !v.IsNil():
		out = append(out, '[')
		for i := range v.Len() {
			if i > 0 {
				out = append(out, ',')
			}
			var err error
			if out, err = appendObject(out, v.Index(i)); err != nil {
				return nil, err
			}
		}
		return append(out, ']'), nil
	case t.Kind() == reflect.Map && embedsRest(t.Elem()) && !v.IsNil():
		keys := make([]string, 0, v.Len())
		for _, key := range v.MapKeys() {
			keys = append(keys, key.String())
		}
		slices.Sort(keys)
		out = append(out, '{')
		for i, key := range keys {
			if i > 0 {
				out = append(out, ',')
			}
			name, err := marshal(key)
			if err != nil {
				return nil, err
			}
			out = append(append(out, name...), ':')
			if out, err = appendObject(out, addressable(v.MapIndex(reflect.ValueOf(key).Convert(t.Key())))); err != nil {
				return nil, err
			}
		}
		return append(out, '}'), nil
	}
	raw, err := marshal(v.Interface())
	return append(out, raw...), err
}

// marshal encodes a value without escaping HTML.
func marshal(value any) ([]byte, error) {
	var out bytes.Buffer
	e := json.NewEncoder(&out)
	e.SetEscapeHTML(false)
	err := e.Encode(value)
	return bytes.TrimSuffix(out.Bytes(), []byte("\n")), err
}
