package lifecycle

import (
	"fmt"
	"strings"
)

// Status is the state of a server as the control plane sees it. The names are those of Operations Center.
type Status string

const (
	// StatusUnknown: nothing is known, yet.
	StatusUnknown Status = "unknown"
	// StatusUnregistered: announced by the operator, has not registered itself so far.
	StatusUnregistered Status = "unregistered"
	// StatusPending: registered, not reached so far.
	StatusPending Status = "pending"
	// StatusReady: answers, and says that it is ready.
	StatusReady Status = "ready"
	// StatusOffline: does not answer, or went down on purpose.
	StatusOffline Status = "offline"
)

// Statuses lists all statuses.
var Statuses = []Status{StatusUnknown, StatusUnregistered, StatusPending, StatusReady, StatusOffline}

// StatusDetail says more about a status. The names are those of Operations Center.
type StatusDetail string

const (
	DetailNone                StatusDetail = ""
	DetailRegistering         StatusDetail = "registering"          // pending
	DetailReconfiguring       StatusDetail = "re-configuring"       // pending
	DetailUpdating            StatusDetail = "updating"             // ready
	DetailUpdatingApplication StatusDetail = "updating application" // ready
	DetailEvacuating          StatusDetail = "evacuating"           // ready
	DetailRestoring           StatusDetail = "restoring"            // ready
	DetailRebooting           StatusDetail = "rebooting"            // offline
	DetailShutDown            StatusDetail = "shut down"            // offline
	DetailUnresponsive        StatusDetail = "unresponsive"         // offline
)

// StatusDetails lists all details but none.
var StatusDetails = []StatusDetail{DetailRegistering, DetailReconfiguring, DetailUpdating, DetailUpdatingApplication,
	DetailEvacuating, DetailRestoring, DetailRebooting, DetailShutDown, DetailUnresponsive}

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

// MaintenanceState tells whether an Incus server's instances have been moved away. The
// numbers are those of Operations Center's API.
type MaintenanceState int

const (
	NotInMaintenance MaintenanceState = iota
	MaintenanceEvacuating
	MaintenanceEvacuated
	MaintenanceRestoring
)

// String returns the name for people.
func (m MaintenanceState) String() string {
	switch m {
	case MaintenanceEvacuating:
		return "evacuating"
	case MaintenanceEvacuated:
		return "evacuated"
	case MaintenanceRestoring:
		return "restoring"
	}
	return "not in maintenance"
}

// Describe returns a status with its detail, as "offline (rebooting)".
func Describe(status Status, detail StatusDetail) string {
	if detail == DetailNone {
		return string(status)
	}
	return fmt.Sprintf("%s (%s)", status, detail)
}
