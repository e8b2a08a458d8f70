package opscenter

import (
	"strings"
	"time"
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

// ServerState is how a server is, as polls and self updates tell.
type ServerState struct {
	Name string // the server's
	ID   string // the server's

	Status       Status
	StatusDetail StatusDetail
	// StatusReason says why the status is what it is.
	StatusReason string
	StatusSince  time.Time

	Type        ServerType
	Versions    Versions
	Maintenance MaintenanceState
	// MemberName is the server's name in its Incus cluster; empty if it is in none.
	MemberName string
	// MemberRoles are its roles there, as Incus names them: database, database-leader,
	// database-standby and others.
	MemberRoles []string
	// Architecture of its processor, x86_64 or aarch64, as its hardware facts tell; empty: not known.
	Architecture string `json:",omitempty"`
	// SystemStateTrusted is IncusOS's own word on its secure boot state.
	SystemStateTrusted bool
	// Update is how it updates itself; nil: that was never read, or it is not on IncusOS.
	Update *UpdateSettings
	// UpdateStatus is what its last check for updates came to; nil: that was never read.
	UpdateStatus *UpdateStatus `json:",omitempty"`

	// KeyWaits: a Secure Boot key was applied, and waits for a reboot; the server's updates go on after that.
	KeyWaits bool `json:",omitempty"`
	// BootedAt is when the server last booted, as it said when that was first seen; zero: not known.
	BootedAt time.Time
	// LastSeen as last flushed; the Registry knows better, see ServerInfo.LastSeen.
	LastSeen time.Time
	// LastUpdated is when anything but LastSeen changed.
	LastUpdated time.Time
	// Unproven: it is not certain that the server itself answers at its address. It was said to have moved, another
	// machine answered, or a poll accepted its cluster's certificate. Cleared when a poll reaches the server.
	Unproven bool `json:",omitempty"`
	// PollRequested is the time for which a poll out of turn was last requested. It may lie ahead, by at most
	// Options.SelfUpdateInterval.
	PollRequested time.Time
	// NotBefore is when something was learned that is newer than any poll begun before.
	NotBefore time.Time
	// Announced is set while a server is down on purpose.
	Announced *Announcement
	// Operation is set while an action is under way, LastOperation is how the last one ended.
	Operation     *Operation
	LastOperation *Outcome
	// Took is how long the last successful action of each kind took.
	Took map[Action]time.Duration
	// Stopped are the instances that the evacuation of a standalone Incus server stopped: they
	// are started again when it is restored.
	Stopped *Stopped
	// FactsHash is the hash of the stored facts, without what changes all the time.
	FactsHash string
	// Presented is the fingerprint of the certificate the server presented last, whether that
	// was accepted or not.
	Presented string
	// Outages are the times at which the server became unresponsive, the last ones, within
	// Options.FlapWindow.
	Outages []time.Time
	// FlappingSince is set while the server goes up and down, and is held offline for that.
	FlappingSince time.Time
}

// Announcement tells that a server goes down, or is sent down, on purpose.
type Announcement struct {
	At time.Time
	// Deadline by which it should be back; zero: none.
	Deadline time.Time
	// WentDown is set once a poll failed since.
	WentDown bool
	// Unasked: the server said so by itself, and not because an action of ours made it. Then a poll
	// that finds it ready makes it ready; Answered is when. Should it go down after all, it is shut down.
	Unasked  bool      `json:",omitempty"`
	Answered time.Time `json:",omitzero"`
}

// Failure tells why a poll did not reach a server.
type Failure struct {
	// Kind is one of the Failure constants.
	Kind    string
	Message string
}

// Kinds of Failure.
const (
	FailureConnect     = "connect"     // no connection: refused, no route, timed out
	FailureTimeout     = "timeout"     // connected, no answer within the deadline
	FailureCertificate = "certificate" // answers with another certificate than the one registered
	FailureUntrusted   = "untrusted"   // does not trust the control plane's certificate
	FailureAnswer      = "answer"      // answers, but not as the API says
	// FailureIdentity: another machine answers: one that is recorded as another server, or one with another machine ID.
	FailureIdentity = "identity"
	// FailureLocal: the control plane itself could not ask: it has no descriptors or memory left, or no network. It says
	// nothing of the server.
	FailureLocal = "local"
)

// VersionParts names parts of Versions.
type VersionParts uint8

const (
	// VersionsOS is OS but for OS.NeedsReboot. OS.BackupImage takes both it and VersionsUpdate.
	VersionsOS VersionParts = 1 << iota
	// VersionsApplications is Applications. Applications that are listed all the same were read.
	VersionsApplications
	// VersionsUpdate is OS.NeedsReboot, OS.BackupImage and UpdateChannel, which system/update tells.
	VersionsUpdate
)

// UpdateStatus is what a server says of its checks for updates (system/update).
type UpdateStatus struct {
	// Status is a text of IncusOS, see Running.
	Status string
	// LastCheck is when the last check began, by the server's clock; zero: it does not say.
	LastCheck time.Time
}

// Running reports whether a check or a download is under way. Releases that check for one kind of
// update after the other say between them that a check is completed.
func (s UpdateStatus) Running() bool {
	switch s.Status {
	case "Secure Boot update check completed", "Application update check completed":
		return true
	}
	return strings.HasPrefix(s.Status, "Running ") || strings.HasPrefix(s.Status, "Checking ")
}

// Idle reports whether the last check has ended, well or not.
func (s UpdateStatus) Idle() bool { return s.Status != "" && !s.Running() }

// Observation is what one poll found out. What it could not read is nil, and keeps its old value.
type Observation struct {
	Server string    // name, when the poll began
	ID     string    // of the server, so that a name taken over meanwhile is not mistaken
	At     time.Time // when the poll began
	Took   time.Duration

	// Light is set if only what is light was asked for: no facts.
	Light bool
	// Failure is set if the server was not reached.
	Failure *Failure
	// Presented is the fingerprint of the certificate the server presented; empty if it came to none.
	Presented string
	// Trust says why that certificate is accepted, if it is another than the server registered with.
	Trust string
	// MachineID is what the machine that answers says it is; empty: it doesn't tell, as releases before 2026-05-29.
	MachineID string
	// Ready is the server's own word; a server that answers and is not ready is still booting.
	Ready bool
	// BootedAt is zero if the server doesn't tell.
	BootedAt time.Time

	Type     *ServerType
	Versions *Versions
	// UnreadVersions are the parts of Versions that could not be read: they keep their old values.
	UnreadVersions     VersionParts
	Maintenance        *MaintenanceState
	MemberName         *string
	MemberRoles        []string // read with the Maintenance of a member
	SystemStateTrusted *bool
	// Architecture is read with the Facts; empty: it was not told.
	Architecture string
	Update       *UpdateSettings
	// UpdateStatus was read before Versions, if the Target was Updating.
	UpdateStatus *UpdateStatus
	Facts        *Facts
	// Unread names what could not be read, and why.
	Unread []string
	// Notes say what was read, and is kept in part only, and how.
	Notes []string
}

// Contact is what is known of the polls of a server, in memory only.
type Contact struct {
	LastSeen     time.Time
	Failures     int // consecutive ones
	FirstFailure time.Time
	LastFailure  *Failure
	// AnsweringSince is when the first of the answers since the last failure came.
	AnsweringSince time.Time
	// Good is how many polls in a row found it ready, and could read its type, its versions and
	// its membership, since the last action on it began or ended.
	Good int
	// Whole is how many polls in a row read everything, as far as it matters: light ones don't count.
	Whole int
	// Acting counts the actions this process carries out on the server: while there are any,
	// they, and no poll before the deadline, say when the state's Operation ends.
	Acting int
}

// Policy is what Apply needs to know beyond the server. See Options for the defaults.
type Policy struct {
	OfflineThreshold int
	RebootTimeout    time.Duration
	// FlapThreshold outages within FlapWindow make a server flapping, until it is steady for
	// FlapSteady; 0: nothing does.
	FlapThreshold          int
	FlapWindow, FlapSteady time.Duration
	// FleetUnreachable tells that so much of the fleet fails at once that the fault is taken to
	// be the control plane's own: no failure makes a server offline.
	FleetUnreachable bool
	// FleetInDoubt tells that this may be so. A sample decides; no server becomes offline meanwhile.
	FleetInDoubt bool
}
