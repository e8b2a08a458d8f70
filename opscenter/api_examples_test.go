package opscenter_test

import (
	"go/ast"
	"go/doc"
	"go/parser"
	"go/token"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// exampleVariables are the names that values of these types have in Examples.
var exampleVariables = map[string]string{"registry": "Registry", "tx": "Tx", "snapshot": "Snapshot", "planner": "UpdatePlanner"}

// handles are the methods of Registry that return a handle, and its type.
var handles = map[string]string{"Observer": "Observer", "Warnings": "Warnings", "Channels": "Channels", "TokenSeeds": "TokenSeeds"}

// TestEachMethodHasAnExample requires that an Example with output calls each exported method of Registry and of its
// handles, and those of the other types that are named here.
func TestEachMethodHasAnExample(t *testing.T) {
	paths, err := filepath.Glob("*.go")
	require.NoError(t, err)
	want := map[string]bool{"opscenter.NewUpdatePlanner": true, "UpdatePlanner.Plan": true, "UpdatePlanner.Recommend": true, "Tx.Begin": true, "Tx.End": true,
		"Tx.Claim": true, "Tx.Record": true, "Snapshot.Servers": true, "Snapshot.Facts": true, "Snapshot.FactsHistory": true}
	files := token.NewFileSet()
	var tests []*ast.File
	for _, path := range paths {
		file, err := parser.ParseFile(files, path, nil, parser.ParseComments)
		require.NoError(t, err)
		if strings.HasSuffix(path, "_test.go") {
			tests = append(tests, file)
			continue
		}
		for _, declared := range file.Decls {
			method, ok := declared.(*ast.FuncDecl)
			if !ok || method.Recv == nil || !method.Name.IsExported() {
				continue
			}
			receiver := method.Recv.List[0].Type
			if pointer, ok := receiver.(*ast.StarExpr); ok {
				receiver = pointer.X
			}
			if name, ok := receiver.(*ast.Ident); ok && (name.Name == "Registry" || handles[name.Name] != "") {
				want[name.Name+"."+method.Name.Name] = true
			}
		}
	}
	require.Greater(t, len(want), 70, "the methods of the package are found")
	shown := map[string]bool{}
	for _, example := range doc.Examples(tests...) {
		if example.Output != "" {
			calls(example.Code, shown)
		}
	}
	for name := range want {
		require.True(t, shown[name], "no Example with output calls %s", name)
	}
}

// calls notes the methods that code calls, as Type.Method. It knows a value by the name of its variable, or by the call
// that returned it.
func calls(code ast.Node, shown map[string]bool) {
	variables := map[string]string{"opscenter": "opscenter"}
	for name, of := range exampleVariables {
		variables[name] = of
	}
	typeOf := func(e ast.Expr) string {
		switch e := e.(type) {
		case *ast.Ident:
			return variables[e.Name]
		case *ast.CallExpr:
			if method, ok := e.Fun.(*ast.SelectorExpr); ok {
				if x, ok := method.X.(*ast.Ident); ok && variables[x.Name] == "Registry" {
					return handles[method.Sel.Name]
				}
			}
		}
		return ""
	}
	ast.Inspect(code, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.AssignStmt:
			if name, ok := n.Lhs[0].(*ast.Ident); ok && len(n.Rhs) == 1 {
				if of := typeOf(n.Rhs[0]); of != "" {
					variables[name.Name] = of
				}
			}
		case *ast.CallExpr:
			if method, ok := n.Fun.(*ast.SelectorExpr); ok {
				if of := typeOf(method.X); of != "" {
					shown[of+"."+method.Sel.Name] = true
				}
			}
		}
		return true
	})
}
