package httpapi

import (
	"maps"
	"slices"
)

// OperatorRoutes are the patterns of the operators' routes, but for what is forwarded to a server.
func (h *Handler) OperatorRoutes() []string {
	routes := h.operatorRoutes()
	delete(routes, forwardPattern)
	return slices.Sorted(maps.Keys(routes))
}

// StatusOf is for tests of what an error is answered with.
var StatusOf = statusOf
