package lifecycle

import "strings"

// ServerType is the purpose of a server. Its primary application decides it.
type ServerType string

const (
	TypeUnknown          ServerType = "unknown"
	TypeIncus            ServerType = "incus"
	TypeMigrationManager ServerType = "migration-manager"
	TypeOperationsCenter ServerType = "operations-center"
)

// ServerTypes lists all types.
var ServerTypes = []ServerType{TypeUnknown, TypeIncus, TypeMigrationManager, TypeOperationsCenter}

// TypeOfApplication returns the type of a server with that primary application. The long-term support releases of Incus,
// "incus-lts-…", are of type incus.
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
