// Package jsonsecret hides the secrets in JSON documents, by the names of their members, and puts
// them back into documents that were edited meanwhile.
package jsonsecret

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
)

// Hidden stands for a secret, and Removed for none, where there was one.
const (
	Hidden  = "(hidden)"
	Removed = "(removed)"
)

// Hide returns a document in which the values of secrets are Hidden, unless they are empty. One without secrets
// is returned as it is.
func Hide(data json.RawMessage, isSecret func(name string) bool) (json.RawMessage, error) {
	var doc any
	if err := decode(data, &doc); err != nil {
		return nil, err
	}
	found := false
	hide(doc, isSecret, &found)
	if !found {
		return data, nil
	}
	return encode(doc)
}

func hide(doc any, isSecret func(string) bool, found *bool) {
	switch doc := doc.(type) {
	case map[string]any:
		for name, value := range doc {
			if !isSecret(name) {
				hide(value, isSecret, found)
			} else if !empty(value) && value != Hidden {
				doc[name], *found = Hidden, true
			}
		}
	case []any:
		for _, value := range doc {
			hide(value, isSecret, found)
		}
	}
}

func empty(v any) bool {
	switch v := v.(type) {
	case nil:
		return true
	case string:
		return v == ""
	case []any:
		return len(v) == 0
	case map[string]any:
		return len(v) == 0
	}
	return false
}

// Restore puts into a document, where secrets are Hidden, those that another one has in the
// same place; lists are compared by the names of their entries, and by their places where
// they have none. missing names the first place for which there is none. A document without
// hidden secrets is returned as it is. Secrets that are Removed are left out.
func Restore(data, from json.RawMessage, isSecret func(name string) bool) (out json.RawMessage, missing string, err error) {
	if !bytes.Contains(data, []byte(Hidden)) && !bytes.Contains(data, []byte(Removed)) {
		return data, "", nil
	}
	var doc, source any
	if err := decode(data, &doc); err != nil {
		return nil, "", err
	}
	if err := decode(from, &source); err != nil {
		return nil, "", err
	}
	found := false
	restore(doc, source, "", isSecret, &found, &missing)
	if !found {
		return data, missing, nil
	}
	out, err = encode(doc)
	return out, missing, err
}

func restore(doc, from any, path string, isSecret func(string) bool, found *bool, missing *string) {
	switch doc := doc.(type) {
	case map[string]any:
		source, _ := from.(map[string]any)
		for _, name := range slices.Sorted(maps.Keys(doc)) {
			below := name
			if path != "" {
				below = path + "." + name
			}
			if isSecret(name) && doc[name] == Removed {
				delete(doc, name)
				*found = true
				continue
			}
			if !isSecret(name) || doc[name] != Hidden {
				restore(doc[name], source[name], below, isSecret, found, missing)
				continue
			}
			if value, there := source[name]; there && !empty(value) {
				doc[name], *found = value, true
			} else if *missing == "" {
				*missing = below
			}
		}
	case []any:
		source, _ := from.([]any)
		for i, value := range doc {
			var other any
			if name := nameOf(value); name != "" {
				for _, candidate := range source {
					if nameOf(candidate) == name {
						other = candidate
						break
					}
				}
			} else if len(source) == len(doc) {
				other = source[i]
			}
			restore(value, other, fmt.Sprintf("%s[%d]", path, i), isSecret, found, missing)
		}
	}
}

func nameOf(v any) string {
	object, _ := v.(map[string]any)
	for _, member := range []string{"name", "public_key"} {
		if name, _ := object[member].(string); name != "" {
			return name
		}
	}
	return ""
}

// Values returns the secrets that are texts, for those who have to keep them out of others.
func Values(data json.RawMessage, isSecret func(name string) bool) (out []string) {
	var doc any
	if decode(data, &doc) == nil {
		collect(doc, isSecret, false, &out)
	}
	return out
}

func collect(doc any, isSecret func(string) bool, secret bool, out *[]string) {
	switch doc := doc.(type) {
	case map[string]any:
		for name, value := range doc {
			collect(value, isSecret, secret || isSecret(name), out)
		}
	case []any:
		for _, value := range doc {
			collect(value, isSecret, secret, out)
		}
	case string:
		if secret && doc != "" && doc != Hidden && doc != Removed {
			*out = append(*out, doc)
		}
	}
}

func decode(data []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	if err := d.Decode(into); err != nil {
		return err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) { // what follows would be shown as it is
		return errMore
	}
	return nil
}

var errMore = errors.New("more than one JSON document")

func encode(doc any) (json.RawMessage, error) {
	var out bytes.Buffer
	e := json.NewEncoder(&out)
	e.SetEscapeHTML(false)
	err := e.Encode(doc)
	return bytes.TrimSuffix(out.Bytes(), []byte("\n")), err
}
