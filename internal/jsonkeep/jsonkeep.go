// Package jsonkeep reads JSON objects into structs and writes them again without losing what
// the structs do not know: members of newer releases, and all that was not changed, stay as
// they were, byte for byte, in their places.
//
// A struct takes part by embedding Rest. Its fields are bools, integers, strings, slices and
// maps by string of these or of structs, and pointers to structs; each has a json tag.
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

// Rest is what an object held when it was read. Its zero value is that of a new object. A copy
// of a struct shares it; it is never modified.
type Rest struct {
	// members are behind a pointer so that whoever prints the struct does not print them: there
	// may be secrets among them. It is nil if nothing was read.
	members *[]member
}

func (r *Rest) list() []member {
	if r.members == nil {
		return nil
	}
	return *r.members
}

type member struct {
	name string
	raw  json.RawMessage
}

func (r *Rest) kept() *Rest { return r }

// keeper is a pointer to a struct that embeds Rest.
type keeper interface{ kept() *Rest }

var keeperType = reflect.TypeFor[keeper]()

// Unknown returns the members that the struct has no field for, by name.
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

// Decode reads an object into the struct that into points to; what that held is gone. Errors
// name the field.
func Decode(data []byte, into any) error {
	v := reflect.ValueOf(into).Elem()
	v.SetZero()
	var whole json.RawMessage
	if err := json.Unmarshal(data, &whole); err != nil {
		return err
	}
	return decodeObject(data, v, "", 0)
}

// Encode writes a struct, or the one that is pointed to.
func Encode(object any) ([]byte, error) {
	return appendObject(nil, addressable(reflect.ValueOf(object)))
}

// addressable returns the struct behind a pointer, or a copy of one.
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

func rest(v reflect.Value) *Rest { return v.Addr().Interface().(keeper).kept() }

func keeps(t reflect.Type) bool {
	return t.Kind() == reflect.Struct && reflect.PointerTo(t).Implements(keeperType)
}

// fields are those of a struct that JSON has.
type fields struct {
	list   []field
	byName map[string]int // into list
	folded map[string]string
}

type field struct {
	name      string
	index     int
	omitEmpty bool
}

var cache sync.Map // of fields, by type

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

// fold maps names to the same text that encoding/json takes for the same: each character to the least
// of those that differ from it in case only.
func fold(name string) string {
	return strings.Map(func(r rune) rune {
		least := r
		for other := unicode.SimpleFold(r); other != r; other = unicode.SimpleFold(other) {
			least = min(least, other)
		}
		return least
	}, name)
}

var errObject = errors.New("an object is wanted")

// MaxDepth bounds how deep structs may nest: each level is read once more for it.
const MaxDepth = 32

var errDepth = fmt.Errorf("objects nest deeper than %d levels", MaxDepth)

func decodeObject(data []byte, v reflect.Value, path string, depth int) error {
	if depth > MaxDepth {
		return errDepth
	}
	d := json.NewDecoder(bytes.NewReader(data))
	if token, err := d.Token(); err != nil || token != json.Delim('{') {
		return wrong(path, errors.Join(err, errObject))
	}
	known := fieldsOf(v.Type())
	keep := rest(v)
	var members []member
	defer func() { keep.members = &members }()
	places := map[string]int{}
	for d.More() {
		token, err := d.Token()
		if err != nil {
			return wrong(path, err)
		}
		name, _ := token.(string)
		var raw json.RawMessage
		if err := d.Decode(&raw); err != nil {
			return wrong(join(path, name), err)
		}
		if i, twice := places[name]; twice { // the last one counts, as everywhere
			members[i].raw = raw
		} else {
			places[name] = len(members)
			members = append(members, member{name, raw})
		}
	}
	if _, err := d.Token(); err != nil { // the end of the object
		return wrong(path, err)
	}
	for _, m := range members {
		// encoding/json, at the other end, takes the one for the other.
		if exact, folded := known.folded[fold(m.name)]; folded && exact != m.name {
			return wrong(join(path, m.name), fmt.Errorf("it is written %s", exact))
		}
		if i, ok := known.byName[m.name]; ok {
			if err := decodeValue(m.raw, v.Field(known.list[i].index), join(path, m.name), depth); err != nil {
				return err
			}
		}
	}
	return nil
}

func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}

func wrong(path string, err error) error {
	if path == "" {
		return err
	}
	return fmt.Errorf("%s: %w", path, err)
}

func decodeValue(raw []byte, v reflect.Value, path string, depth int) error {
	null := bytes.Equal(raw, []byte("null"))
	switch t := v.Type(); {
	case null && (t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice || t.Kind() == reflect.Map):
		v.SetZero()
		return nil
	case keeps(t):
		if null {
			return nil
		}
		return decodeObject(raw, v, path, depth+1)
	case t.Kind() == reflect.Pointer && keeps(t.Elem()):
		v.Set(reflect.New(t.Elem()))
		return decodeObject(raw, v.Elem(), path, depth+1)
	case t.Kind() == reflect.Slice && keeps(t.Elem()):
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
	case t.Kind() == reflect.Map && keeps(t.Elem()):
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

// plain decodes what has no fields of its own. Errors do not repeat the value, which may be secret.
func plain(raw []byte, into any, path string) error {
	err := json.Unmarshal(raw, into)
	var mistake *json.UnmarshalTypeError
	if errors.As(err, &mistake) {
		err = fmt.Errorf("%s is not what is wanted there", mistake.Value)
		if strings.HasPrefix(mistake.Value, "number ") {
			err = fmt.Errorf("a whole number in range is wanted: %s", mistake.Value)
		}
	}
	if err != nil {
		return wrong(path, err)
	}
	return nil
}

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
					continue // it was taken away
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
		// What was read without a member does not get it for being what it is without.
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

func empty(v reflect.Value) bool {
	switch v.Kind() {
	case reflect.Slice, reflect.Map:
		return v.Len() == 0
	}
	return v.IsZero()
}

func appendValue(out []byte, v reflect.Value) ([]byte, error) {
	switch t := v.Type(); {
	case keeps(t):
		return appendObject(out, addressable(v))
	case t.Kind() == reflect.Pointer && keeps(t.Elem()):
		if v.IsNil() {
			return append(out, "null"...), nil
		}
		return appendObject(out, v.Elem())
	case t.Kind() == reflect.Slice && keeps(t.Elem()) && !v.IsNil():
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
	case t.Kind() == reflect.Map && keeps(t.Elem()) && !v.IsNil():
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

func marshal(value any) ([]byte, error) {
	var out bytes.Buffer
	e := json.NewEncoder(&out)
	e.SetEscapeHTML(false)
	err := e.Encode(value)
	return bytes.TrimSuffix(out.Bytes(), []byte("\n")), err
}
