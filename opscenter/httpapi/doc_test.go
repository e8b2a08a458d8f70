package httpapi_test

import (
	"cmp"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/opscenter/access"
	"github.com/opscenter-go/sdk/opscenter/inventory"
)

// TestDocumentedRoutes: the tables of the package comment list each route once, with the clients or the role that may use it. A new route
// fails here until its role is decided, and written down.
func TestDocumentedRoutes(t *testing.T) {
	comment, err := os.ReadFile("doc.go")
	require.NoError(t, err)
	var documented []string
	for _, row := range regexp.MustCompile(`(?m)^//\t(\S+) +(/\S*) +(any|token|server|viewer|operator|admin) +\S`).FindAllStringSubmatch(string(comment), -1) {
		documented = append(documented, strings.Join(row[1:], " "))
	}
	var routes []string
	for _, route := range start(t, nil).handler.Routes() {
		path := strings.TrimSuffix(route.Path, "{$}")
		for _, kind := range inventory.Kinds {
			if below, ok := strings.CutPrefix(path, "/1.0/inventory/"+kind.Plural()); ok && (below == "" || below[0] == '/') {
				path = "/1.0/inventory/KIND" + below
			}
		}
		require.True(t, route.Role == "" || slices.Contains(access.Roles, route.Role), path)
		require.NotEqual(t, route.Role == "", route.Clients == "", "%s %s has either a role or clients", route.Method, path)
		row := strings.Join([]string{cmp.Or(route.Method, "*"), path, cmp.Or(string(route.Role), route.Clients)}, " ")
		if path != "/1.0/" && (!strings.Contains(path, "KIND") || !slices.Contains(routes, row)) { // /1.0/ is the same as /1.0
			routes = append(routes, row)
		}
	}
	require.ElementsMatch(t, routes, documented)
}
