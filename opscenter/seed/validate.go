package seed

import (
	"fmt"
	"iter"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/opscenter-go/sdk/opscenter/network"
)

// Problem is one mistake in a seed.
type Problem struct {
	// File is the name of the file, without extension.
	File string
	// Field is the path of the field, such as interfaces[0].addresses[1]. Empty: the whole file.
	Field string
	// Message says how to correct the field.
	Message string
}

// String returns "FILE: FIELD: MESSAGE".
func (p Problem) String() string {
	if p.Field == "" {
		return p.File + ": " + p.Message
	}
	return p.File + ": " + p.Field + ": " + p.Message
}

// ValidationError lists all problems of a seed. It wraps ErrInvalid.
type ValidationError struct{ Problems []Problem }

// maxProblems is the maximum number of problems in the text of an error.
const maxProblems = 10

// Error implements error. It contains up to maxProblems problems.
func (e *ValidationError) Error() string {
	list := make([]string, 0, maxProblems+1)
	for _, p := range e.Problems[:min(len(e.Problems), maxProblems)] {
		list = append(list, p.String())
	}
	if more := len(e.Problems) - maxProblems; more > 0 {
		list = append(list, fmt.Sprintf("and %d more", more))
	}
	return ErrInvalid.Error() + ": " + strings.Join(list, "; ")
}

// Unwrap returns ErrInvalid.
func (e *ValidationError) Unwrap() error { return ErrInvalid }

// Rules are the options of Validate. The zero value is for a standalone server.
type Rules struct {
	// JoinsCluster: the server will join a cluster.
	JoinsCluster bool
	// AllowUnmanaged accepts a network in which no device with role management has an address.
	AllowUnmanaged bool
}

// maxText is the maximum length of names, in bytes.
const maxText = 255

// validation collects the problems of a seed.
type validation struct {
	rules    Rules
	file     string
	problems []Problem
}

// add adds a problem of the current file.
func (v *validation) add(field, format string, args ...any) {
	v.problems = append(v.problems, Problem{v.file, field, fmt.Sprintf(format, args...)})
}

// shown quotes a value for an error, and shortens it to 80 bytes.
func shown(value string) string {
	const most = 80
	if len(value) > most {
		value = value[:most] + "…"
	}
	return strconv.Quote(strings.ToValidUTF8(value, "�"))
}

// Validate checks for values that a server would reject, and for mistakes that would strand the server: no reachable
// address, no disk, or no way to register. Errors: a *ValidationError that lists all problems.
func (s *Seed) Validate(rules Rules) error {
	v := &validation{rules: rules}
	for _, name := range Files {
		if file := s.file(name); file.there {
			v.file = name
			v.secrets(reflect.ValueOf(file.value), "")
			begins := len(v.problems)
			file.value.(interface{ validate(*validation) }).validate(v)
			slices.SortStableFunc(v.problems[begins:], func(a, b Problem) int { return strings.Compare(a.Field, b.Field) })
		}
	}
	if rules.JoinsCluster {
		v.file = FileIncus
		switch name := s.Applications.Primary(); {
		case name != "incus" && !strings.HasPrefix(name, "incus-lts-"):
			v.file = FileApplications
			v.add("applications", "a member of a cluster runs Incus, not %s", shown(name))
		case s.Incus == nil:
			v.add("", "without the file Incus makes a pool and a bridge, and can't join a cluster: apply_defaults must be false")
		}
	}
	if len(v.problems) > 0 {
		return &ValidationError{v.problems}
	}
	return nil
}

// secrets rejects the placeholders of hidden secrets. A placeholder stands for a stored secret, and a new server has none.
func (v *validation) secrets(value reflect.Value, field string) {
	switch value.Kind() {
	case reflect.Pointer, reflect.Interface:
		if !value.IsNil() {
			v.secrets(value.Elem(), field)
		}
	case reflect.Struct:
		for i := range value.NumField() {
			f := value.Type().Field(i)
			if !f.IsExported() {
				continue
			}
			name, tagged := nameOf(f)
			switch {
			case f.Anonymous && !tagged:
				v.secrets(value.Field(i), field)
			default:
				v.secrets(value.Field(i), join(field, name))
			}
		}
	case reflect.Slice:
		for i := range value.Len() {
			v.secrets(value.Index(i), fmt.Sprintf("%s[%d]", field, i))
		}
	case reflect.Map:
		for _, key := range slices.SortedFunc(slices.Values(value.MapKeys()), func(a, b reflect.Value) int { return strings.Compare(a.String(), b.String()) }) {
			v.secrets(value.MapIndex(key), join(field, key.String()))
		}
	case reflect.String:
		if secret, ok := value.Interface().(Secret); ok && (secret == network.Hidden || secret == network.Removed) {
			v.add(field, "it must be the secret itself: a new server has no stored secret")
		}
	}
}

// nameOf returns the JSON name of a field, and whether a tag sets it.
func nameOf(f reflect.StructField) (name string, tagged bool) {
	name, _, _ = strings.Cut(f.Tag.Get("json"), ",")
	if name == "" {
		return f.Name, false
	}
	return name, true
}

// join appends a name to the path of a field.
func join(field, name string) string {
	if field == "" {
		return name
	}
	return field + "." + name
}

// sorted yields the members of a map, sorted by name.
func sorted[V any](m map[string]V) iter.Seq2[string, V] {
	return func(yield func(string, V) bool) {
		for _, key := range slices.Sorted(maps.Keys(m)) {
			if !yield(key, m[key]) {
				return
			}
		}
	}
}
