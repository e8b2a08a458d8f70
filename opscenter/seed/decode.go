package seed

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/opscenter-go/sdk/internal/truncate"
)

// MaxFileSize is the maximum size of a file that Set and Read accept, in bytes.
const MaxFileSize = 4 << 20

// decode reads a file, as JSON or YAML, into an empty value. It rejects unknown fields.
func decode(name string, data []byte, into any) error {
	fail := func(field, format string, args ...any) error {
		return &ValidationError{[]Problem{{name, field, fmt.Sprintf(format, args...)}}}
	}
	if len(data) > MaxFileSize {
		return fail("", "%d bytes, at most %d are allowed", len(data), MaxFileSize)
	}
	if !json.Valid(data) {
		var err error
		if data, err = fromYAML(data); err != nil {
			return fail("", "it is neither JSON nor YAML: %s", err)
		}
	}
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.UseNumber()
	var all any
	if err := decoder.Decode(&all); err != nil {
		return fail("", "it can't be read: %s", err)
	}
	if all == nil {
		return nil // an empty file has all defaults
	}
	if problems := unknown(name, all, reflect.TypeOf(into), "", nil); len(problems) > 0 {
		return &ValidationError{problems}
	}
	if err := json.Unmarshal(data, into); err != nil {
		var mismatch *json.UnmarshalTypeError
		if errors.As(err, &mismatch) { // its text may repeat a secret
			return fail(mismatch.Field, "it must be %s, not %s", typeName(mismatch.Type), mismatch.Value)
		}
		return fail("", "%s", err)
	}
	return nil
}

// typeName names a type for people.
func typeName(t reflect.Type) string {
	switch t.Kind() {
	case reflect.String:
		return "a text"
	case reflect.Bool:
		return "true or false"
	case reflect.Slice:
		return "a list"
	case reflect.Map, reflect.Struct, reflect.Pointer:
		return "an object"
	}
	return "a number"
}

// fromYAML turns YAML into JSON. A scalar that YAML reads as a time stays text.
func fromYAML(data []byte) ([]byte, error) {
	decoder := yaml.NewDecoder(bytes.NewReader(data))
	var document yaml.Node
	if err := decoder.Decode(&document); err != nil {
		if len(bytes.TrimSpace(data)) == 0 || document.IsZero() && err.Error() == "EOF" {
			return []byte("null"), nil
		}
		return nil, errors.New(strings.TrimPrefix(err.Error(), "yaml: "))
	}
	keepTimestamps(&document)
	var value any
	if err := document.Decode(&value); err != nil {
		return nil, errors.New(strings.TrimPrefix(err.Error(), "yaml: "))
	}
	return json.Marshal(value)
}

// keepTimestamps marks the timestamps of a document as strings.
func keepTimestamps(node *yaml.Node) {
	if node.Kind == yaml.ScalarNode && node.ShortTag() == "!!timestamp" {
		node.Tag = "!!str"
	}
	for _, below := range node.Content { // aliases are not followed
		keepTimestamps(below)
	}
}

// hints correct common mistakes, by file and field.
var hints = map[string]string{
	FileNetwork + " ntp":                              "NTP servers are time.ntp_servers",
	FileNetwork + " hostname":                         "the name of the server is dns.hostname",
	FileNetwork + " config":                           "the fields of the configuration are at the top",
	FileInstall + " target_disk":                      "the disk is target.id",
	FileSecurity + " encryption_recovery_key":         "a server makes its own",
	FileUpdate + " update_channel":                    "it is channel",
	FileOperationsCenter + " applications":            "applications are a file of their own",
	FileProvider + " " + ConfigServerURL:              "it is config." + ConfigServerURL,
	FileProvider + " " + ConfigServerToken:            "it is config." + ConfigServerToken,
	FileProvider + " token":                           "it is config." + ConfigServerToken,
	FileIncus + " cluster":                            "the control plane forms clusters",
	FileIncus + " storage_pools":                      "it is preseed.storage_pools",
	FileIncus + " networks":                           "it is preseed.networks",
	FileIncus + " profiles":                           "it is preseed.profiles",
	FileIncus + " config":                             "it is preseed.config",
	FileIncus + " certificates":                       "it is preseed.certificates",
	FileApplications + " " + FileApplications + "[0]": "each application is an object with a name",
}

// unknown returns out with a problem for each member of value that type t lacks.
func unknown(file string, value any, t reflect.Type, field string, out []Problem) []Problem {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch value := value.(type) {
	case map[string]any:
		switch t.Kind() {
		case reflect.Struct:
			known := map[string]reflect.Type{}
			members(t, known)
			for name, member := range sorted(value) {
				below, ok := known[name]
				if !ok {
					below, ok = known[untagged+strings.ToLower(name)]
				}
				if ok {
					out = unknown(file, member, below, join(field, name), out)
					continue
				}
				message := "there is no such field"
				if hint := hints[file+" "+join(field, name)]; hint != "" {
					message += ": " + hint
				}
				out = append(out, Problem{file, join(field, truncate.Name(name)), message})
			}
		case reflect.Map:
			for name, member := range sorted(value) {
				out = unknown(file, member, t.Elem(), join(field, name), out)
			}
		}
	case []any:
		if t.Kind() == reflect.Slice {
			for i := range value {
				out = unknown(file, value[i], t.Elem(), fmt.Sprintf("%s[%d]", field, i), out)
			}
		}
	}
	return out
}

// untagged is the prefix, in the result of members, of a field without a tag. JSON matches such a field in any case.
const untagged = "\x00"

// members adds the fields of a struct to out, by their names in JSON.
func members(t reflect.Type, out map[string]reflect.Type) {
	for i := range t.NumField() {
		f := t.Field(i)
		name, tagged := nameOf(f)
		switch {
		case f.Anonymous && !tagged && f.Type.Kind() == reflect.Struct:
			members(f.Type, out)
		case !f.IsExported() || name == "-":
		case tagged:
			out[name] = f.Type
		case f.Name == "Version": // Network.UnmarshalJSON reads it
			out["version"] = f.Type
		default:
			out[untagged+strings.ToLower(name)] = f.Type
		}
	}
}
