// Package reference has what the tests compare with of the API descriptions of IncusOS and
// Operations Center.
package reference

import (
	"embed"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"go.yaml.in/yaml/v3"
)

// The API descriptions.
const (
	IncusOS          = "incus-os-rest-api.yaml"
	OperationsCenter = "operations-center-rest-api.yaml"
)

//go:embed *.yaml
var excerpts embed.FS

// Seed is the seed archive that IncusOS tests its own reader with (Apache-2.0).
//
//go:embed seed.tar
var Seed []byte

// Read returns an API description: the whole of it, out of the directory that OPSCENTER_REFERENCE
// names, or else the excerpt.
func Read(name string) ([]byte, error) {
	if dir := os.Getenv("OPSCENTER_REFERENCE"); dir != "" {
		return os.ReadFile(filepath.Join(dir, name))
	}
	return excerpts.ReadFile(name)
}

type definition struct {
	Properties           map[string]definition `yaml:"properties"`
	Items                *definition           `yaml:"items"`
	AdditionalProperties *definition           `yaml:"additionalProperties"`
	Type                 string                `yaml:"type"`
	Ref                  string                `yaml:"$ref"`
}

// Document returns a document with every field that a definition of an API description has, and those below it: a text is "x", a
// number 7.
func Document(description, name string) (any, error) {
	text, err := Read(description)
	if err != nil {
		return nil, err
	}
	var api struct {
		Definitions map[string]definition `yaml:"definitions"`
	}
	if err := yaml.Unmarshal(text, &api); err != nil {
		return nil, err
	}
	if _, ok := api.Definitions[name]; !ok {
		return nil, fmt.Errorf("there is no definition %s", name)
	}
	var fill func(d definition, depth int) (any, error)
	fill = func(d definition, depth int) (any, error) {
		if name, ok := strings.CutPrefix(d.Ref, "#/definitions/"); ok {
			d = api.Definitions[name]
		}
		switch {
		case depth > 8:
			return nil, nil
		case d.Items != nil:
			one, err := fill(*d.Items, depth+1)
			return []any{one}, err
		case d.AdditionalProperties != nil:
			one, err := fill(*d.AdditionalProperties, depth+1)
			return map[string]any{"one": one}, err
		case len(d.Properties) > 0:
			out := map[string]any{}
			for name, p := range d.Properties {
				value, err := fill(p, depth+1)
				if err != nil {
					return nil, fmt.Errorf("%s: %w", name, err)
				}
				if value != nil {
					out[name] = value
				}
			}
			return out, nil
		case d.Type == "string":
			return "x", nil
		case d.Type == "integer":
			return 7, nil
		case d.Type == "boolean":
			return true, nil
		}
		return nil, fmt.Errorf("%+v is not known", d)
	}
	return fill(api.Definitions[name], 0)
}
