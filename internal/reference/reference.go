// Package reference has what the tests compare with of the API descriptions of IncusOS and
// Operations Center.
package reference

import (
	"embed"
	"os"
	"path/filepath"
)

// The API descriptions.
const (
	IncusOS          = "incus-os-rest-api.yaml"
	OperationsCenter = "operations-center-rest-api.yaml"
)

//go:embed *.yaml
var excerpts embed.FS

// Read returns an API description: the whole of it, out of the directory that OPSCENTER_REFERENCE
// names, or else the excerpt.
func Read(name string) ([]byte, error) {
	if dir := os.Getenv("OPSCENTER_REFERENCE"); dir != "" {
		return os.ReadFile(filepath.Join(dir, name))
	}
	return excerpts.ReadFile(name)
}
