package network

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
)

// Difference is a field that differs between two configurations.
type Difference struct {
	// Field by the names of things, as interfaces[mgmt].addresses.
	Field string `json:"field"`
	// From and To are its values as JSON; empty: it is not there. Secrets are hidden.
	From string `json:"from,omitempty"`
	To   string `json:"to,omitempty"`
}

// String is the difference in a line: + for what is new, - for what is gone, ~ for what changed.
func (d Difference) String() string {
	switch {
	case d.From == "":
		return "+ " + d.Field + ": " + d.To
	case d.To == "":
		return "- " + d.Field + ": " + d.From
	}
	return "~ " + d.Field + ": " + d.From + " → " + d.To
}

// maxShown bounds a value in a Difference, in bytes.
const maxShown = 500

// Diff returns what would change from one configuration to another, what is not known here
// included; empty: nothing. Lists of things with names are compared by the names.
func Diff(from, to *Config) ([]Difference, error) {
	before, secretsBefore, err := plainOf(from)
	if err != nil {
		return nil, err
	}
	after, secretsAfter, err := plainOf(to)
	if err != nil {
		return nil, err
	}
	d := &differ{}
	d.objects("", before, after)
	found := false
	for path := range secretsAfter {
		if _, there := secretsBefore[path]; there && secretsBefore[path].value != secretsAfter[path].value {
			d.out = append(d.out, Difference{secretsAfter[path].field, `"(hidden)"`, `"(hidden, another)"`})
			found = true
		}
	}
	if x, y := slices.Sorted(slices.Values(from.Secrets())), slices.Sorted(slices.Values(to.Secrets())); !found && len(d.out) == 0 && !slices.Equal(x, y) {
		d.out = append(d.out, Difference{"a secret of a newer release", `"(hidden)"`, `"(hidden, another)"`})
	}
	slices.SortStableFunc(d.out, func(a, b Difference) int { return strings.Compare(a.Field, b.Field) })
	return d.out, nil
}

// Unmet returns which of the changes a configuration does not have: the fields that differ still
// from those that were wanted. What a server fills in by itself, as the MAC address of an interface
// that was given by its name, is no difference; nor are secrets.
func Unmet(have, wanted *Config, changes []Difference) (out []string, err error) {
	a, _, err := plainOf(have)
	if err != nil {
		return nil, err
	}
	b, _, err := plainOf(wanted)
	if err != nil {
		return nil, err
	}
	d := &differ{}
	d.objects("", a, b)
	for _, left := range d.out {
		if slices.ContainsFunc(filledIn, func(end string) bool { return strings.HasSuffix(left.Field, end) }) {
			continue
		}
		if left.Field == "proxy.rules" && wanted.Proxy != nil && len(wanted.Proxy.Rules) == 0 {
			continue // it adds one for all destinations then
		}
		if slices.ContainsFunc(changes, func(c Difference) bool { return within(left.Field, c.Field) || within(c.Field, left.Field) }) {
			out = append(out, left.Field)
		}
	}
	return out, nil
}

// filledIn are fields that IncusOS fills in, or makes.
var filledIn = []string{".hwaddr", ".members", "time.timezone", ".private_key"}

// within reports whether a field is another, or a part of it.
func within(field, other string) bool {
	rest, ok := strings.CutPrefix(field, other)
	return ok && (rest == "" || rest[0] == '.' || rest[0] == '[')
}

type hiddenSecret struct {
	field string
	value Secret
}

// plainOf returns a configuration as JSON has it, with its secrets hidden, and them apart.
func plainOf(c *Config) (map[string]any, map[string]hiddenSecret, error) {
	secrets := map[string]hiddenSecret{}
	for _, s := range c.secrets() {
		if *s.value != "" {
			secrets[s.path] = hiddenSecret{s.field, *s.value}
		}
	}
	hidden, err := c.Hide()
	if err != nil {
		return nil, nil, err
	}
	hidden.ConfirmationTimeout = ""
	data, err := hidden.Encode()
	if err != nil {
		return nil, nil, err
	}
	var out map[string]any
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	return out, secrets, errorsOf(d.Decode(&out))
}

func errorsOf(err error) error {
	if err != nil {
		return fmt.Errorf("network configuration: %w", err)
	}
	return nil
}

type differ struct{ out []Difference }

func (d *differ) value(field string, from, to any, was, is bool) {
	if was && is {
		if reflect.DeepEqual(from, to) {
			return
		}
		a, ok1 := from.(map[string]any)
		b, ok2 := to.(map[string]any)
		if ok1 && ok2 {
			d.objects(field, a, b)
			return
		}
	}
	// What is empty is as what is not there: IncusOS leaves it out when it answers.
	was, is = was && !isEmpty(from), is && !isEmpty(to)
	if !was && !is {
		return
	}
	if x, y, ok := named(from, to); ok {
		d.objects(field, x, y)
		return
	}
	out := Difference{Field: field}
	if was {
		out.From = show(from)
	}
	if is {
		out.To = show(to)
	}
	d.out = append(d.out, out)
}

func isEmpty(v any) bool {
	switch v := v.(type) {
	case nil:
		return true
	case string:
		return v == ""
	case bool:
		return !v
	case json.Number:
		return v == "0"
	case []any:
		return len(v) == 0
	case map[string]any:
		for _, inner := range v {
			if !isEmpty(inner) {
				return false
			}
		}
		return true
	}
	return false
}

func (d *differ) objects(field string, from, to map[string]any) {
	keys := maps.Clone(from)
	if keys == nil {
		keys = map[string]any{}
	}
	maps.Copy(keys, to)
	for _, key := range slices.Sorted(maps.Keys(keys)) {
		below := key
		if field != "" {
			below = field + "." + key
		}
		if strings.HasPrefix(key, "[") {
			below = field + key
		}
		a, was := from[key]
		b, is := to[key]
		d.value(below, a, b, was, is)
	}
}

// named turns lists of things with names into objects by them; ok: both are such, or not there.
func named(from, to any) (a, b map[string]any, ok bool) {
	a, ok1 := byName(from)
	b, ok2 := byName(to)
	return a, b, ok1 && ok2 && len(a)+len(b) > 0
}

func byName(list any) (map[string]any, bool) {
	if list == nil {
		return nil, true
	}
	entries, ok := list.([]any)
	if !ok {
		return nil, false
	}
	out := map[string]any{}
	for _, entry := range entries {
		object, _ := entry.(map[string]any)
		name, _ := object["name"].(string)
		if name == "" {
			name, _ = object["public_key"].(string)
		}
		key := "[" + name + "]"
		if _, twice := out[key]; name == "" || twice {
			return nil, false
		}
		out[key] = entry
	}
	return out, true
}

func show(v any) string {
	var out bytes.Buffer
	e := json.NewEncoder(&out)
	e.SetEscapeHTML(false)
	_ = e.Encode(v) // it was JSON
	text := strings.TrimSpace(out.String())
	if len(text) > maxShown {
		text = strings.ToValidUTF8(text[:maxShown], "") + "…"
	}
	return text
}
