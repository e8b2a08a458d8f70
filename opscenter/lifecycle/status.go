package lifecycle

import "fmt"

// Status is the status of a server as the control plane sees it. The names are those of Operations Center. The package
// comment shows how it changes.
type Status string

const (
	// StatusUnknown: nothing is known about the server yet. No function of this package leads to it.
	StatusUnknown Status = "unknown"
	// StatusUnregistered: an operator pre-registered the server, and it has not registered itself yet.
	StatusUnregistered Status = "unregistered"
	// StatusPending: the server has registered, but no poll has reached it yet; or its configuration is being changed.
	StatusPending Status = "pending"
	// StatusReady: the server answers, and says that it is ready.
	StatusReady Status = "ready"
	// StatusOffline: the server does not answer, or it went down on purpose.
	StatusOffline Status = "offline"
)

// Statuses lists all statuses.
var Statuses = []Status{StatusUnknown, StatusUnregistered, StatusPending, StatusReady, StatusOffline}

// StatusDetail tells more about a status. The names are those of Operations Center.
type StatusDetail string

// The details, and the status they belong to. A server that an action took down is ready (rebooting) or ready (shut down)
// for a moment, if it answers again before the call that carries out the action returns.
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

// StatusDetails lists all details but DetailNone.
var StatusDetails = []StatusDetail{DetailRegistering, DetailReconfiguring, DetailUpdating, DetailUpdatingApplication,
	DetailEvacuating, DetailRestoring, DetailRebooting, DetailShutDown, DetailUnresponsive}

// Describe returns a status with its detail, as "offline (rebooting)".
func Describe(status Status, detail StatusDetail) string {
	if detail == DetailNone {
		return string(status)
	}
	return fmt.Sprintf("%s (%s)", status, detail)
}
