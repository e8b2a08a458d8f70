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

// Difference is a difference between two configurations in one field.
type Difference struct {
	// Field is a path with names of devices instead of indexes, such as interfaces[mgmt].addresses.
	Field string `json:"field"`
	// From and To are the values as JSON, of up to 500 bytes, with hidden secrets. Empty: the field is absent.
	From string `json:"from,omitempty"`
	To   string `json:"to,omitempty"`
}

// String returns the difference in one line. It begins with + for a new field, - for a removed one, and ~ for a changed one.
func (d Difference) String() string {
	switch {
	case d.From == "":
		return "+ " + d.Field + ": " + d.To
	case d.To == "":
		return "- " + d.Field + ": " + d.From
	}
	return "~ " + d.Field + ": " + d.From + " → " + d.To
}

// maxShown is the maximum length of a value in a Difference, in bytes.
const maxShown = 500

// Diff returns the differences between two configurations, sorted by Field, including unknown members. It compares entries of
// lists by their names, if they have names. Errors: a configuration that can't be encoded as JSON.
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

// Unmet returns the fields of changes in which the configuration have still differs from wanted. It ignores secrets, and
// fields that a server fills in itself, such as the MAC address of an interface that was given by name. Errors: a
// configuration that can't be encoded as JSON.
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
			continue // without rules, the server adds one for all destinations
		}
		if slices.ContainsFunc(changes, func(c Difference) bool { return within(left.Field, c.Field) || within(c.Field, left.Field) }) {
			out = append(out, left.Field)
		}
	}
	return out, nil
}

// filledIn are suffixes of the fields that IncusOS fills in or generates.
var filledIn = []string{".hwaddr", ".members", "time.timezone", ".private_key"}

// within reports whether field equals other or is a part of it.
func within(field, other string) bool {
	rest, ok := strings.CutPrefix(field, other)
	return ok && (rest == "" || rest[0] == '.' || rest[0] == '[')
}

// hiddenSecret is a secret that was hidden in a configuration.
type hiddenSecret struct {
	field string
	value Secret
}

// plainOf returns a configuration as decoded JSON with hidden secrets, and the secrets by their paths.
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
	return out, secrets, wrapError(d.Decode(&out))
}

// wrapError adds the context to an error; nil stays nil.
func wrapError(err error) error {
	if err != nil {
		return fmt.Errorf("network configuration: %w", err)
	}
	return nil
}

// differ collects the differences of two decoded configurations.
type differ struct{ out []Difference }

// values compares two values of a field. was and is tell whether the field is present in from and to.
func (d *differ) values(field string, from, to any, was, is bool) {
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
	// IncusOS omits empty values in its answers, so an empty value counts as absent.
	was, is = was && !isEmpty(from), is && !isEmpty(to)
	if !was && !is {
		return
	}
	if x, y, ok := objectsByName(from, to); ok {
		d.objects(field, x, y)
		return
	}
	out := Difference{Field: field}
	if was {
		out.From = toJSON(from)
	}
	if is {
		out.To = toJSON(to)
	}
	d.out = append(d.out, out)
}

// isEmpty reports whether a value is empty, including objects with only empty members.
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

// objects compares two objects, member by member.
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
		d.values(below, a, b, was, is)
	}
}

// objectsByName turns two lists of named entries into objects by name. ok reports whether both are such lists or absent, and one
// has entries.
func objectsByName(from, to any) (a, b map[string]any, ok bool) {
	a, ok1 := byName(from)
	b, ok2 := byName(to)
	return a, b, ok1 && ok2 && len(a)+len(b) > 0
}

// byName turns a list of named entries into an object with keys of the form [NAME].
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

// toJSON returns a value as JSON, shortened to maxShown bytes.
func toJSON(v any) string {
	var out bytes.Buffer
	e := json.NewEncoder(&out)
	e.SetEscapeHTML(false)
	_ = e.Encode(v) // v was decoded from JSON
	text := strings.TrimSpace(out.String())
	if len(text) > maxShown {
		text = strings.ToValidUTF8(text[:maxShown], "") + "…"
	}
	return text
}
