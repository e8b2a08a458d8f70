package lifecycle

import "time"

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
