// Package reference has the excerpts of the API descriptions of IncusOS and Operations Center with which tests compare this
// module.
package reference

import (
	"embed"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Names of the API descriptions.
const (
	// IncusOS describes the API of IncusOS.
	IncusOS = "incus-os-rest-api.yaml"
	// OperationsCenter describes the API of Operations Center.
	OperationsCenter = "operations-center-rest-api.yaml"
)

//go:embed *.yaml
var excerpts embed.FS

// Seed is the seed archive with which IncusOS tests its own reader (Apache-2.0).
//
//go:embed seed.tar
var Seed []byte

// Read returns an API description. It reads the complete one from the directory that the environment variable
// OPSCENTER_REFERENCE names. Without the variable it returns the excerpt.
func Read(name string) ([]byte, error) {
	if dir := os.Getenv("OPSCENTER_REFERENCE"); dir != "" {
		return os.ReadFile(filepath.Join(dir, name))
	}
	return excerpts.ReadFile(name)
}

// definition is a schema of an API description.
type definition struct {
	Properties           map[string]definition `yaml:"properties"`
	Items                *definition           `yaml:"items"`
	AdditionalProperties *definition           `yaml:"additionalProperties"`
	Type                 string                `yaml:"type"`
	Ref                  string                `yaml:"$ref"`
}

// Document returns a JSON value with every field of a definition, and of the definitions below it. Strings are "x", numbers 7 and
// booleans true.
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
		return nil, fmt.Errorf("schema %+v is not supported", d)
	}
	return fill(api.Definitions[name], 0)
}
