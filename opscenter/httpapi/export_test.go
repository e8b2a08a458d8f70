package httpapi

import (
	"maps"
	"slices"
	"strings"
)

// Undescribed are the parameters of routes that the description of the API lacks, and those that no route takes.
func (h *Handler) Undescribed() (out []string) {
	left := maps.Clone(parameters)
	for _, rt := range h.rows {
		for name := range strings.FieldsSeq(rt.query) {
			name = strings.TrimSuffix(name, "*")
			if _, ok := parameters[name]; !ok {
				out = append(out, name)
			}
			delete(left, name)
		}
	}
	return append(out, slices.Sorted(maps.Keys(left))...)
}

// ForwardPattern is the pattern of requests that are forwarded to a server.
const ForwardPattern = forwardPattern

// StatusOf returns the HTTP status of an error.
var StatusOf = statusOf

// PlainPath is the path on a server that a forwarded one leads to.
var PlainPath = plainPath

// ConfigMap reads the properties in a body.
func ConfigMap(data []byte) (map[string]string, error) {
	var out configMap
	err := out.UnmarshalJSON(data)
	return out, err
}

// ServerDocument is the document of a server.
type ServerDocument = server
