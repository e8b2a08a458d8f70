package httpapi

import (
	"maps"
	"slices"
)

// OpenRoutes are the patterns of the routes for every client and for servers.
func (h *Handler) OpenRoutes() []string { return slices.Sorted(maps.Keys(h.openRoutes())) }

// ForwardPattern is the pattern of requests that are forwarded to a server.
const ForwardPattern = forwardPattern

// OperatorRoutes are the patterns of the operators' routes, without ForwardPattern.
func (h *Handler) OperatorRoutes() []string {
	routes := h.operatorRoutes()
	delete(routes, forwardPattern)
	return slices.Sorted(maps.Keys(routes))
}

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
