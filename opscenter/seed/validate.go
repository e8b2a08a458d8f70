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

// Problem is something that is wrong with a seed.
type Problem struct {
	// File it is about, without its extension, and the field of that, as in interfaces[0].addresses[1]. An empty field is the
	// whole file.
	File, Field, Message string
}

func (p Problem) String() string {
	if p.Field == "" {
		return p.File + ": " + p.Message
	}
	return p.File + ": " + p.Field + ": " + p.Message
}

// ValidationError lists what is wrong. It is an ErrInvalid.
type ValidationError struct{ Problems []Problem }

// maxProblems is how many problems the text of an error names.
const maxProblems = 10

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

// Rules of Validate. The zero value is for a server that is to be on its own.
type Rules struct {
	// JoinsCluster: the server is to become a member of a cluster.
	JoinsCluster bool
	// AllowUnmanaged accepts a network that gives no address to a device with role management.
	AllowUnmanaged bool
}

// maxText bounds names, in bytes.
const maxText = 255

type validation struct {
	rules    Rules
	file     string
	problems []Problem
}

func (v *validation) add(field, format string, args ...any) {
	v.problems = append(v.problems, Problem{v.file, field, fmt.Sprintf(format, args...)})
}

// shown is a value in an error: quoted, and not longer than what an operator reads.
func shown(value string) string {
	const most = 80
	if len(value) > most {
		value = value[:most] + "…"
	}
	return strconv.Quote(strings.ToValidUTF8(value, "�"))
}

// Validate looks for what a server would refuse, or what would strand it: without an address that it can be reached at, without a
// disk, without a way to register. Errors: a *ValidationError that lists all of it.
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

// secrets refuses those that stand for one that is not shown: a new server has none of which it could be.
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
			v.add(field, "the secret itself is wanted: a new server has none that it could keep")
		}
	}
}

// nameOf returns the name that JSON has for a field, and whether a tag says it.
func nameOf(f reflect.StructField) (name string, tagged bool) {
	name, _, _ = strings.Cut(f.Tag.Get("json"), ",")
	if name == "" {
		return f.Name, false
	}
	return name, true
}

func join(field, name string) string {
	if field == "" {
		return name
	}
	return field + "." + name
}

// sorted yields the members of a map by their names.
func sorted[V any](m map[string]V) iter.Seq2[string, V] {
	return func(yield func(string, V) bool) {
		for _, key := range slices.Sorted(maps.Keys(m)) {
			if !yield(key, m[key]) {
				return
			}
		}
	}
}
