package httpapi

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/opscenter-go/sdk/internal/jsonkeep"
	"github.com/opscenter-go/sdk/internal/truncate"
	"github.com/opscenter-go/sdk/opscenter"
)

// A field that an operator sends is either carried out or refused by name. Otherwise a field with a typing error would keep its old
// value in silence, and an ignored limit would be none. Servers' bodies are read by decodeLenient: newer releases send more fields.

// fields lists the fields that a body may hold beside the decoded ones.
type fields struct {
	// shown are those that GET shows. They are passed over, because an edit sends back the document that it got.
	shown []string
	// notDone are fields of Operations Center that have no effect here. They are refused by name, unless they are empty, as its
	// client sends them.
	notDone []string
}

// decode reads an operator's JSON object. It refuses an unknown field by its name.
func decode(r *http.Request, into any, also ...fields) error {
	data, err := readBody(r)
	if err != nil {
		return err
	}
	return decodeStrict(data, into, "", also...)
}

// decodeStrict is decode for a part of a body. where is the path of that part in errors.
func decodeStrict(data []byte, into any, where string, also ...fields) error {
	if err := decodeObject(data, into); err != nil {
		return err
	}
	var allowed fields
	for _, f := range also {
		allowed.shown, allowed.notDone = append(allowed.shown, f.shown...), append(allowed.notDone, f.notDone...)
	}
	return unknownFields(data, reflect.TypeOf(into).Elem(), where, allowed)
}

var (
	restType     = reflect.TypeFor[jsonkeep.Rest]()
	rawType      = reflect.TypeFor[json.RawMessage]()
	timeType     = reflect.TypeFor[time.Time]()
	configType   = reflect.TypeFor[configMap]()
	durationType = reflect.TypeFor[duration]()
)

// unknownFields refuses fields of a document that a type does not have, at any depth. A type that keeps unknown fields, as
// configurations of servers do, has all fields.
func unknownFields(data []byte, of reflect.Type, where string, also fields) error {
	for of.Kind() == reflect.Pointer {
		of = of.Elem()
	}
	switch {
	case of == rawType, of == timeType, of == configType, of == durationType, bytes.Equal(bytes.TrimSpace(data), []byte("null")):
		return nil
	case of.Kind() == reflect.Slice:
		var list []json.RawMessage
		if json.Unmarshal(data, &list) != nil {
			return nil // decodeObject refuses it
		}
		for i, one := range list {
			if err := unknownFields(one, of.Elem(), fmt.Sprintf("%s[%d]", where, i), fields{}); err != nil {
				return err
			}
		}
		return nil
	case of.Kind() == reflect.Map:
		var object map[string]json.RawMessage
		if json.Unmarshal(data, &object) != nil {
			return nil
		}
		for _, name := range slices.Sorted(maps.Keys(object)) {
			if err := unknownFields(object[name], of.Elem(), join(where, name), fields{}); err != nil {
				return err
			}
		}
		return nil
	case of.Kind() != reflect.Struct:
		return nil
	}
	known := map[string]reflect.Type{}
	if !fieldsOf(of, known) {
		return nil
	}
	var object map[string]json.RawMessage
	if json.Unmarshal(data, &object) != nil {
		return nil
	}
	for _, name := range slices.Sorted(maps.Keys(object)) {
		folded := strings.ToLower(name) // as encoding/json does
		if field, ok := known[folded]; ok {
			if err := unknownFields(object[name], field, join(where, name), fields{}); err != nil {
				return err
			}
			continue
		}
		switch {
		case slices.Contains(also.shown, folded):
		case slices.Contains(also.notDone, folded) && isEmpty(object[name]):
		case slices.Contains(also.notDone, folded):
			return fmt.Errorf("%w: field %s: that is not done here", errBody, join(where, name))
		default:
			return fmt.Errorf("%w: field %s is not known", errBody, join(where, name))
		}
	}
	return nil
}

func join(where, name string) string { return strings.TrimPrefix(where+"."+truncate.Name(name), ".") }

// fieldsOf collects the types of the fields of a struct, by their names in JSON in small letters. false: the struct keeps unknown
// fields.
func fieldsOf(of reflect.Type, into map[string]reflect.Type) bool {
	for i := range of.NumField() {
		f := of.Field(i)
		if f.Type == restType {
			return false
		}
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case name == "-" || !f.IsExported() && !f.Anonymous:
		case f.Anonymous && name == "":
			if !fieldsOf(f.Type, into) {
				return false
			}
		case name == "":
			into[strings.ToLower(f.Name)] = f.Type
		default:
			into[strings.ToLower(name)] = f.Type
		}
	}
	return true
}

// shownBy lists the fields of the document T that GET shows.
func shownBy[T any]() fields {
	known := map[string]reflect.Type{}
	fieldsOf(reflect.TypeFor[T](), known)
	return fields{shown: slices.Sorted(maps.Keys(known))}
}

// unchanged are fields that GET shows and PUT does not change. An edit may send them back as they are.
type unchanged struct {
	Name        string `json:"name"`
	Certificate string `json:"certificate"`
	Fingerprint string `json:"fingerprint"`
	Served      string `json:"served_fingerprint"`
	Cluster     string `json:"cluster"`
	MemberName  string `json:"member_name"`
	SystemUUID  string `json:"system_uuid"`
	MachineID   string `json:"machine_id"`
}

func unchangedOf(info *opscenter.ServerInfo) unchanged {
	return unchanged{Name: info.Name, Certificate: info.Certificate, Fingerprint: info.Fingerprint, Served: info.ServedFingerprint, Cluster: info.Cluster,
		MemberName: info.State.MemberName, SystemUUID: info.SystemUUID, MachineID: info.MachineID}
}

// check refuses fields that differ from the shown ones. Empty fields are passed over.
func (u unchanged) check(shown unchanged) error {
	if u.Name != "" && u.Name != shown.Name {
		return fmt.Errorf("%w: field name can't be changed so: POST renames", errBody)
	}
	for _, field := range []struct{ name, sent, shown, how string }{
		{"certificate", u.Certificate, shown.Certificate, ":accept-certificate accepts another one"},
		{"fingerprint", u.Fingerprint, shown.Fingerprint, ":accept-certificate accepts another one"},
		{"served_fingerprint", u.Served, shown.Served, ":accept-certificate accepts another one"},
		{"member_name", u.MemberName, shown.MemberName, "the server says it"},
		{"cluster", u.Cluster, shown.Cluster, "the cluster's :add-servers and :remove-servers change it"},
		{"system_uuid", u.SystemUUID, shown.SystemUUID, "the server says it"},
		{"machine_id", u.MachineID, shown.MachineID, "the server says it"},
	} {
		if field.sent != "" && !strings.EqualFold(strings.TrimSpace(field.sent), strings.TrimSpace(field.shown)) {
			return fmt.Errorf("%w: field %s can't be changed so: %s", errBody, field.name, field.how)
		}
	}
	return nil
}

// sameUUID refuses another UUID than that of the path. An empty one is passed over.
func sameUUID(r *http.Request, sent string) error {
	if sent != "" && !strings.EqualFold(sent, r.PathValue("uuid")) {
		return fmt.Errorf("%w: field uuid can't be changed", errBody)
	}
	return nil
}

// isEmpty reports whether a value is empty, as in a field that a client does not use.
func isEmpty(data json.RawMessage) bool {
	var value any
	if json.Unmarshal(data, &value) != nil {
		return false
	}
	return says(value) == nil
}

// says returns a value, or nil if all of it is empty.
func says(value any) any {
	switch v := value.(type) {
	case string:
		if v == "" || v == "0s" || v == "0001-01-01T00:00:00Z" {
			return nil
		}
	case bool:
		if !v {
			return nil
		}
	case float64:
		if v == 0 {
			return nil
		}
	case []any:
		if len(v) == 0 {
			return nil
		}
	case map[string]any:
		for _, member := range v {
			if says(member) != nil {
				return v
			}
		}
		return nil
	}
	return value
}

// duration is a Go duration, as 15m. It also reads a number of nanoseconds, as older clients send it.
type duration time.Duration

func (d *duration) UnmarshalJSON(data []byte) error {
	var n int64
	if json.Unmarshal(data, &n) == nil {
		*d = duration(n)
		return nil
	}
	var text string
	if err := json.Unmarshal(data, &text); err != nil {
		return err
	}
	if text == "" {
		*d = 0
		return nil
	}
	parsed, err := time.ParseDuration(text)
	if err != nil {
		return fmt.Errorf("%.40q is no duration as 15m", text)
	}
	*d = duration(parsed)
	return nil
}

func (d duration) MarshalJSON() ([]byte, error) { return json.Marshal(time.Duration(d).String()) }

func readBody(r *http.Request) ([]byte, error) {
	data, err := io.ReadAll(r.Body)
	return data, bodyError(err)
}
