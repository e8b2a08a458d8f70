// Package apicheck lists the exported API of the module's packages, so that a change of it shows in review.
package apicheck

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/parser"
	"go/printer"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Packages returns the folders of the packages below root that other modules can import: all but those that are
// internal, examples and nested modules.
func Packages(root string) (dirs []string, err error) {
	err = filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.IsDir() {
			return err
		}
		name := entry.Name()
		if path != root {
			if name == "internal" || name == "examples" || name == "testdata" || strings.HasPrefix(name, ".") {
				return filepath.SkipDir
			}
			if _, err := os.Stat(filepath.Join(path, "go.mod")); err == nil {
				return filepath.SkipDir
			}
		}
		sources, err := filepath.Glob(filepath.Join(path, "*.go"))
		if err == nil && slices.ContainsFunc(sources, isSource) {
			dirs = append(dirs, path)
		}
		return err
	})
	return dirs, err
}

func isSource(path string) bool { return !strings.HasSuffix(path, "_test.go") }

// API is the exported API of a package.
type API struct {
	// Text is its declarations, without comments, bodies and unexported members, sorted.
	Text string
	// Names is how many exported names the package has: constants, variables, functions, types, and methods of exported
	// types. Members of structs and interfaces don't count.
	Names int
	// Methods is how many exported methods each exported type has.
	Methods map[string]int
}

// Of returns the exported API of the package in a folder. Files for other platforms count, too.
func Of(dir string) (API, error) {
	out := API{Methods: map[string]int{}}
	sources, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		return out, err
	}
	var declarations []string
	for _, path := range sources {
		if !isSource(path) {
			continue
		}
		files := token.NewFileSet()
		file, err := parser.ParseFile(files, path, nil, parser.SkipObjectResolution)
		if err != nil {
			return out, err
		}
		ast.FileExports(file)
		for _, declaration := range file.Decls {
			if f, ok := declaration.(*ast.FuncDecl); ok && f.Recv != nil && !ast.IsExported(receiver(f.Recv.List[0].Type)) {
				continue
			}
			out.count(declaration)
			for _, part := range parts(declaration) {
				var text bytes.Buffer
				if err := printer.Fprint(&text, files, part); err != nil {
					return out, fmt.Errorf("%s: %w", path, err)
				}
				declarations = append(declarations, text.String()+"\n")
			}
		}
	}
	slices.Sort(declarations)
	out.Text = strings.Join(slices.Compact(declarations), "")
	return out, nil
}

// parts returns the declarations that a declaration is to be listed as: constants and variables one by one.
func parts(declaration ast.Decl) []ast.Decl {
	group, ok := declaration.(*ast.GenDecl)
	if !ok {
		function := *declaration.(*ast.FuncDecl)
		function.Body = nil
		return []ast.Decl{&function}
	}
	if group.Tok == token.IMPORT {
		return nil
	}
	var out []ast.Decl
	for _, spec := range group.Specs {
		out = append(out, &ast.GenDecl{Tok: group.Tok, Specs: []ast.Spec{spec}})
	}
	return out
}

func (a *API) count(declaration ast.Decl) {
	switch d := declaration.(type) {
	case *ast.FuncDecl:
		a.Names++
		if d.Recv != nil {
			a.Methods[receiver(d.Recv.List[0].Type)]++
		}
	case *ast.GenDecl:
		for _, spec := range d.Specs {
			switch s := spec.(type) {
			case *ast.TypeSpec:
				a.Names++
			case *ast.ValueSpec:
				a.Names += len(s.Names)
			}
		}
	}
}

// receiver returns the name of a receiver's type.
func receiver(expression ast.Expr) string {
	switch e := expression.(type) {
	case *ast.StarExpr:
		return receiver(e.X)
	case *ast.IndexExpr:
		return receiver(e.X)
	case *ast.IndexListExpr:
		return receiver(e.X)
	case *ast.Ident:
		return e.Name
	}
	return ""
}
