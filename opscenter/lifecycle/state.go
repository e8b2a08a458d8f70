package lifecycle

import "time"

// ServerState is the state of a server, as polls, self updates and actions tell. It is stored.
type ServerState struct {
	// Name and ID are the server's.
	Name string
	ID   string

	Status       Status
	StatusDetail StatusDetail
	// StatusReason tells why the server has this status. MaxReason bounds it.
	StatusReason string
	StatusSince  time.Time

	Type        ServerType
	Versions    Versions
	Maintenance MaintenanceState
	// MemberName is the server's name in its Incus cluster; empty if it is in none.
	MemberName string
	// MemberRoles are the server's roles in its cluster, as Incus names them: database, database-leader, database-standby and
	// others.
	MemberRoles []string
	// Architecture of the processor, x86_64 or aarch64, from the hardware facts; empty: not known.
	Architecture string `json:",omitempty"`
	// SystemStateTrusted tells whether IncusOS says that its secure boot state is trusted.
	SystemStateTrusted bool
	// Update are the server's update settings; nil: they were never read, or the server is not on IncusOS.
	Update *UpdateSettings
	// UpdateStatus is the result of the server's last check for updates; nil: it was never read.
	UpdateStatus *UpdateStatus `json:",omitempty"`

	// KeyWaits: a Secure Boot key was applied, and takes effect at the next reboot. Updates go on after that.
	KeyWaits bool `json:",omitempty"`
	// BootedAt is when the server last booted, as the first poll after that boot read it; zero: not known.
	BootedAt time.Time
	// LastSeen is when the server last answered, as it was last stored. opscenter.ServerInfo.LastSeen is exact.
	LastSeen time.Time
	// LastUpdated is when a field other than LastSeen last changed.
	LastUpdated time.Time
	// Unproven: it is not certain that the server itself answers at its address. The address changed, another machine
	// answered, or a poll accepted the certificate of the server's cluster. Cleared when a poll reaches the server.
	Unproven bool `json:",omitempty"`
	// PollRequested is the time for which a poll out of turn was last requested. It lies in the future by at most
	// opscenter.Options.SelfUpdateInterval.
	PollRequested time.Time
	// NotBefore is the time of the last change that outdates polls in flight: polls that began before it are ignored.
	NotBefore time.Time
	// Announced is set while the server is down on purpose, or about to go down.
	Announced *Announcement
	// Operation is set while an action is under way. LastOperation tells how the last one ended.
	Operation     *Operation
	LastOperation *Outcome
	// Took is how long the last successful action of each kind took.
	Took map[Action]time.Duration
	// Stopped are the instances that the evacuation of a standalone Incus server stopped. A restore starts them again.
	Stopped *Stopped
	// FactsHash is the hash of the stored facts, without the values that change all the time.
	FactsHash string
	// Presented is the fingerprint of the certificate that the server presented last, accepted or not.
	Presented string
	// Outages are the last times at which the server became unresponsive: those within Policy.FlapWindow, at most
	// Policy.FlapThreshold of them.
	Outages []time.Time
	// FlappingSince is set while the server is flapping: it goes up and down, and is held offline.
	FlappingSince time.Time
}
