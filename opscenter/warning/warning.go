package warning

import (
	"time"
)

// WarningKind says what a warning is about. Those that Operations Center has are named as there.
type Kind string

// The kinds the SDK raises itself; programs may raise others.
const (
	// WarningUnreachable: the server is offline, and did not say that it would be. Cleared when
	// it answers.
	Unreachable Kind = "Server unreachable"
	// WarningCertificate: the server presents a certificate that is not the registered one, nor
	// accepted since. Cleared when it presents one that is; see AcceptCertificate.
	Certificate Kind = "Server certificate changed"
	// WarningIdentity: at the server's address another machine answers, which may be recorded as another server.
	// Nothing is done to the server meanwhile. Cleared when the server itself answers; if both records are of one
	// machine, remove one of them.
	Identity Kind = "Another machine answers"
	// WarningUntrusted: the server refuses the control plane's client certificate. Cleared when
	// it answers.
	Untrusted Kind = "Control plane not trusted"
	// WarningFlapping: the server goes up and down, and is held offline. Cleared when it has
	// been steady for Options.FlapSteady.
	Flapping Kind = "Server flapping"
	// WarningUnreadable: the server answers, but not all of it could be read; the old values
	// are kept. Cleared when a poll reads all.
	Unreadable Kind = "Server partly unreadable"
	// WarningFacts: a part of the server's facts is larger than its limit, and kept in part: see
	// MaxHardwareSize and the others. Cleared when all parts fit.
	Facts Kind = "Server facts too large"
	// WarningBackupImage: the server runs from its backup image, as the version it was updated to
	// did not boot. Cleared when it runs another one.
	BackupImage Kind = "Server runs from its backup image"
	// WarningSharedUUID: the server has the system UUID of another one, which is another machine.
	// Cleared when no other server has it; those that know why acknowledge it.
	SharedUUID Kind = "System UUID shared"
	// WarningInventory: a server, or its cluster, has more objects than inventory.Options let be kept. Cleared when a
	// scan finds no more than that.
	Inventory Kind = "Inventory truncated"
	// WarningFleet: so many servers fail at once that the control plane suspects itself: nobody
	// becomes offline. Cleared when most of those that are asked answer.
	Fleet Kind = "Fleet unreachable"
	// WarningLocal: the control plane could not poll servers for a reason of its own, as that it may open no more
	// files. Nothing is concluded of them. Cleared when that did not happen for a minute.
	Local Kind = "Control plane can't poll"
	// WarningUpdateSettings: the server's update settings are not those of a managed server, and
	// are put back. Cleared when they are.
	UpdateSettings Kind = "Server update settings changed"
	// WarningUpdates: the last refresh of the update feed failed, or some updates could not be fetched. Cleared when one
	// ends without that.
	Updates Kind = "Updates not fetched"
	// WarningSigner: the certificate that signs updates ends within 90 days, or has ended. Cleared when an index is signed
	// by one that lasts longer.
	Signer Kind = "Update signing certificate ends"
	// WarningUpdateHeld: a new update lacks what servers or tokens of the default channel need, and is not offered there.
	// Cleared when it is, or another one has what is needed.
	UpdateHeld Kind = "Update held back"
	// WarningBehind: polls don't keep up with their schedule. Cleared when they do.
	Behind Kind = "Polling behind schedule"
)

// Warned is a warning as it is raised.
type Input struct {
	Kind    Kind
	Message string
}

// Warning is something an operator should know, for as long as it holds: it goes away by
// itself when its cause is gone. Its coming and going are events.
type Warning struct {
	// UUID names the warning; later ones sort behind earlier ones.
	UUID string
	Kind Kind
	// Server is the name of the server it is about; empty: the fleet.
	Server   string
	ServerID string
	Message  string
	// FirstSeen and LastSeen are when there was cause for it, and Count how often.
	FirstSeen time.Time
	LastSeen  time.Time
	Count     int
	// Acknowledged is for operators to set: somebody knows.
	Acknowledged bool
	LastUpdated  time.Time
}
