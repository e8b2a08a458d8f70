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
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/expr-lang/expr"
	"github.com/expr-lang/expr/ast"
	"github.com/expr-lang/expr/conf"
	"github.com/expr-lang/expr/file"
	"github.com/expr-lang/expr/parser"
	"github.com/expr-lang/expr/types"
	"github.com/expr-lang/expr/vm"
	"github.com/expr-lang/expr/vm/runtime"

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
	// MaxMemory bounds what one evaluation may build, in elements of lists.
	MaxMemory = 200_000
	// MaxText bounds the strings that one evaluation puts together, in bytes.
	MaxText = 1 << 20
	// MaxTime bounds one evaluation, as far as its predicates go: what is outside of them is
	// done once.
	MaxTime = 100 * time.Millisecond
	// MaxTotalTime bounds what a Matcher spends on all its evaluations, as far as their predicates
	// look at more than 100 elements; others are not timed.
	MaxTotalTime = 10 * time.Second
)

// disabled are functions of the language that can take any time or memory with a few words.
var disabled = []string{"repeat", "flatten", "concat", "join", "replace", "split", "splitAfter", "toJSON", "fromJSON", "uniq", "toBase64", "fromBase64"}

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
	// Functions that it may call, by name. They must be quick, and build nothing large.
	Functions map[string]Function
}

// Function is a function for expressions.
type Function struct {
	// Call gets the arguments, which are of the types that Type says.
	Call func(arguments ...any) (any, error)
	// Type is a pointer to a function of that type: new(func(string, ...string) bool).
	Type any
}

// Program is a compiled expression. It may be used concurrently.
type Program struct {
	text    string
	program *vm.Program
	fields  map[string]bool // those that it names
	parts   map[string]*part
}

// step and add are the names of what counts steps and puts strings together; no expression may
// use them.
const (
	step = "__step"
	add  = "__add"
)

// Compile checks an expression against what it may be about. Errors: *Error, which is an
// ErrInvalid.
func Compile(text string, schema *Schema) (*Program, error) {
	if len(text) > MaxLength {
		return nil, &Error{Line: 1, Column: MaxLength, Message: fmt.Sprintf("it has %d bytes, at most %d are allowed", len(text), MaxLength)}
	}
	if err := checkSyntax(text); err != nil {
		return nil, err
	}
	env := types.Map{step: types.TypeOf(func(any) (any, error) { return nil, nil }), add: types.TypeOf(func(any, any) (any, error) { return nil, nil })}
	for name, value := range schema.Fields {
		env[name] = types.TypeOf(value)
	}
	documents := map[string]bool{}
	for _, name := range schema.Documents {
		env[name], documents[name] = types.Any, true
	}
	p := &Program{text: text, fields: map[string]bool{}, parts: map[string]*part{}}
	uses := &uses{documents: documents, program: p, inner: map[ast.Node]bool{}}
	options := []expr.Option{expr.Env(env), expr.AsBool(), expr.MaxNodes(MaxNodes), expr.Patch(noText(schema.Fields)), expr.Patch(uses), expr.Patch(bounded{}),
		expr.Function("toFloat64", toFloat64, new(func(any) float64))}
	for name, function := range schema.Functions {
		options = append(options, expr.Function(name, function.Call, function.Type))
	}
	for _, name := range disabled {
		options = append(options, expr.DisableBuiltin(name))
	}
	compiled, err := expr.Compile(text, options...)
	if err != nil {
		return nil, schema.explain(compileError(err))
	}
	p.program = compiled
	for _, name := range schema.Documents {
		if p.fields[name] && p.parts[name] == nil {
			p.parts[name] = &part{whole: true}
		}
	}
	return p, nil
}

// explain adds to an error about a name that is not known those that are.
func (s *Schema) explain(err error) error {
	var at *Error
	if !errors.As(err, &at) || !strings.HasPrefix(at.Message, "unknown name ") {
		return err
	}
	names := slices.Concat(slices.Collect(maps.Keys(s.Fields)), s.Documents)
	slices.Sort(names)
	at.Message += "; there are " + strings.Join(names, ", ")
	return at
}

// toFloat64 is Operations Center's function: a number as it is, and 0 for all else.
func toFloat64(arguments ...any) (any, error) {
	if v := reflect.ValueOf(arguments[0]); v.IsValid() {
		switch {
		case v.CanInt():
			return float64(v.Int()), nil
		case v.CanUint():
			return float64(v.Uint()), nil
		case v.CanFloat():
			return v.Float(), nil
		}
	}
	return 0.0, nil
}

// noText makes the comparison of a field that is text with nil one with the empty text: there,
// no value is written so.
type noText map[string]any

// Visit implements ast.Visitor.
func (fields noText) Visit(node *ast.Node) {
	n, ok := (*node).(*ast.BinaryNode)
	if !ok || n.Operator != "==" && n.Operator != "!=" {
		return
	}
	isText := func(n ast.Node) bool {
		switch n := unchained(n).(type) {
		case *ast.IdentifierNode:
			_, text := fields[n.Value].(string)
			return text
		case *ast.MemberNode: // of a map of texts
			if of, ok := unchained(n.Node).(*ast.IdentifierNode); ok {
				_, texts := fields[of.Value].(map[string]string)
				return texts
			}
		}
		return false
	}
	for _, side := range []struct{ text, other *ast.Node }{{&n.Left, &n.Right}, {&n.Right, &n.Left}} {
		if _, isNil := (*side.other).(*ast.NilNode); isNil && isText(*side.text) {
			ast.Patch(side.other, &ast.StringNode{Value: ""})
		}
	}
}

// checkSyntax refuses what could not be bounded: names of ours, $env, with which nobody could tell
// what is used, and patterns that come from what is looked at.
func checkSyntax(text string) error {
	config := conf.CreateNew()
	config.MaxNodes = MaxNodes
	for _, name := range disabled {
		config.Disabled[name] = true
	}
	tree, err := parser.ParseWithConfig(text, config)
	if err != nil {
		return compileError(err)
	}
	check := &syntax{}
	ast.Walk(&tree.Node, check)
	if check.wrong == nil {
		return nil
	}
	at := &file.Error{Location: check.wrong.Location(), Message: check.why}
	return compileError(at.Bind(tree.Source))
}

type syntax struct {
	wrong ast.Node
	why   string
}

// Visit implements ast.Visitor.
func (s *syntax) Visit(node *ast.Node) {
	switch n := (*node).(type) {
	case *ast.IdentifierNode:
		if n.Value == step || n.Value == add || n.Value == "$env" {
			s.wrong, s.why = n, "unknown name "+n.Value
		}
	case *ast.BinaryNode:
		if _, constant := n.Right.(*ast.StringNode); n.Operator == "matches" && !constant {
			s.wrong, s.why = n, "the pattern of matches must be a text"
		}
	}
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

// bounded makes each member of what is nil nil, counts the steps of predicates, and measures
// the strings that are put together.
type bounded struct{}

// Visit implements ast.Visitor.
func (bounded) Visit(node *ast.Node) {
	switch n := (*node).(type) {
	case *ast.BinaryNode:
		if n.Operator == "+" && mayBeText(n.Left) && mayBeText(n.Right) {
			ast.Patch(node, &ast.CallNode{Callee: &ast.IdentifierNode{Value: add}, Arguments: []ast.Node{n.Left, n.Right}})
		}
	case *ast.MemberNode:
		if !n.Optional {
			n.Optional = true
			ast.Patch(node, &ast.ChainNode{Node: n})
		}
	case *ast.BuiltinNode:
		// Of what is not there, there is none.
		if len(n.Arguments) != 1 || n.Name != "len" && n.Name != "keys" && n.Name != "values" || !mayBeText(n.Arguments[0]) {
			return
		}
		if or, ok := n.Arguments[0].(*ast.BinaryNode); !ok || or.Operator != "??" {
			n.Arguments[0] = &ast.BinaryNode{Operator: "??", Left: n.Arguments[0], Right: &ast.MapNode{}}
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

// mayBeText reports whether a part may be a string, as far as is known before it is evaluated.
func mayBeText(n ast.Node) bool {
	t := n.Type()
	return t == nil || t.Kind() == reflect.String || t.Kind() == reflect.Interface
}

// Evaluator evaluates a program for one object after the other. It must not be used concurrently.
type Evaluator struct {
	program *Program
	vm      vm.VM
	env     map[string]any
	steps   int
	text    int
	begun   time.Time
	total   time.Duration // of those evaluations that were timed
	failed  error
}

// Evaluator returns a new one.
func (p *Program) Evaluator() *Evaluator {
	e := &Evaluator{program: p, env: map[string]any{}}
	e.vm.MemoryBudget = MaxMemory
	e.env[step], e.env[add] = e.step, e.add
	return e
}

var (
	errSteps = fmt.Errorf("more than %d steps", MaxSteps)
	errText  = fmt.Errorf("strings of more than %d bytes", MaxText)
	errTime  = fmt.Errorf("it took longer than %s", MaxTime)
)

// unwatched is how many steps are done before the clock is looked at.
const unwatched = 100

func (e *Evaluator) step(value any) (any, error) {
	e.steps++
	switch {
	case e.steps > MaxSteps:
		return nil, errSteps
	case e.steps == unwatched:
		e.begun = time.Now()
	case e.steps > unwatched && time.Since(e.begun) > MaxTime:
		return nil, errTime
	}
	return value, nil
}

func (e *Evaluator) add(a, b any) (any, error) {
	left, ok1 := a.(string)
	right, ok2 := b.(string)
	if !ok1 || !ok2 {
		return runtime.Add(a, b), nil
	}
	if e.text += len(left) + len(right); e.text > MaxText {
		return nil, errText
	}
	return left + right, nil
}

// Uses reports whether the expression names that field or document.
func (e *Evaluator) Uses(name string) bool { return e.program.Uses(name) }

// Set gives a field its value. It costs nothing for those that the expression does not name,
// if it is asked by Uses first.
func (e *Evaluator) Set(name string, value any) {
	if !e.program.fields[name] {
		return
	}
	switch m := value.(type) { // a map that is nil is an empty one
	case map[string]string:
		if m == nil {
			value = map[string]string{}
		}
	case map[string]any:
		if m == nil {
			value = map[string]any{}
		}
	}
	e.env[name] = value
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
	e.failed, e.steps, e.text = nil, 0, 0
	if failed != nil {
		return false, failed
	}
	out, err := e.vm.Run(e.program.program, e.env)
	if e.steps >= unwatched {
		e.total += time.Since(e.begun)
	}
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
