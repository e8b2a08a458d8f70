package lifecycle

import "fmt"

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

// Describe returns a status with its detail, as "offline (rebooting)".
func Describe(status Status, detail StatusDetail) string {
	if detail == DetailNone {
		return string(status)
	}
	return fmt.Sprintf("%s (%s)", status, detail)
}
