package lifecycle

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
	// FailureIdentity: another machine answers: one that is recorded as another server, or one with another machine ID.
	FailureIdentity = "identity"
	// FailureLocal: the control plane itself could not ask: it has no descriptors or memory left, or no network. It says
	// nothing of the server.
	FailureLocal = "local"
)
