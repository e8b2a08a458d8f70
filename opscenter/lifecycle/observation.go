package lifecycle

import "time"

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
