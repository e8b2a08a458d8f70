// Package warning is the vocabulary of warnings: their kinds, the Input that raises one, and the stored Warning. Package
// opscenter stores warnings, lists them and clears them (Registry.Warnings).
package warning

import "time"

// Kind is the kind of a warning. The kinds that Operations Center has, too, have its names.
type Kind string

// The kinds that the SDK raises itself. Programs may raise others.
const (
	// Unreachable: the server is offline, and did not announce that. Cleared when the server answers.
	Unreachable Kind = "Server unreachable"
	// Certificate: the server presents a certificate that it did not register with, and that was not accepted since.
	// Cleared when it presents an accepted one. opscenter.Registry.AcceptCertificate accepts the new one.
	Certificate Kind = "Server certificate changed"
	// Identity: another machine answers at the server's address. That machine may be recorded as another server. The control
	// plane does nothing to the server meanwhile. Cleared when the server itself answers. If both records are of one
	// machine, an operator should remove one of them.
	Identity Kind = "Another machine answers"
	// Untrusted: the server refuses the control plane's client certificate. Cleared when the server answers.
	Untrusted Kind = "Control plane not trusted"
	// Flapping: the server goes up and down, and is held offline. Cleared when it has been steady for
	// opscenter.Options.FlapSteady.
	Flapping Kind = "Server flapping"
	// Unreadable: the server answers, but some values could not be read, and keep their old values. Cleared after several
	// polls in a row that read everything.
	Unreadable Kind = "Server partly unreadable"
	// Facts: a part of the server's facts is larger than its limit, and is kept only in part. The limits are
	// lifecycle.MaxHardwareSize and the constants beside it. Cleared when all parts fit.
	Facts Kind = "Server facts too large"
	// BackupImage: the server runs from its backup image, because the version that it was updated to did not boot. Cleared
	// when it no longer runs from it.
	BackupImage Kind = "Server runs from its backup image"
	// SharedUUID: the server has the same system UUID as another server, which is another machine. Cleared when no other
	// server has it. An operator who knows the reason can acknowledge the warning.
	SharedUUID Kind = "System UUID shared"
	// Inventory: a server or its cluster has more objects than inventory.Options allows. Cleared when a scan finds no more
	// than that.
	Inventory Kind = "Inventory truncated"
	// Events: the server's Incus answers, but has no stream of events, so only scans keep its inventory. Cleared when it has
	// one, or when the server no longer runs Incus.
	Events Kind = "Server sends no events"
	// Fleet: so many servers fail at once that the fault is probably the control plane's own. No server becomes offline
	// meanwhile. Cleared when most of the servers that are asked answer.
	Fleet Kind = "Fleet unreachable"
	// Local: the control plane could not poll servers for a reason of its own, for example because it may open no more
	// files. Such a poll tells nothing about its server. Cleared when that has not happened for a minute.
	Local Kind = "Control plane can't poll"
	// UpdateSettings: the server's update settings are not those of a managed server, and the control plane is setting them
	// again. Cleared when they are those of a managed server. After five attempts in a row the server must also have kept
	// them for system.Options.MaxRetryInterval.
	UpdateSettings Kind = "Server update settings changed"
	// Updates: the last refresh of the update feed failed, or some updates could not be fetched. Cleared by a refresh without
	// failures.
	Updates Kind = "Updates not fetched"
	// Signer: the certificate that signs updates ends within 90 days, or has ended. Cleared when an index is signed with a
	// certificate that lasts longer.
	Signer Kind = "Update signing certificate ends"
	// UpdateHeld: a new update lacks files that servers or tokens of the default channel need, so that channel does not offer
	// it. Cleared when it has them, or another update does.
	UpdateHeld Kind = "Update held back"
	// Behind: polls are later than their schedule. Cleared when they are on time again.
	Behind Kind = "Polling behind schedule"
)

// OfController reports whether a kind tells of the control plane itself. Each of several controllers has its own warning of
// such a kind.
func (k Kind) OfController() bool { return k == Fleet || k == Local || k == Behind }

// Input is a warning that is to be raised.
type Input struct {
	Kind    Kind
	Message string
}

// Warning is a state that an operator should know of. It is stored as long as its cause lasts. Raising and clearing it are
// events.
type Warning struct {
	// UUID identifies the warning. UUIDs sort by the time at which warnings were raised.
	UUID string
	Kind Kind
	// Server and ServerID are those of the server that the warning is about; empty: it is about the fleet.
	Server   string
	ServerID string
	// Controller is the name of the controller that the warning is about, see opscenter.Options.Controller and
	// Kind.OfController. Empty: the warning is about no controller, or the controller has no name.
	Controller string `json:",omitempty"`
	Message    string
	// FirstSeen and LastSeen are when its cause was first and last seen, Count is how often.
	FirstSeen time.Time
	LastSeen  time.Time
	Count     int
	// Acknowledged is set once an operator has said to know of the warning.
	Acknowledged bool
	LastUpdated  time.Time
}
