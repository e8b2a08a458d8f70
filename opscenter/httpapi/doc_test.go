package httpapi_test

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/opscenter/httpapi"
	"github.com/opscenter-go/sdk/opscenter/inventory"
)

// TestDocumentedRoutes: the tables of the package comment list each route once, with its access.
func TestDocumentedRoutes(t *testing.T) {
	comment, err := os.ReadFile("doc.go")
	require.NoError(t, err)
	var open, operators []string
	for _, row := range regexp.MustCompile(`(?m)^//\t(\S+) +(/\S*) +(any|token|server|operator) +\S`).FindAllStringSubmatch(string(comment), -1) {
		if route := row[1] + " " + row[2]; row[3] == "operator" {
			operators = append(operators, route)
		} else {
			open = append(open, route)
		}
	}
	routes := start(t, nil).handler
	wanted := []string{"* " + httpapi.ForwardPattern, "POST /1.0/provisioning/servers"} // the latter without a token
	seen := map[string]bool{}
	for _, route := range routes.OperatorRoutes() {
		for _, kind := range inventory.Kinds {
			method, path, _ := strings.Cut(route, " ")
			if below, ok := strings.CutPrefix(path, "/1.0/inventory/"+kind.Plural()); ok && (below == "" || below[0] == '/') {
				route = method + " /1.0/inventory/KIND" + below
			}
		}
		if !seen[route] {
			seen[route] = true
			wanted = append(wanted, route)
		}
	}
	require.ElementsMatch(t, wanted, operators)
	wanted = nil
	for _, route := range routes.OpenRoutes() {
		if route != "GET /1.0/{$}" { // the same as GET /1.0
			wanted = append(wanted, strings.TrimSuffix(route, "{$}"))
		}
	}
	require.ElementsMatch(t, wanted, open)
}
