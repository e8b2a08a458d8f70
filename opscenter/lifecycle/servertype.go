package lifecycle

import "strings"

// ServerType is what a server is for: its primary application.
type ServerType string

const (
	TypeUnknown          ServerType = "unknown"
	TypeIncus            ServerType = "incus"
	TypeMigrationManager ServerType = "migration-manager"
	TypeOperationsCenter ServerType = "operations-center"
)

// ServerTypes lists all types.
var ServerTypes = []ServerType{TypeUnknown, TypeIncus, TypeMigrationManager, TypeOperationsCenter}

// TypeOfApplication returns the type of a server with that primary application. All long-term
// support releases, "incus-lts-…", are Incus.
func TypeOfApplication(name string) ServerType {
	switch {
	case name == string(TypeIncus) || strings.HasPrefix(name, "incus-lts-"):
		return TypeIncus
	case name == string(TypeMigrationManager):
		return TypeMigrationManager
	case name == string(TypeOperationsCenter):
		return TypeOperationsCenter
	}
	return TypeUnknown
}
