package opscenter

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/opscenter-go/sdk/opscenter/rolling"
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
	// SystemStateTrusted is IncusOS's own word on its secure boot state.
	SystemStateTrusted bool
	// Update is how it updates itself; nil: that was never read, or it is not on IncusOS.
	Update *UpdateSettings

	// BootedAt is when the server last booted, as it said when that was first seen; zero: not known.
	BootedAt time.Time
	// LastSeen as last flushed; the Registry knows better, see ServerInfo.LastSeen.
	LastSeen time.Time
	// LastUpdated is when anything but LastSeen changed.
	LastUpdated time.Time
	// PollRequested is when somebody last asked for a poll out of turn.
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
)

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
	// Ready is the server's own word; a server that answers and is not ready is still booting.
	Ready bool
	// BootedAt is zero if the server doesn't tell.
	BootedAt time.Time

	Type               *ServerType
	Versions           *Versions
	Maintenance        *MaintenanceState
	MemberName         *string
	MemberRoles        []string // read with the Maintenance of a member
	SystemStateTrusted *bool
	Update             *UpdateSettings
	Facts              *Facts
	// Unread names what could not be read, and why.
	Unread []string
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
	// RefusedFacts is the hash of facts that were too large to store.
	RefusedFacts string
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
}

// Transition is the outcome of Apply.
type Transition struct {
	State   ServerState
	Contact Contact
	// Changed tells whether State differs from what it was.
	Changed bool
	Events  []Event
	// Warnings are there to be raised, or seen once more; of the kinds in Judged, all others
	// of the server are cleared.
	Warnings []Warned
	Judged   []WarningKind
}

// bootSlack is how far the clocks of two machines may disagree about when a boot was.
const bootSlack = 5 * time.Second

// bootDrift is by how much the time of a boot must differ from the one known to be another.
const bootDrift = 15 * time.Second

// Apply applies an observation to the state of a server. It is pure: the same input always
// gives the same outcome. The rules are those of the status machine in the design:
//
//   - The first answer of a ready server makes it ready.
//   - OfflineThreshold consecutive failures make it offline, unresponsive.
//   - A server that went down on purpose stays so until it is back: booted since, or
//     unreachable and reachable again; or until its deadline has passed.
//   - What could not be read keeps its value.
//   - A server that became unresponsive FlapThreshold times within FlapWindow is held offline
//     until it has answered, or not answered, for FlapSteady.
//   - While the fleet is unreachable, nobody becomes offline.
func Apply(state ServerState, contact Contact, o Observation, policy Policy) Transition {
	t := Transition{State: state, Contact: contact}
	next := &t.State
	if state.Announced != nil {
		announced := *state.Announced // rows are shared: what changes is copied
		next.Announced = &announced
	}
	t.presented(o)
	if o.Failure != nil {
		t.failed(o, policy)
	} else {
		t.answered(o, policy)
	}
	t.warn(o, policy)
	t.Changed = !reflect.DeepEqual(*next, state)
	if t.Changed {
		next.LastUpdated = o.At
	}
	return t
}

func (t *Transition) failed(o Observation, policy Policy) {
	next, contact := &t.State, &t.Contact
	if contact.Failures == 0 {
		contact.FirstFailure = o.At
	}
	contact.Failures++
	contact.Good = 0
	contact.LastFailure = o.Failure
	if policy.FleetUnreachable && next.Status == StatusReady {
		// Whoever fails for a reason of ours has all its failures before it once that is over.
		contact.Failures = 1
	}
	if contact.Failures >= policy.OfflineThreshold {
		contact.AnsweringSince = time.Time{} // one failure is none
	}
	if contact.FirstFailure.After(o.At) {
		contact.FirstFailure = o.At // the clock was set back
	}
	t.steadilyDown(o, policy)
	if a := next.Announced; a != nil {
		if o.At.Before(a.At) {
			return // asked before it said so
		}
		a.WentDown = true
		if op := next.Operation; op != nil && op.down() && contact.Acting == 0 {
			t.endOperation(o.At, "", "it is down")
		}
		if a.Deadline.IsZero() || o.At.Before(a.Deadline) || policy.FleetUnreachable {
			return // a server that was shut down may stay so
		}
		detail := next.StatusDetail
		next.Announced = nil
		if next.Operation != nil {
			t.endOperation(o.At, fmt.Sprintf("not back from %s by its deadline", detail), o.Failure.Message)
		}
		t.to(o.At, StatusOffline, DetailUnresponsive, fmt.Sprintf("not back from %s by its deadline: %s", detail, o.Failure.Message))
		return
	}
	if policy.FleetUnreachable || contact.Failures < policy.OfflineThreshold || next.Status == StatusUnregistered || next.Status == StatusOffline {
		return
	}
	if op := next.Operation; op != nil && op.pending() && o.At.Before(op.Deadline) {
		return // it may be at another address, and be back at this one
	}
	if op := next.Operation; op != nil && (contact.Acting == 0 || !o.At.Before(op.Deadline)) {
		t.endOperation(o.At, "the server became unresponsive", o.Failure.Message)
	}
	t.to(o.At, StatusOffline, DetailUnresponsive, fmt.Sprintf("%d polls failed in a row: %s", contact.Failures, o.Failure.Message))
	t.outage(o.At, policy)
}

func (t *Transition) answered(o Observation, policy Policy) {
	next, contact := &t.State, &t.Contact
	contact.LastSeen = o.At
	contact.Failures, contact.LastFailure, contact.FirstFailure = 0, nil, time.Time{}
	if contact.AnsweringSince.IsZero() || contact.AnsweringSince.After(o.At) {
		contact.AnsweringSince = o.At
	}
	switch {
	case !o.Ready || o.Type == nil || o.Versions == nil || *o.Type == TypeIncus && o.Maintenance == nil:
		contact.Good = 0
	default:
		contact.Good++
	}
	if booted := next.BootedAt; !o.BootedAt.IsZero() && (booted.IsZero() || o.BootedAt.Sub(booted).Abs() > bootDrift) {
		next.BootedAt = o.BootedAt.Truncate(time.Second)
	}
	switch {
	case len(o.Unread) > 0:
		contact.Whole = 0
	case !o.Light && contact.Whole < wholePolls:
		contact.Whole++
	}
	t.read(o)

	if a := next.Announced; a != nil {
		back, late := returned(*a, o), !o.At.Before(a.deadline(policy))
		switch {
		case o.At.Before(a.At), !back && !late:
			return // asked before it said so, or still about to go down
		case !o.Ready && !late:
			a.WentDown = true
			return // back, and booting
		case !o.Ready:
			if op := next.Operation; op != nil && op.Action == ActionReboot {
				t.endOperation(o.At, "answers, but has not become ready by its deadline", "")
			}
			t.to(o.At, StatusOffline, DetailUnresponsive, "answers, but has not become ready by its deadline")
			return
		}
		next.Announced = nil
		if op := next.Operation; op != nil && (op.Action == ActionReboot || op.down()) && contact.Acting == 0 {
			switch {
			case !back:
				t.endOperation(o.At, "the server did not go down by the deadline", "")
			case op.Action == ActionReboot:
				t.endOperation(o.At, "", "the server is back")
			default:
				t.endOperation(o.At, "", "the server was down, and is back")
			}
		}
	}
	if !o.Ready {
		if next.Status == StatusReady {
			since := o.At
			if !o.BootedAt.IsZero() {
				since = o.BootedAt
			}
			next.Announced = &Announcement{At: since, Deadline: o.At.Add(policy.RebootTimeout), WentDown: true}
			t.to(o.At, StatusOffline, DetailRebooting, "the server says that it is still booting")
		}
		return
	}
	t.settle(o, policy)
}

// deadline is when a server that still answers counts as not having gone down.
func (a Announcement) deadline(policy Policy) time.Time {
	if a.Deadline.IsZero() {
		return a.At.Add(policy.RebootTimeout)
	}
	return a.Deadline
}

// returned reports whether an answering server has been down since it was announced.
func returned(a Announcement, o Observation) bool {
	if !o.BootedAt.IsZero() && o.BootedAt.After(a.At.Add(-bootSlack)) {
		return true
	}
	// Suspended servers come back without a boot; others may not tell when they booted.
	return a.WentDown && (o.BootedAt.IsZero() || a.Deadline.IsZero())
}

// read takes over what was read, and only that.
func (t *Transition) read(o Observation) {
	next := &t.State
	if o.Type != nil && *o.Type != next.Type {
		if next.Type != "" && next.Type != TypeUnknown {
			t.event(o.At, EventTypeChanged, fmt.Sprintf("the primary application makes it %s, it was %s", *o.Type, next.Type))
		}
		next.Type = *o.Type
	}
	if o.Versions != nil {
		next.Versions = *o.Versions
	}
	if o.MemberName != nil {
		if *o.MemberName != "" {
			next.Stopped = nil // its cluster sees to them from now on
		}
		switch before := next.MemberName; {
		case *o.MemberName == before:
		case *o.MemberName == "":
			t.event(o.At, EventClusterDiscovered, fmt.Sprintf("is in no Incus cluster any more, was member %s of one", before))
		default:
			t.event(o.At, EventClusterDiscovered, fmt.Sprintf("is member %s of an Incus cluster", *o.MemberName))
		}
		next.MemberName = *o.MemberName
	}
	if o.Maintenance != nil && next.Stopped == nil {
		// Of a standalone server Incus doesn't know that it is evacuated: we do.
		next.Maintenance = *o.Maintenance
		if !slices.Equal(next.MemberRoles, o.MemberRoles) || (next.MemberRoles == nil) != (o.MemberRoles == nil) {
			next.MemberRoles = o.MemberRoles
		}
	}
	if o.Update != nil && (next.Update == nil || *next.Update != *o.Update) {
		next.Update = o.Update
	}
	if o.SystemStateTrusted != nil {
		next.SystemStateTrusted = *o.SystemStateTrusted
	}
}

// settle gives a ready server its status and detail.
func (t *Transition) settle(o Observation, policy Policy) {
	next := &t.State
	if op := next.Operation; op != nil {
		switch {
		case t.Contact.Acting > 0:
			if !o.At.Before(op.Deadline) {
				t.endOperation(o.At, "its deadline has passed", "")
			}
		case op.Action == ActionUpdate && reached(next.Versions, op.Targets):
			t.endOperation(o.At, "", "every component has its version")
		case op.Owner == "" && next.Stopped == nil && (op.Action == ActionEvacuate && next.Maintenance == MaintenanceEvacuated ||
			op.Action == ActionRestore && next.Maintenance == NotInMaintenance):
			// The status can show before all is done: a rollout waits for the operation.
			t.endOperation(o.At, "", "the server is "+next.Maintenance.String())
		case op.Action == ActionReboot:
			t.endOperation(o.At, "", "the server is back")
		case op.Action == ActionFactoryReset && o.BootedAt.After(op.StartedAt.Add(bootSlack)):
			t.endOperation(o.At, "the server has booted, and is what it was", "")
		case !o.At.Before(op.Deadline):
			t.endOperation(o.At, "its deadline has passed", "")
		}
	}
	if op := next.Operation; op != nil && op.pending() {
		return // whoever changes it says when that is over, or the deadline does
	}
	detail := DetailNone
	reason := reasonReady
	switch {
	case next.Operation != nil:
		detail, reason = next.Operation.detail(), string(next.Operation.Action)+" under way"
	case next.Maintenance == MaintenanceEvacuating:
		detail, reason = DetailEvacuating, "the cluster says so"
	case next.Maintenance == MaintenanceRestoring:
		detail, reason = DetailRestoring, "the cluster says so"
	}
	if unknown := next.Type == "" || next.Type == TypeUnknown; o.Type == nil && (next.Status == StatusPending || unknown && next.Status != StatusReady) {
		// Something answered; whether it is a whole server is not known.
		next.StatusReason = "answers, but not all could be read"
		return
	}
	if t.held(o, policy) {
		return
	}
	if next.Status != StatusReady || next.StatusDetail != detail {
		t.to(o.At, StatusReady, detail, reason)
	}
}

// reached reports whether every component has at least its target version.
func reached(v Versions, targets map[string]string) bool {
	for component, target := range targets {
		if have, ok := v.Staged(component); ok && rolling.Newer(target, have) {
			return false
		}
	}
	return true
}

func (t *Transition) to(at time.Time, status Status, detail StatusDetail, reason string) {
	next := &t.State
	if next.Status == status && next.StatusDetail == detail {
		return
	}
	from := describe(next.Status, next.StatusDetail)
	next.Status, next.StatusDetail, next.StatusReason, next.StatusSince = status, detail, cutTo(reason, maxReason), at
	t.event(at, EventStatusChanged, fmt.Sprintf("%s, was %s: %s", describe(status, detail), from, reason))
}

func (t *Transition) event(at time.Time, kind EventKind, reason string) {
	t.Events = append(t.Events, Event{At: at, Kind: kind, Server: t.State.Name, Reason: cutTo(reason, maxReason)})
}

const reasonReady = "answers, and is ready"

// maxReason bounds the reasons that are stored, in bytes: parts of them come from servers.
const maxReason = 1000

// describe returns a status with its detail, as "offline (rebooting)".
func describe(status Status, detail StatusDetail) string {
	if detail == DetailNone {
		return string(status)
	}
	return fmt.Sprintf("%s (%s)", status, detail)
}

// sortedKeys returns the keys of m in order.
func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
