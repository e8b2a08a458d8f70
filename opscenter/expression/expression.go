// Package expression evaluates filter expressions in the language of expr-lang/expr. Operations Center filters its lists with
// the same language:
//
//	object.config["ipv4.address"] == "10.115.25.1/24"
//	"/1.0/profiles/default" in object.used_by
//	name startsWith "web-" and project_name != "default"
//
// An expression uses fields, whose types are known at compilation, and documents. A document is JSON of which an evaluation
// decodes only the parts that the expression names. A missing member of a document is nil at any depth. Comparing nil with a
// value is false, and no error.
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

// Limits of expressions. An evaluation that exceeds one returns an error.
const (
	// MaxLength is the maximum length of the text, in bytes.
	MaxLength = 4096
	// MaxNodes is the maximum number of nodes in the syntax tree.
	MaxNodes = 500
	// MaxSteps is the maximum number of elements that the predicates of one evaluation visit. Predicates are those of any,
	// all, filter, map and the like. Nested predicates multiply the number.
	MaxSteps = 100_000
	// MaxMemory is the maximum size of the lists that one evaluation builds, in elements.
	MaxMemory = 200_000
	// MaxText is the maximum size of the strings that one evaluation concatenates, in bytes.
	MaxText = 1 << 20
	// MaxTime is the maximum time that the predicates of one evaluation take. Code outside predicates runs once, and is not
	// timed.
	MaxTime = 100 * time.Millisecond
	// MaxTotalTime is the maximum time of all evaluations of a Matcher. Only evaluations whose predicates visit more than 100
	// elements count.
	MaxTotalTime = 10 * time.Second
)

// disabled are functions of the language that can take much time or memory in a short expression.
var disabled = []string{"repeat", "flatten", "concat", "join", "replace", "split", "splitAfter", "toJSON", "fromJSON", "uniq", "toBase64", "fromBase64"}

// ErrInvalid: the text is not a valid expression, or names unknown fields.
var ErrInvalid = errors.New("invalid filter expression")

// Error is an error at a place in the text. It wraps ErrInvalid.
type Error struct {
	// Line and Column of the place, from 1.
	Line, Column int
	// Message describes the error, without the place.
	Message string
	Snippet string // the line of the text, and below it a mark
}

// Error implements error.
func (e *Error) Error() string {
	return fmt.Sprintf("%v: line %d, column %d: %s%s", ErrInvalid, e.Line, e.Column, e.Message, e.Snippet)
}

// Unwrap returns ErrInvalid.
func (e *Error) Unwrap() error { return ErrInvalid }

// Schema lists the names that expressions may use.
type Schema struct {
	// Fields by name, each with an example value of its type: "" for a string, time.Time{} for a time.
	Fields map[string]any
	// Documents are the names of documents.
	Documents []string
	// Functions that expressions may call, by name. They must be fast, and must not build large values.
	Functions map[string]Function
}

// Function is a function that expressions may call.
type Function struct {
	// Call gets arguments of the types in Type.
	Call func(arguments ...any) (any, error)
	// Type is a pointer to a function of the wanted type, such as new(func(string, ...string) bool).
	Type any
}

// Program is a compiled expression. It may be used concurrently.
type Program struct {
	text    string
	program *vm.Program
	fields  map[string]bool  // the fields and documents that the expression names
	parts   map[string]*part // the parts of each document that it names
}

// step and add are the names of the functions that count steps and concatenate strings. Compile rejects expressions with these
// names.
const (
	step = "__step"
	add  = "__add"
)

// Compile compiles an expression that may use the names of schema. Errors: *Error, which wraps ErrInvalid.
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

// explain adds the known names to an error about an unknown name.
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

// toFloat64 implements Operations Center's function: it returns a number as a float64, and 0 for any other value.
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

// noText is a visitor that replaces nil by "" where an expression compares nil with a text field. A text field without a value
// is "", and never nil.
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
		case *ast.MemberNode: // a member of a map of strings
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

// checkSyntax rejects expressions that could not be bounded: the names step and add, $env, which hides the used fields, and
// patterns that are not constants.
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

// syntax is a visitor that finds a node that checkSyntax rejects.
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

// compileError turns an error of the library into an *Error.
func compileError(err error) error {
	var at *file.Error
	if !errors.As(err, &at) {
		return &Error{Line: 1, Column: 1, Message: err.Error()}
	}
	return &Error{Line: max(1, at.Line), Column: at.Column + 1, Message: at.Message, Snippet: at.Snippet}
}

// String returns the text of the expression.
func (p *Program) String() string { return p.text }

// Uses reports whether the expression names the field or document.
func (p *Program) Uses(name string) bool { return p.fields[name] }

// part is the part of a document, or of one of its members, that an expression uses.
type part struct {
	whole   bool
	members map[string]*part
}

// add marks the member at the path as used.
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

// decode decodes the used part of a document.
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

// scalar decodes a value. It decodes plain strings without the JSON decoder.
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

// uses is a visitor that records the fields and the parts of documents that an expression names. The library visits inner nodes
// before outer ones.
type uses struct {
	documents map[string]bool
	program   *Program
	inner     map[ast.Node]bool // nodes of which the expression uses only a part
	pending   []ast.Node
}

// Visit implements ast.Visitor. The library may visit a node several times, which has no further effect.
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

// names returns the documents that the expression names.
func (u *uses) names() (out []string) {
	for name := range u.documents {
		if u.program.fields[name] {
			out = append(out, name)
		}
	}
	return out
}

// unchained returns the node inside chain nodes.
func unchained(n ast.Node) ast.Node {
	if chain, ok := n.(*ast.ChainNode); ok {
		return unchained(chain.Node)
	}
	return n
}

// path returns the document of which a node is a part, and the path of the part.
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

// bounded is a visitor that enforces the limits. It makes members of nil nil, counts the steps of predicates, and measures
// concatenated strings.
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
		// The number, the keys and the values of nil are those of an empty map.
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

// mayBeText reports whether the value of a node may be a string, by its type.
func mayBeText(n ast.Node) bool {
	t := n.Type()
	return t == nil || t.Kind() == reflect.String || t.Kind() == reflect.Interface
}

// Evaluator evaluates a program for one object after another. It must not be used concurrently.
type Evaluator struct {
	program *Program
	vm      vm.VM
	env     map[string]any
	steps   int
	text    int
	begun   time.Time
	total   time.Duration // of the timed evaluations
	failed  error
}

// Evaluator returns a new Evaluator for the program.
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

// untimed is the number of steps before the evaluation is timed.
const untimed = 100

// step counts a step and returns value, or an error beyond a limit.
func (e *Evaluator) step(value any) (any, error) {
	e.steps++
	switch {
	case e.steps > MaxSteps:
		return nil, errSteps
	case e.steps == untimed:
		e.begun = time.Now()
	case e.steps > untimed && time.Since(e.begun) > MaxTime:
		return nil, errTime
	}
	return value, nil
}

// add adds two values. It measures concatenated strings.
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

// Uses reports whether the expression names the field or document.
func (e *Evaluator) Uses(name string) bool { return e.program.Uses(name) }

// Set sets the value of a field. It ignores fields that the expression does not name. Ask Uses first if the value is expensive
// to compute.
func (e *Evaluator) Set(name string, value any) {
	if !e.program.fields[name] {
		return
	}
	switch m := value.(type) { // a nil map counts as an empty one
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

// SetDocument sets the value of a document; nil: the object has no document.
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

// Match evaluates the expression for the values that were set. An error means that the expression can't be evaluated for this
// object: it compares incompatible values, a document is not JSON, or it exceeds a limit.
func (e *Evaluator) Match() (bool, error) {
	failed := e.failed
	e.failed, e.steps, e.text = nil, 0, 0
	if failed != nil {
		return false, failed
	}
	out, err := e.vm.Run(e.program.program, e.env)
	if e.steps >= untimed {
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
		return false, fmt.Errorf("the expression yields %T instead of a truth value", out)
	}
	return matched, nil
}
