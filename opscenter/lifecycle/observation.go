package lifecycle

import "time"

// Observation is the result of one poll. A value that the poll could not read is nil: the server keeps its old value.
type Observation struct {
	// Server is the server's name when the poll began. ID is the server's, as another server may have taken over the name
	// since.
	Server string
	ID     string
	// At is when the poll began, Took how long it took.
	At   time.Time
	Took time.Duration

	// Light is set if the poll did not ask for facts.
	Light bool
	// Failure is set if the poll did not reach the server. Then most other fields are empty.
	Failure *Failure
	// Presented is the fingerprint of the certificate that the server presented; empty: the poll saw no certificate.
	Presented string
	// Trust tells why that certificate is accepted; empty: the server registered with it.
	Trust string
	// MachineID is the ID that the machine gives; empty: it gives none, as releases before 2026-05-29.
	MachineID string
	// Ready tells whether the server says that it is ready. A server that answers and is not ready is still booting.
	Ready bool
	// BootedAt is zero if the server does not tell it.
	BootedAt time.Time

	Type     *ServerType
	Versions *Versions
	// UnreadVersions are the parts of Versions that the poll could not read: they keep their old values.
	UnreadVersions     VersionParts
	Maintenance        *MaintenanceState
	MemberName         *string
	MemberRoles        []string // read with the Maintenance of a member
	SystemStateTrusted *bool
	// Architecture is read with the Facts; empty: not known.
	Architecture string
	Update       *UpdateSettings
	// UpdateStatus was read before Versions if the Updating of the poll's opscenter.Target was set.
	UpdateStatus *UpdateStatus
	Facts        *Facts
	// Unread names the values that the poll could not read, and why.
	Unread []string
	// Notes name the facts that are kept only in part, and why.
	Notes []string
}

// VersionParts names parts of Versions.
type VersionParts uint8

const (
	// VersionsOS is OS without OS.NeedsReboot. OS.BackupImage belongs to both VersionsOS and VersionsUpdate.
	VersionsOS VersionParts = 1 << iota
	// VersionsApplications is Applications. The applications that are listed nevertheless were read.
	VersionsApplications
	// VersionsUpdate is OS.NeedsReboot, OS.BackupImage and UpdateChannel. IncusOS's API system/update returns them.
	VersionsUpdate
)
