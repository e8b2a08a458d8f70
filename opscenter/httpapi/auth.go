package httpapi

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/opscenter-go/sdk/opscenter"
)

// Authorizer returns the principal that sends a request to the operators' API. An error refuses the request. The error's text
// goes to the log, and not to the client. An Authorizer is called concurrently.
type Authorizer func(r *http.Request) (principal string, err error)

// ErrNotAuthorized is the error of the authorizers of this package.
var ErrNotAuthorized = errors.New("not authorized")

// TrustCertificates admits clients that present one of these client certificates, within its time of validity. The principal is
// "certificate" and the first 12 digits of the fingerprint.
func TrustCertificates(certificates ...*x509.Certificate) Authorizer {
	trusted := map[string]*x509.Certificate{}
	for _, c := range certificates {
		trusted[opscenter.Fingerprint(c)] = c
	}
	return func(r *http.Request) (string, error) {
		presented := clientCertificate(r)
		if presented == nil {
			return "", ErrNotAuthorized
		}
		fingerprint := opscenter.Fingerprint(presented)
		c := trusted[fingerprint]
		if at := time.Now(); c == nil || at.Before(c.NotBefore) || at.After(c.NotAfter) {
			return "", ErrNotAuthorized
		}
		return "certificate " + fingerprint[:12], nil
	}
}

// TrustUnixSocket admits each client that connects over a Unix socket: the mode of its file decides which users can. The
// principal is "unix socket uid N", of the client's process. It is "unix socket" without ConnContext, and where the system
// does not tell the user.
func TrustUnixSocket() Authorizer {
	return func(r *http.Request) (string, error) {
		if !overUnixSocket(r) {
			return "", ErrNotAuthorized
		}
		if uid, ok := r.Context().Value(peerKey{}).(uint32); ok {
			return fmt.Sprintf("unix socket uid %d", uid), nil
		}
		return "unix socket", nil
	}
}

// overUnixSocket reports whether a request came over a Unix socket.
func overUnixSocket(r *http.Request) bool {
	address, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	return ok && address.Network() == "unix"
}

type peerKey struct{}

// ConnContext is for http.Server.ConnContext: with it TrustUnixSocket knows the user at the other end of a Unix socket.
// NewServer sets it.
func ConnContext(ctx context.Context, conn net.Conn) context.Context {
	if socket, ok := conn.(*net.UnixConn); ok {
		if uid, ok := peerUID(socket); ok {
			return context.WithValue(ctx, peerKey{}, uid)
		}
	}
	return ctx
}

// AnyOf admits a request that one of the authorizers admits, with the principal of the first of them. Otherwise it returns the
// error of the last.
func AnyOf(authorizers ...Authorizer) Authorizer {
	return func(r *http.Request) (string, error) {
		err := ErrNotAuthorized
		for _, authorize := range authorizers {
			var principal string
			if principal, err = authorize(r); err == nil {
				return principal, nil
			}
		}
		return "", err
	}
}

// authorized admits operators only. It refuses pages of other sites that act in an operator's name.
func (h *Handler) authorized(handle http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if err := h.crossSite.check(r); err != nil {
			h.fail(w, r, err)
			return
		}
		principal, err := h.options.Authorize(r)
		if err != nil {
			h.options.Logger.InfoContext(r.Context(), "an operator's request was refused", "remote", r.RemoteAddr, "method", r.Method, "endpoint", r.Pattern, "path", shownPath(r), "error", err)
			respondError(w, http.StatusForbidden, "Not authorized")
			return
		}
		if r.Method != http.MethodGet {
			h.options.Logger.InfoContext(r.Context(), "operator's request", "principal", principal, "method", r.Method, "endpoint", r.Pattern)
		}
		h.audited(w, r.WithContext(opscenter.WithPrincipal(r.Context(), principal)), handle)
	}
}

// maxShownPath bounds a path in the log, in bytes.
const maxShownPath = 200

// shownPath returns the path of a request for the log. It leaves out the query, which may hold a token, and the UUID of a
// token, which is the token. Where there is no endpoint, it leaves out each UUID.
func shownPath(r *http.Request) string {
	path := r.URL.Path
	if rest, ok := strings.CutPrefix(path, "/1.0/provisioning/tokens/"); ok && rest != "" {
		path = "/1.0/provisioning/tokens/…"
	}
	if rest, ok := strings.CutPrefix(path, "/1.0/provisioning/images/"); ok && rest != "" { // the random name of a public seed is a secret
		path = "/1.0/provisioning/images/…"
	}
	if r.Pattern == "" {
		segments := strings.Split(path, "/")
		for i, segment := range segments {
			if uuid.Validate(segment) == nil {
				segments[i] = "…"
			}
		}
		path = strings.Join(segments, "/")
	}
	if len(path) > maxShownPath {
		path = path[:maxShownPath] + "…"
	}
	return strings.ToValidUTF8(path, "\ufffd")
}

// clientCertificate returns the certificate of the TLS handshake, nil if there is none.
func clientCertificate(r *http.Request) *x509.Certificate {
	if r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
		return nil
	}
	return r.TLS.PeerCertificates[0]
}
