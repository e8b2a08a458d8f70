package expression_test

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/opscenter/expression"
)

var schema = &expression.Schema{Fields: map[string]any{"name": "", "project_name": "", "last_updated": time.Time{}, "properties": map[string]string{}, "total": 0},
	Documents: []string{"object"}}

const network = `{"name":"br0","managed":true,"mtu":1500,"config":{"ipv4.address":"10.115.25.1/24","ipv6.address":"none","päth":"\u00e4"},
	"used_by":["/1.0/profiles/default","/1.0/instances/c1"],"description":"","nested":{"a":{"b":[{"c":1},{"c":2}]}}}`

func match(t *testing.T, text, document string) (bool, error) {
	t.Helper()
	p, err := expression.Compile(text, schema)
	require.NoError(t, err, text)
	e := p.Evaluator()
	e.Set("name", "br0")
	e.Set("project_name", "default")
	e.Set("properties", map[string]string{"rack": "7"})
	e.Set("last_updated", time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC))
	e.Set("total", 3)
	e.SetDocument("object", []byte(document))
	return e.Match()
}

// TestMatch evaluates typical expressions of users.
func TestMatch(t *testing.T) {
	for text, want := range map[string]bool{
		`object.config["ipv4.address"] == "10.115.25.1/24"`:                                        true,
		`object.config["ipv4.address"] == "10.115.25.2/24"`:                                        false,
		`"/1.0/profiles/default" in object.used_by`:                                                true,
		`"/1.0/profiles/other" in object.used_by`:                                                  false,
		`name == "br0" and project_name == "default"`:                                              true,
		`object.name == name`:                                                                      true,
		`object["config"]["ipv6.address"] == "none"`:                                               true,
		`"ipv4.address" in object.config`:                                                          true,
		`"ipv9.address" in object.config`:                                                          false,
		`object.mtu > 1400 && object.managed`:                                                      true,
		`name + "-" + project_name == "br0-default" and object.mtu + 1 == 1501 and name != "$env"`: true,
		`object.nothing == nil`:                                                                    true,
		`object.nothing.at.all == "x"`:                                                             false,
		`object.nothing["at"].all == nil`:                                                          true,
		`"x" in object.nothing`:                                                                    false,
		`any(object.used_by, # contains "instances")`:                                              true,
		`all(object.used_by, {# startsWith "/1.0/"})`:                                              true,
		`len(filter(object.nested.a.b, .c > 1)) == 1`:                                              true,
		`object.nested.a.b[1].c == 2`:                                                              true,
		`object.config["p"+"äth"] == "ä"`:                                                          true,
		`object.config["päth"] == "ä" and object.config.päth == "ä"`:                               true,
		`properties.rack == "7" and properties["row"] == ""`:                                       true,
		`last_updated < date("2026-12-01")`:                                                        true,
		`object.config[object.name] == nil`:                                                        true,
		`keys(object.config) | len() == 3`:                                                         true,
		`let c = object.config; c["ipv6.address"] == "none"`:                                       true,
		`(object.description ?? "x") == ""`:                                                        true,
		`(object.nothing.here ?? "x") == "x"`:                                                      true,
		`name matches "^br[0-9]+$"`:                                                                true,
		`not (name startsWith "x") and total in 1..5`:                                              true,
		`object.config["ipv4.address"] == "x" or object.config != nil`:                             true,
		`any(object.nested.a.b, any(object.used_by, # != "") and .c == 2)`:                         true,
		`object?.config?.["ipv6.address"] == "none"`:                                               true,
		`object.used_by[0] == "/1.0/profiles/default" && name in ["br0","x"]`:                      true,
	} {
		got, err := match(t, text, network)
		require.NoError(t, err, text)
		require.Equal(t, want, got, text)
	}
	got, err := match(t, `object.config["x"] == nil`, "")
	require.NoError(t, err)
	require.True(t, got, "no document")
}

// TestPartsAreEnough: an expression gets the same result from the decoded parts of a document as from the whole.
func TestPartsAreEnough(t *testing.T) {
	for _, text := range []string{
		`object.nested.a.b[0].c == 1 and len(object.nested.a) == 1 and len(object.nested) == 1 and len(object) == 7`,
		`object.config["ipv6.address"] == "none" and len(object.config) == 3`,
		`let o = object; o.config["ipv6.address"] == "none" and o.mtu == 1500`,
		`object[name == "br0" ? "mtu" : "x"] == 1500 and object.mtu == 1500`,
		`get(object, "mtu") == 1500 and object.managed`,
		`(object | keys() | len()) == 7 and object.name == "br0"`,
		`any([object], .config["ipv6.address"] == "none")`,
	} {
		got, err := match(t, text, network)
		require.NoError(t, err, text)
		require.True(t, got, text)
	}
}

// TestErrors: Compile rejects invalid expressions, and its error has the place.
func TestErrors(t *testing.T) {
	for text, want := range map[string]string{
		`nmae == "x"`:               "line 1, column 1: unknown name nmae",
		`name == `:                  "line 1, column 8: unexpected token EOF",
		"name ==\n  $":              "line 2, column ",
		`name > 5`:                  "line 1, column 6: invalid operation",
		`name`:                      "line 1, column 1: expected bool, but got string",
		``:                          "unexpected token EOF",
		`$env["name"] == "br0"`:     "unknown name $env",
		`__step(name) == nil`:       "unknown name __step",
		`name matches object.name`:  "the pattern of matches must be a text",
		`len(repeat("x", 9)) > 0`:   "unknown name repeat",
		`object.x == fromJSON("1")`: "unknown name fromJSON",
		`name matches "("`:          "line 1, column ",
		strings.Repeat("name == name and ", 300) + "true": "at most 4096",
		strings.Repeat("!", 700) + "true":                 "exceeds maximum allowed nodes",
	} {
		_, err := expression.Compile(text, schema)
		require.ErrorIs(t, err, expression.ErrInvalid, text)
		require.ErrorContains(t, err, want, text)
	}
}

// TestBounds: expressions that would take much time or memory return an error.
func TestBounds(t *testing.T) {
	many := `{"list":[` + strings.Repeat("1,", 9999) + `1]}`
	for _, text := range []string{
		`all(object.list, all(object.list, all(object.list, # == 1)))`,
		`count(1..1000, count(1..1000, count(1..1000, # > 3) == 7) == 7) == 7`,
		`len(map(1..500000, #)) > 0`,
		`let a = name+name+name+name; let b = a+a+a+a; let c = b+b+b+b; let d = c+c+c+c; let e = d+d+d+d; let f = e+e+e+e; let g = f+f+f+f; let h = g+g+g+g; let i = h+h+h+h; let j = i+i+i+i; let k = j+j+j+j; len(k+k+k+k) > 0`,
		`all(object.list, not ("q" in object.list))`,
		`all(object.list, len(sort(object.list)) > 0)`,
		`reduce(1..90000, #acc + reduce(1..90000, #acc + #)) > 0`,
	} {
		begun := time.Now()
		_, err := match(t, text, many)
		require.Error(t, err, text)
		require.Less(t, time.Since(begun), time.Minute, text) // hours without the limits
	}
	// On a busy machine, an evaluation may wait for a core for as long as MaxTime.
	deadline := time.Now().Add(time.Minute)
	ok, err := match(t, `all(object.list, # == 1)`, many)
	for err != nil && time.Now().Before(deadline) {
		ok, err = match(t, `all(object.list, # == 1)`, many)
	}
	require.NoError(t, err)
	require.True(t, ok)
}

// TestMatcher: an object for which the expression can't be evaluated does not match. If there is no other object, Err returns an
// error.
func TestMatcher(t *testing.T) {
	p, err := expression.Compile(`object.size > 5`, schema)
	require.NoError(t, err)
	m := p.Matcher()
	require.NoError(t, m.Err())
	m.SetDocument("object", []byte(`{"size":"big"}`))
	require.False(t, m.Matches())
	require.ErrorIs(t, m.Err(), expression.ErrInvalid)
	require.ErrorContains(t, m.Err(), "column")
	m.SetDocument("object", []byte(`{"size":6}`))
	require.True(t, m.Matches())
	require.NoError(t, m.Err())
	m.SetDocument("object", []byte(`{"size":`))
	require.False(t, m.Matches(), "a document that is not JSON does not match")
}

func FuzzCompile(f *testing.F) {
	for _, text := range []string{`object.config["a"] == name`, `any(object.x, # > 1)`, `{`, `a?.b`, `let x = 1; x == total`, `object[name][0:2]`, "1..1000000000"} {
		f.Add(text, network)
	}
	f.Fuzz(func(t *testing.T, text, document string) {
		p, err := expression.Compile(text, schema)
		if err != nil {
			require.ErrorIs(t, err, expression.ErrInvalid)
			return
		}
		e := p.Evaluator()
		e.SetDocument("object", []byte(document))
		_, _ = e.Match()
	})
}

// TestMatcherIsSpent: a slow expression over many objects ends with an error instead of a partial result.
func TestMatcherIsSpent(t *testing.T) {
	defer expression.SetMaxTotalTime(50 * time.Millisecond)()
	schema := &expression.Schema{Fields: map[string]any{"name": ""}}
	slow, err := expression.Compile(`count(1..3000, {# % 7 == 3}) != 5 and name != ""`, schema)
	require.NoError(t, err)
	quick, err := expression.Compile(`name != ""`, schema)
	require.NoError(t, err)
	m := slow.Matcher()
	evaluated := 0
	for range 10_000 {
		m.Set("name", "x")
		if !m.Matches() {
			break
		}
		evaluated++
	}
	require.Less(t, evaluated, 10_000)
	require.NotZero(t, evaluated)
	require.True(t, m.Spent())
	require.ErrorIs(t, m.Err(), expression.ErrInvalid)
	require.ErrorContains(t, m.Err(), "50ms")
	other := slow.Matcher()
	other.Merge(m)
	require.True(t, other.Spent())
	m = quick.Matcher()
	for range 200_000 {
		m.Set("name", "x")
		require.True(t, m.Matches())
	}
	require.NoError(t, m.Err())
}
