package opscenter

import (
	"errors"

	"github.com/opscenter-go/sdk/storage"
)

// Errors of the Registry. Each is wrapped with what it is about; test with errors.Is. What
// comes from the store keeps its own sentinels, storage.ErrNotFound and others.
var (
	// ErrNotFound: there is no server, token or channel of that name.
	ErrNotFound = storage.ErrNotFound

	ErrTokenMalformed = errors.New("token is not a UUID")
	ErrTokenUnknown   = errors.New("token is not known")
	ErrTokenExpired   = errors.New("token has expired")
	ErrTokenExhausted = errors.New("token has no uses left")
	ErrInvalidToken   = errors.New("invalid token definition")

	ErrNoCertificate      = errors.New("no client certificate")
	ErrInvalidCertificate = errors.New("invalid certificate")
	// ErrUnknownCertificate: no registered server has that certificate.
	ErrUnknownCertificate = errors.New("certificate is not that of a registered server")
	// ErrIdentityTaken: a known machine ID or system UUID came with another certificate. See Registry.AllowReinstall.
	ErrIdentityTaken = errors.New("machine is registered with another certificate")
	// ErrIdentityChanged: a known certificate came with another machine ID or system UUID.
	ErrIdentityChanged = errors.New("certificate is registered for another machine")
	// ErrNotAdmitted: Options.Admit refused a registration, or could not decide.
	ErrNotAdmitted = errors.New("the registration was not admitted")
	// ErrNameTaken: another server has that name.
	ErrNameTaken = errors.New("server name is taken")

	ErrInvalidName       = errors.New("invalid name")
	ErrInvalidURL        = errors.New("invalid URL")
	ErrInvalidMachineID  = errors.New("invalid machine ID")
	ErrInvalidSystemUUID = errors.New("invalid system UUID")
	ErrInvalidVersion    = errors.New("invalid version")
	ErrInvalidFilter     = errors.New("invalid filter")
	ErrInvalidCursor     = errors.New("invalid cursor")
	ErrInvalidOptions    = errors.New("invalid options")
	// ErrTooLong: a value is over its limit, see the Max constants.
	ErrTooLong = errors.New("too long")

	// ErrTooOften: a server says more of itself than any needs to, see Options.SelfUpdateInterval.
	ErrTooOften = errors.New("too often")

	// ErrPrecondition: the object is not the one the caller has seen, its ETag differs.
	ErrPrecondition = errors.New("changed in the meantime")
	// ErrClustered: a member of a cluster can't be renamed, moved or deleted alone.
	ErrClustered = errors.New("server is a member of a cluster")
	// ErrNotReady: the server is not ready for an action, or one is under way.
	ErrNotReady = errors.New("server is not ready")
	// ErrFed: package updates says what the channel offers.
	ErrFed = errors.New("what the channel offers comes from its update feed")
	// ErrInUse: what is to be removed is still needed.
	ErrInUse = errors.New("is in use")
	// ErrOutcomeUnknown: an Actuator sent its request, and can't tell whether it was carried
	// out. Polls will.
	ErrOutcomeUnknown = errors.New("outcome is unknown")
	// ErrBusy: a rollout, or another operation, has reserved the cluster or the server.
	ErrBusy = errors.New("another operation is under way")
	// ErrClusterTaken: another cluster has that name.
	ErrClusterTaken = errors.New("cluster name is taken")
	// ErrHasMembers: a cluster with members can't be removed, unless forced.
	ErrHasMembers = errors.New("cluster has members")
	// ErrBlocked: what a plan says is in the way.
	ErrBlocked = errors.New("blocked")
	// ErrRefused: the server itself refused an action, or says that it failed.
	ErrRefused = errors.New("the server refused")
	// ErrUnreachable: the server was not reached, or is not the one it should be.
	ErrUnreachable = errors.New("the server could not be reached")
	// ErrAnswer: the server answers otherwise than its API says.
	ErrAnswer = errors.New("the server's answer is not understood")
	// ErrNotSetUp: the program has not set up what is needed for it.
	ErrNotSetUp = errors.New("not set up here")
	// ErrNotApplicable: servers of this type know no such action.
	ErrNotApplicable = errors.New("action is not applicable")
)
