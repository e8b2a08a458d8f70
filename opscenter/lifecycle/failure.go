package lifecycle

// Failure tells why a poll did not reach a server.
type Failure struct {
	// Kind is one of the Failure constants.
	Kind    string
	Message string
}

// Kinds of Failure.
const (
	FailureConnect     = "connect"     // no connection: it was refused, timed out, or found no route
	FailureTimeout     = "timeout"     // connected, but no answer before the deadline
	FailureCertificate = "certificate" // the server presents a certificate that is not accepted
	FailureUntrusted   = "untrusted"   // the server does not trust the control plane's certificate
	FailureAnswer      = "answer"      // the answer is not one of the API
	// FailureIdentity: another machine answers. It is recorded as another server, or has another machine ID.
	FailureIdentity = "identity"
	// FailureLocal: the control plane itself could not ask, as it has no file descriptors, no memory or no network. It
	// tells nothing about the server.
	FailureLocal = "local"
)
