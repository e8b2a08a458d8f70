// Package jsonsecret hides the secrets of JSON documents, which it finds by the names of members. It restores them in documents
// that were edited while the secrets were hidden.
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

// Placeholders of secrets.
const (
	// Hidden stands for a secret that is not shown.
	Hidden = "(hidden)"
	// Removed stands for a secret that the user removed.
	Removed = "(removed)"
)

// Hide returns a document in which Hidden replaces the values of secrets, except empty ones. isSecret decides by the name of the
// member. A document without secrets is returned unchanged. Errors: those of encoding/json, and an error for more than one
// document.
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

// hide replaces the secrets in a decoded document, and sets found if there was one.
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

// empty reports whether a value is null or has no content.
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

// Restore replaces each Hidden secret of the document data by the secret at the same place of the document from. It matches
// entries of lists by their names or public keys. Entries without a name match by index, if both lists have equal lengths. It
// deletes members with the value Removed. missing is the first place for which from has no secret, or "". A document without
// placeholders is returned unchanged. Errors: as of Hide.
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

// restore restores the secrets of a decoded document. found is set if it changed doc.
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

// nameOf returns the name by which Restore matches an entry of a list, or "".
func nameOf(v any) string {
	object, _ := v.(map[string]any)
	for _, member := range []string{"name", "public_key"} {
		if name, _ := object[member].(string); name != "" {
			return name
		}
	}
	return ""
}

// Values returns the secrets that are strings, so that callers can keep them out of other texts. It returns nil for an invalid
// document.
func Values(data json.RawMessage, isSecret func(name string) bool) (out []string) {
	var doc any
	if decode(data, &doc) == nil {
		collect(doc, isSecret, false, &out)
	}
	return out
}

// collect appends the strings in secrets to out.
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

// decode decodes exactly one document. It keeps numbers as they are.
func decode(data []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	if err := d.Decode(into); err != nil {
		return err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) { // a second document would be shown with its secrets
		return errMore
	}
	return nil
}

var errMore = errors.New("more than one JSON document")

// encode encodes a document without escaping HTML.
func encode(doc any) (json.RawMessage, error) {
	var out bytes.Buffer
	e := json.NewEncoder(&out)
	e.SetEscapeHTML(false)
	err := e.Encode(doc)
	return bytes.TrimSuffix(out.Bytes(), []byte("\n")), err
}
