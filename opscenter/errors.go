package opscenter

import (
	"errors"

	"github.com/opscenter-go/sdk/internal/page"
	"github.com/opscenter-go/sdk/storage"
)

// Errors of the Registry. Each is wrapped with the name of its subject: test with errors.Is. Errors of the store keep their
// sentinels, as storage.ErrConflict.
var (
	// ErrNotFound: no server, token, cluster, channel, seed or warning has that name.
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
	ErrInvalidCursor     = page.ErrInvalidCursor
	ErrInvalidOptions    = errors.New("invalid options")
	// ErrTooLong: a value is over its limit, see the Max constants.
	ErrTooLong = errors.New("too long")

	// ErrTooOften: a server sends more self updates or registrations than Options.SelfUpdateInterval allows.
	// Options.Admit judges 64 registrations at a time: further ones get this error, too.
	ErrTooOften = errors.New("too often")

	// ErrPrecondition: the object has changed since the caller read it, as its ETag shows.
	ErrPrecondition = errors.New("changed in the meantime")
	// ErrClustered: a member of a cluster can't be renamed, moved or deleted alone.
	ErrClustered = errors.New("server is a member of a cluster")
	// ErrNotReady: the server is not ready for an action, or another action is under way.
	ErrNotReady = errors.New("server is not ready")
	// ErrFed: package updates sets the offer of the channel.
	ErrFed = errors.New("what the channel offers comes from its update feed")
	// ErrInUse: the object to be removed is still in use, or the name to be given is.
	ErrInUse = errors.New("is in use")
	// ErrOutcomeUnknown: an Actuator sent its request and got no answer that tells the outcome. Later polls tell it.
	ErrOutcomeUnknown = errors.New("outcome is unknown")
	// ErrBusy: a rollout, or another operation, has claimed the cluster or the server.
	ErrBusy = errors.New("another operation is under way")
	// ErrClusterTaken: another cluster has that name.
	ErrClusterTaken = errors.New("cluster name is taken")
	// ErrHasMembers: a cluster with members is removed by force only.
	ErrHasMembers = errors.New("cluster has members")
	// ErrBlocked: a plan has blockers.
	ErrBlocked = errors.New("blocked")
	// ErrRefused: the server refused an action, or reported that it failed.
	ErrRefused = errors.New("the server refused")
	// ErrUnreachable: the server could not be reached, or another machine answered.
	ErrUnreachable = errors.New("the server could not be reached")
	// ErrAnswer: the answer of the server does not conform to its API.
	ErrAnswer = errors.New("the server's answer is not understood")
	// ErrNotSetUp: the program lacks a part that the call needs.
	ErrNotSetUp = errors.New("not set up here")
	// ErrNotApplicable: servers of this type do not have the action.
	ErrNotApplicable = errors.New("action is not applicable")
)
