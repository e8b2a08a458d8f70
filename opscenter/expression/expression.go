// Package expression evaluates filter expressions in the language of expr-lang/expr, which is
// the one Operations Center filters its lists with:
//
//	object.config["ipv4.address"] == "10.115.25.1/24"
//	"/1.0/profiles/default" in object.used_by
//	name startsWith "web-" and project_name != "default"
//
// An expression sees fields, whose types are known when it is compiled, and documents: JSON
// of which only the parts it names are decoded. What a document does not have is nil, however
// deep: comparing with it is false, and no error.
package expression

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/expr-lang/expr"
	"github.com/expr-lang/expr/ast"
	"github.com/expr-lang/expr/file"
	"github.com/expr-lang/expr/types"
	"github.com/expr-lang/expr/vm"

	"github.com/opscenter-go/sdk/internal/jsonfilter"
)

// Limits of expressions. An evaluation that is over one ends with an error.
const (
	// MaxLength bounds the text, in bytes.
	MaxLength = 4096
	// MaxNodes bounds the parts of its syntax tree.
	MaxNodes = 500
	// MaxSteps bounds how many elements the predicates of one evaluation look at: those of
	// any, all, filter, map and the like, nested ones multiplied.
	MaxSteps = 100_000
	// MaxMemory bounds what one evaluation may build, in elements.
	MaxMemory = 200_000
)

// ErrInvalid: the text is no expression, or one about fields that there are not.
var ErrInvalid = errors.New("invalid filter expression")

// Error is an ErrInvalid with its place in the text.
type Error struct {
	// Line and Column of the place, from 1.
	Line, Column int
	Message      string
	Snippet      string // the line, and below it a mark
}

// Error implements error.
func (e *Error) Error() string {
	return fmt.Sprintf("%v: line %d, column %d: %s%s", ErrInvalid, e.Line, e.Column, e.Message, e.Snippet)
}

// Unwrap returns ErrInvalid.
func (e *Error) Unwrap() error { return ErrInvalid }

// Schema is what expressions may be about.
type Schema struct {
	// Fields by name, each with a value of its type: "" for a string, time.Time{} for a time.
	Fields map[string]any
	// Documents are the names of those fields that are JSON.
	Documents []string
}

// Program is a compiled expression. It may be used concurrently.
type Program struct {
	text    string
	program *vm.Program
	fields  map[string]bool // those that it names
	parts   map[string]*part
}

// step is the name, which no text can hold, of what counts steps.
const step = "__step"

// Compile checks an expression against what it may be about. Errors: *Error, which is an
// ErrInvalid.
func Compile(text string, schema *Schema) (*Program, error) {
	if len(text) > MaxLength {
		return nil, &Error{Line: 1, Column: MaxLength, Message: fmt.Sprintf("it has %d bytes, at most %d are allowed", len(text), MaxLength)}
	}
	for _, name := range []string{step, "$env"} { // with $env nobody could tell what is used
		if at := strings.Index(text, name); at >= 0 {
			return nil, &Error{Line: 1, Column: 1 + at, Message: "unknown name " + name}
		}
	}
	env := types.Map{step: types.TypeOf(func(any) (any, error) { return nil, nil })}
	for name, value := range schema.Fields {
		env[name] = types.TypeOf(value)
	}
	documents := map[string]bool{}
	for _, name := range schema.Documents {
		env[name], documents[name] = types.Any, true
	}
	p := &Program{text: text, fields: map[string]bool{}, parts: map[string]*part{}}
	uses := &uses{documents: documents, program: p, inner: map[ast.Node]bool{}}
	compiled, err := expr.Compile(text, expr.Env(env), expr.AsBool(), expr.MaxNodes(MaxNodes), expr.Patch(uses), expr.Patch(lenient{}))
	if err != nil {
		return nil, compileError(err)
	}
	p.program = compiled
	for _, name := range schema.Documents {
		if p.fields[name] && p.parts[name] == nil {
			p.parts[name] = &part{whole: true}
		}
	}
	return p, nil
}

func compileError(err error) error {
	var at *file.Error
	if !errors.As(err, &at) {
		return &Error{Line: 1, Column: 1, Message: err.Error()}
	}
	return &Error{Line: max(1, at.Line), Column: at.Column + 1, Message: at.Message, Snippet: at.Snippet}
}

// String returns the text of the expression.
func (p *Program) String() string { return p.text }

// Uses reports whether the expression names that field or document.
func (p *Program) Uses(name string) bool { return p.fields[name] }

// part is what is used of a document, or of a member of it.
type part struct {
	whole   bool
	members map[string]*part
}

func (p *part) add(path []string) {
	for _, key := range path {
		if p.members == nil {
			p.members = map[string]*part{}
		}
		next := p.members[key]
		if next == nil {
			next = &part{}
			p.members[key] = next
		}
		p = next
	}
	p.whole = true
}

// decode builds what is used of a document.
func (p *part) decode(data []byte) (any, error) {
	if p.whole || len(data) == 0 || data[0] != '{' {
		if len(data) == 0 {
			return nil, nil
		}
		return scalar(data)
	}
	out := make(map[string]any, len(p.members))
	var failed error
	err := jsonfilter.Members(data, func(key, value []byte) {
		next := p.members[string(key)]
		if next == nil || failed != nil {
			return
		}
		decoded, err := next.decode(value)
		if err != nil {
			failed = err
			return
		}
		out[string(key)] = decoded
	})
	return out, errors.Join(err, failed)
}

// scalar decodes a value, plain strings without the decoder.
func scalar(data []byte) (any, error) {
	if n := len(data); n >= 2 && data[0] == '"' {
		plain := true
		for _, c := range data[1 : n-1] {
			if c == '\\' || c >= 0x80 {
				plain = false
				break
			}
		}
		if plain {
			return string(data[1 : n-1]), nil
		}
	}
	var out any
	err := json.Unmarshal(data, &out)
	return out, err
}

// uses notes which fields, and which parts of documents, an expression names. It is called
// for inner nodes before those around them.
type uses struct {
	documents map[string]bool
	program   *Program
	inner     map[ast.Node]bool // those that a part of was named of, and not the whole
	pending   []ast.Node
}

// Visit implements ast.Visitor. An expression that is checked more than once is visited more
// than once: what is noted twice is noted.
func (u *uses) Visit(node *ast.Node) {
	switch n := (*node).(type) {
	case *ast.IdentifierNode:
		u.program.fields[n.Value] = true
		if u.documents[n.Value] {
			u.pending = append(u.pending, n)
		}
	case *ast.MemberNode:
		if _, path, ok := u.path(n); ok && len(path) > 0 {
			u.inner[unchained(n.Node)] = true
			u.pending = append(u.pending, n)
		}
	}
	for _, name := range u.names() {
		u.program.parts[name] = &part{}
	}
	for _, n := range u.pending {
		if name, path, ok := u.path(n); ok && !u.inner[n] {
			u.program.parts[name].add(path)
		}
	}
}

func (u *uses) names() (out []string) {
	for name := range u.documents {
		if u.program.fields[name] {
			out = append(out, name)
		}
	}
	return out
}

func unchained(n ast.Node) ast.Node {
	if chain, ok := n.(*ast.ChainNode); ok {
		return unchained(chain.Node)
	}
	return n
}

// path returns the document a node is a part of, and the way to it.
func (u *uses) path(n ast.Node) (document string, path []string, ok bool) {
	switch n := unchained(n).(type) {
	case *ast.IdentifierNode:
		return n.Value, nil, u.documents[n.Value]
	case *ast.MemberNode:
		key, constant := n.Property.(*ast.StringNode)
		if !constant || n.Method {
			return "", nil, false
		}
		document, path, ok = u.path(n.Node)
		return document, append(path, key.Value), ok
	}
	return "", nil, false
}

// lenient makes each member of what is nil nil, and counts the steps of predicates.
type lenient struct{}

// Visit implements ast.Visitor.
func (lenient) Visit(node *ast.Node) {
	switch n := (*node).(type) {
	case *ast.MemberNode:
		if !n.Optional {
			n.Optional = true
			ast.Patch(node, &ast.ChainNode{Node: n})
		}
	case *ast.PredicateNode:
		if call, ok := n.Node.(*ast.CallNode); ok {
			if callee, ok := call.Callee.(*ast.IdentifierNode); ok && callee.Value == step {
				return
			}
		}
		n.Node = &ast.CallNode{Callee: &ast.IdentifierNode{Value: step}, Arguments: []ast.Node{n.Node}}
	}
}

// Evaluator evaluates a program for one object after the other. It must not be used concurrently.
type Evaluator struct {
	program *Program
	vm      vm.VM
	env     map[string]any
	steps   int
	failed  error
}

// Evaluator returns a new one.
func (p *Program) Evaluator() *Evaluator {
	e := &Evaluator{program: p, env: map[string]any{}}
	e.vm.MemoryBudget = MaxMemory
	e.env[step] = e.step
	return e
}

var errSteps = fmt.Errorf("more than %d steps", MaxSteps)

func (e *Evaluator) step(value any) (any, error) {
	if e.steps++; e.steps > MaxSteps {
		return nil, errSteps
	}
	return value, nil
}

// Uses reports whether the expression names that field or document.
func (e *Evaluator) Uses(name string) bool { return e.program.Uses(name) }

// Set gives a field its value. It costs nothing for those that the expression does not name,
// if it is asked by Uses first.
func (e *Evaluator) Set(name string, value any) {
	if e.program.fields[name] {
		e.env[name] = value
	}
}

// SetDocument gives a document its value; nil: there is none.
func (e *Evaluator) SetDocument(name string, data []byte) {
	used := e.program.parts[name]
	if used == nil {
		return
	}
	value, err := used.decode(data)
	if err != nil && e.failed == nil {
		e.failed = fmt.Errorf("%s: %w", name, err)
	}
	e.env[name] = value
}

// Match evaluates the expression for what was set. An error says that it can't be, for this
// object: it compares what can't be compared, or is over a limit.
func (e *Evaluator) Match() (bool, error) {
	failed := e.failed
	e.failed, e.steps = nil, 0
	if failed != nil {
		return false, failed
	}
	out, err := e.vm.Run(e.program.program, e.env)
	if err != nil {
		var at *file.Error
		if errors.As(err, &at) {
			err = compileError(at)
		}
		return false, err
	}
	matched, ok := out.(bool)
	if !ok {
		return false, fmt.Errorf("the expression yields no truth value, but %T", out)
	}
	return matched, nil
}

// Matcher applies an expression to a list of objects that need not all have what it is about:
// an object for which it can't be evaluated does not match. Only if there is none for which it
// can be, it is the expression that is wrong.
type Matcher struct {
	*Evaluator
	evaluated int
	first     error
}

// Matcher returns a new one.
func (p *Program) Matcher() *Matcher { return &Matcher{Evaluator: p.Evaluator()} }

// Matches reports whether the expression is true of what was set.
func (m *Matcher) Matches() bool {
	ok, err := m.Match()
	if err != nil {
		if m.first == nil {
			m.first = err
		}
		return false
	}
	m.evaluated++
	return ok
}

// Err returns why the expression could be evaluated for no object, an ErrInvalid; nil if
// it could for one, or there was none.
func (m *Matcher) Err() error {
	if m.first == nil || m.evaluated > 0 {
		return nil
	}
	if errors.Is(m.first, ErrInvalid) {
		return m.first
	}
	return fmt.Errorf("%w: %w", ErrInvalid, m.first)
}

// Merge takes in what another Matcher of the same program has seen.
func (m *Matcher) Merge(other *Matcher) {
	m.evaluated += other.evaluated
	if m.first == nil {
		m.first = other.first
	}
}
