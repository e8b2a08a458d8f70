package httpapi

import (
	"encoding"
	"encoding/json"
	"fmt"
	"net/http"
	"reflect"
	"strings"

	"github.com/google/jsonschema-go/jsonschema"
)

// The description of the API (OpenAPI 3.1) is made of the table of routes and of the types of documents, so that it can't differ from
// them. The tests hold each answer against it.

// parameters describes the parameters of all routes, by name.
var parameters = map[string]struct{ kind, text string }{
	"accept-risk":          {"boolean", "change the network although the release can't undo the change by itself"},
	"action":               {"string", "only entries with this action"},
	"after":                {"integer", "only what comes behind this sequence number"},
	"allow-unmanaged":      {"boolean", "allow a configuration without an interface for management"},
	"architecture":         {"string", "x86_64 (default) or aarch64"},
	"by":                   {"string", "only entries of this principal"},
	"channel":              {"string", "only of this channel"},
	"cluster":              {"string", "only of this cluster"},
	"compressed":           {"boolean", "pack the image with gzip"},
	"confirmation-timeout": {"string", "a Go duration as 5m, after which an unconfirmed change undoes itself"},
	"cursor":               {"string", "next_cursor of the page before"},
	"dry-run":              {"boolean", "show the consequence, and change nothing"},
	"facts":                {"boolean", "false: without hardware_data and os_data"},
	"filter":               {"string", "an expression, as name matches \"web\""},
	"fingerprint":          {"string", "only servers with this certificate"},
	"force":                {"boolean", "leave out checks that otherwise refuse the request"},
	"in_maintenance":       {"boolean", "only servers in maintenance, or only others"},
	"kind":                 {"string", "only objects of this kind"},
	"limit":                {"integer", "the most entries of the page; default: all"},
	"mode":                 {"string", "finish (default), stop or restore; of DELETE: normal (default) or force"},
	"name":                 {"string", "only objects of this name"},
	"needs_reboot":         {"boolean", "only servers that need a reboot, or only others"},
	"needs_update":         {"boolean", "only servers that need an update, or only others"},
	"origin":               {"string", "only of this origin"},
	"outcome":              {"string", "only entries with this outcome"},
	"parent":               {"string", "only objects of this parent"},
	"parent_include_null":  {"boolean", "also objects without a parent"},
	"project":              {"string", "only objects in this project"},
	"project_include_null": {"boolean", "also objects in no project"},
	"recursion":            {"integer", "1: whole objects instead of their paths"},
	"search":               {"string", "only objects with this text in their name or description"},
	"server":               {"string", "only of this server"},
	"server_include_null":  {"boolean", "also objects of no server"},
	"since":                {"string", "of the audit log: a time; of a changelog: the UUID of an older update"},
	"status":               {"string", "only with this status"},
	"status_detail":        {"string", "only with this detail of the status"},
	"token":                {"string", "the token with which the server registers again; default: a new one"},
	"tokenSeedName":        {"string", "the seed of the token for the server"},
	"type":                 {"string", "only of this type; of a seed: iso or raw"},
	"until":                {"string", "only entries before this time"},
	"upstream":             {"boolean", "the channel is the publisher's"},
	"wait":                 {"boolean", "answer at the end of the refresh"},
}

// object is a JSON object of the description.
type object = map[string]any

// documents are the schemas of the description, by the names of types.
type documents struct {
	options *jsonschema.ForOptions
	schemas object
	types   map[string]reflect.Type
	answers map[reflect.Type]bool // the types of answers
}

// anything is a schema that each value satisfies.
func anything() *jsonschema.Schema { return &jsonschema.Schema{} }

func newDocuments(rows []*route) *documents {
	d := &documents{schemas: object{}, types: map[string]reflect.Type{}, answers: map[reflect.Type]bool{}, options: &jsonschema.ForOptions{TypeSchemas: map[reflect.Type]*jsonschema.Schema{
		rawType:      anything(),
		durationType: {Type: "string"},
		configType:   {Types: []string{"null", "object"}, AdditionalProperties: &jsonschema.Schema{Type: "string"}},
	}}}
	// A configuration of a server keeps fields that this version does not know.
	seen := map[reflect.Type]bool{}
	for _, rt := range rows {
		d.answers[rt.answer] = true
		for _, t := range []reflect.Type{rt.body, rt.answer} {
			if t != nil {
				d.collectOpen(t, seen)
			}
		}
	}
	return d
}

// collectOpen finds the types whose form their fields do not tell, at any depth of a type: structs that keep unknown fields are objects
// with any fields, and types that encode themselves have the form of their zero value.
func (d *documents) collectOpen(t reflect.Type, seen map[reflect.Type]bool) {
	if seen[t] || d.options.TypeSchemas[t] != nil {
		return
	}
	seen[t] = true
	if t.Kind() != reflect.Pointer && t != timeType && !keepsUnknown(t) && (t.Implements(typeOf[json.Marshaler]()) || t.Implements(typeOf[encoding.TextMarshaler]())) {
		d.options.TypeSchemas[t] = anything()
		if data, err := json.Marshal(reflect.Zero(t).Interface()); err == nil && data[0] == '"' {
			d.options.TypeSchemas[t] = &jsonschema.Schema{Type: "string"}
		}
		return
	}
	switch t.Kind() {
	case reflect.Pointer, reflect.Slice, reflect.Array, reflect.Map:
		d.collectOpen(t.Elem(), seen)
	case reflect.Struct:
		if keepsUnknown(t) {
			d.options.TypeSchemas[t] = &jsonschema.Schema{Type: "object"}
			return
		}
		for i := range t.NumField() {
			d.collectOpen(t.Field(i).Type, seen)
		}
	}
}

// keepsUnknown reports whether a struct keeps fields that this version does not know.
func keepsUnknown(t reflect.Type) bool {
	return t.Kind() == reflect.Struct && !fieldsOf(t, map[string]reflect.Type{})
}

// ref returns a reference to the schema of a type, which it adds. sent: it is of a request, whose fields may be left out, and which may
// hold fields that are only shown.
func (d *documents) ref(t reflect.Type, sent bool) (object, error) {
	switch t.Kind() {
	case reflect.Interface:
		return object{}, nil
	case reflect.String:
		return object{"type": "string"}, nil
	case reflect.Pointer: // or none
		one, err := d.ref(t.Elem(), sent)
		return object{"anyOf": []object{one, {"type": "null"}}}, err
	}
	name := schemaName(t)
	if sent && d.answers[t] { // with fields that may be left out in the request alone
		name += "Request"
	}
	if known, ok := d.types[name]; ok && known != t {
		return nil, fmt.Errorf("%s and %s have one name in the description", known, t)
	}
	d.types[name] = t
	if d.schemas[name] == nil {
		schema, err := jsonschema.ForType(t, d.options)
		if err != nil {
			return nil, err
		}
		adjust(schema, sent)
		d.schemas[name] = schema
	}
	return object{"$ref": "#/components/schemas/" + name}, nil
}

// schemaName returns the name of a type in the description, as ServerEdit, or AuditEntry for one of another package.
func schemaName(t reflect.Type) string {
	if t.PkgPath() != typeOf[route]().PkgPath() {
		path := strings.Split(t.PkgPath(), "/")
		of := path[len(path)-1]
		return strings.ToUpper(of[:1]) + of[1:] + ownName(t)
	}
	return ownName(t)
}

func ownName(t reflect.Type) string {
	name, parameter, generic := strings.Cut(t.Name(), "[")
	if generic { // of a configuration: Settings[…/system.KernelConfig]
		name = strings.TrimSuffix(parameter[strings.LastIndex(parameter, ".")+1:], "]") + strings.ToUpper(name[:1]) + name[1:]
	}
	return strings.ToUpper(name[:1]) + name[1:]
}

// adjust completes a schema: a map may be null. Fields of a request may be left out, and it may hold others, which are only shown.
func adjust(s *jsonschema.Schema, sent bool) {
	if s == nil {
		return
	}
	if s.Type == "object" && s.Properties == nil && s.AdditionalProperties != nil {
		s.Type, s.Types = "", []string{"null", "object"}
		adjust(s.AdditionalProperties, sent)
	} else if sent {
		s.Required, s.AdditionalProperties = nil, nil
	}
	for _, property := range s.Properties {
		adjust(property, sent)
	}
	adjust(s.Items, sent)
}

// describe returns the description of the API as JSON.
func describe(rows []*route, version string) ([]byte, error) {
	d := newDocuments(rows)
	paths := map[string]object{}
	for _, rt := range rows {
		methods := []string{rt.method()}
		if rt.method() == rt.pattern { // for all methods
			methods = forwardedMethods
		}
		path := strings.NewReplacer("{$}", "", "...}", "}").Replace(rt.path())
		if path == "/1.0/" { // the same as /1.0
			continue
		}
		if paths[path] == nil {
			paths[path] = object{}
		}
		for _, method := range methods {
			operation, err := d.operation(rt, method)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", rt.pattern, err)
			}
			if before, ok := paths[path][strings.ToLower(method)].(object); ok { // a registration and an announcement
				before["summary"] = fmt.Sprint(before["summary"], "; without a token: ", operation["summary"])
				before["security"] = append(before["security"].([]object), operation["security"].([]object)...)
				before["parameters"] = append(before["parameters"].([]object), queryParameter("token", "string", "the token of a server that registers", false))
				continue
			}
			paths[path][strings.ToLower(method)] = operation
		}
	}
	d.schemas["Error"] = object{"type": "object", "required": []string{"type", "error_code", "error"}, "properties": object{
		"type": object{"const": "error"}, "error_code": object{"type": "integer"}, "error": object{"type": "string"}, "metadata": object{"type": "null"}}}
	return json.Marshal(object{
		"openapi": "3.1.0",
		"info":    object{"title": "opscenter", "version": version, "description": "The control plane of a fleet of IncusOS servers, in the shapes of Operations Center."},
		"paths":   paths,
		"components": object{"schemas": d.schemas, "securitySchemes": object{
			"certificate": object{"type": "mutualTLS"},
			"bearer":      object{"type": "http", "scheme": "bearer"},
		}},
	})
}

// operation describes one method of a route.
func (d *documents) operation(rt *route, method string) (object, error) {
	out := object{"summary": rt.summary, "operationId": operationID(rt, method), "parameters": pathParameters(rt.path())}
	security := []object{{"certificate": []string{}}, {"bearer": []string{}}}
	switch rt.clients {
	case "any":
		security = []object{}
	case "token", "server":
		security = security[:1]
	}
	out["security"] = security
	if role := rt.needs(method); role != "" {
		out["x-opscenter-role"] = role
	}
	for name := range strings.FieldsSeq(rt.query) {
		name, repeated := strings.CutSuffix(name, "*")
		p, ok := parameters[name]
		if !ok {
			return nil, fmt.Errorf("parameter %s is not described", name)
		}
		out["parameters"] = append(out["parameters"].([]object), queryParameter(name, p.kind, p.text, repeated))
	}
	if rt.body != nil {
		media, schema := "application/x-tar", object{}
		if rt.body != typeOf[archive]() {
			media = "application/json"
			var err error
			if schema, err = d.ref(rt.body, true); err != nil {
				return nil, err
			}
		}
		out["requestBody"] = object{"required": !rt.optional, "content": object{media: object{"schema": schema}}}
	}
	answer, err := d.answer(rt)
	if err != nil {
		return nil, err
	}
	status := "200"
	if rt.created {
		status = "201"
	}
	responses := object{status: answer, "default": object{"description": "the request was refused, or failed", "content": object{
		"application/json": object{"schema": object{"$ref": "#/components/schemas/Error"}}}}}
	if showing, _ := rt.takes("dry-run"); rt.created && showing {
		responses["200"] = answer // what would be made
	}
	out["responses"] = responses
	return out, nil
}

// answer describes a successful answer.
func (d *documents) answer(rt *route) (object, error) {
	metadata := object{"type": "null"}
	if rt.answer != nil {
		ref, err := d.ref(rt.answer, false)
		if err != nil {
			return nil, err
		}
		metadata = ref
	}
	switch {
	case rt.media != "" && rt.answer == nil: // a file
		return object{"description": "the file", "content": object{rt.media: object{}}}, nil
	case rt.media != "":
		return object{"description": "the answer", "content": object{rt.media: object{"schema": metadata}}}, nil
	case rt.raw && rt.pattern == forwardPattern:
		return object{"description": "the server's answer"}, nil
	case rt.list && rt.paths:
		metadata = object{"type": "array", "items": object{"anyOf": []object{{"type": "string"}, metadata}}}
	case rt.list:
		metadata = object{"type": "array", "items": metadata}
	}
	return object{"description": "the answer", "content": object{"application/json": object{"schema": object{"type": "object", "required": []string{"type", "status", "status_code", "metadata"},
		"properties": object{"type": object{"const": "sync"}, "status": object{"const": "Success"}, "status_code": object{"const": 200}, "operation": object{"const": ""},
			"error_code": object{"const": 0}, "error": object{"const": ""}, "metadata": metadata, "next_cursor": object{"type": "string"}},
		"additionalProperties": false}}}}, nil
}

// operationID names an operation, as getProvisioningServersName.
func operationID(rt *route, method string) string {
	words := strings.FieldsFunc(strings.TrimPrefix(rt.path(), "/1.0"), func(r rune) bool { return strings.ContainsRune("/{}:-_.$", r) })
	for i, word := range words {
		words[i] = strings.ToUpper(word[:1]) + word[1:]
	}
	if len(words) == 0 {
		words = []string{map[bool]string{true: "Root", false: "Server"}[rt.path() == "/{$}"]}
	}
	return strings.ToLower(method) + strings.Join(words, "")
}

func pathParameters(path string) []object {
	out := []object{}
	for _, segment := range strings.Split(path, "/") {
		if name, ok := strings.CutPrefix(segment, "{"); ok && name != "$}" {
			out = append(out, object{"name": strings.TrimRight(name, ".}"), "in": "path", "required": true, "schema": object{"type": "string"}})
		}
	}
	return out
}

func queryParameter(name, kind, text string, repeated bool) object {
	schema := object{"type": kind}
	if repeated {
		schema = object{"type": "array", "items": schema}
	}
	return object{"name": name, "in": "query", "description": text, "schema": schema}
}

// getDescription answers with the description of the API.
func (h *Handler) getDescription(w http.ResponseWriter, _ *http.Request) {
	sendEncoded(w, h.description)
}
