package httpapi

import (
	"cmp"
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
	"github.com/opscenter-go/sdk/opscenter/access"
)

// Authorizer returns the principal that sends a request to the operators' API, with its role and scope. An error refuses the
// request: one that wraps access.ErrUnauthenticated with status 401, each other one with 403. The error's text goes to the log, and
// not to the client. A role that is not known, such as none, allows nothing. An Authorizer is called concurrently.
type Authorizer func(r *http.Request) (access.Principal, error)

// As admits the clients that an authorizer admits, with no more than the grant: a lower role, or a smaller part of the fleet. A grant that is
// not valid admits no client.
func As(grant access.Grant, authorize Authorizer) Authorizer {
	invalid := grant.Validate()
	return func(r *http.Request) (access.Principal, error) {
		p, err := authorize(r)
		if err = cmp.Or(err, invalid); err != nil {
			return access.Principal{}, err
		}
		narrowed, ok := p.Grant.Narrowed(grant)
		if !ok {
			return access.Principal{}, fmt.Errorf("the scopes of %s have no server in common: %w", p.Name, access.ErrForbidden)
		}
		p.Grant = narrowed
		return p, nil
	}
}

// TrustCertificates admits clients that present one of these client certificates, within its time of validity, as administrators.
// The principal is "certificate" and the first 12 digits of the fingerprint.
func TrustCertificates(certificates ...*x509.Certificate) Authorizer {
	trusted := map[string]*x509.Certificate{}
	for _, c := range certificates {
		trusted[opscenter.Fingerprint(c)] = c
	}
	return func(r *http.Request) (access.Principal, error) {
		presented := clientCertificate(r)
		if presented == nil {
			return access.Principal{}, access.ErrUnauthenticated
		}
		fingerprint := opscenter.Fingerprint(presented)
		c := trusted[fingerprint]
		if at := time.Now(); c == nil || at.Before(c.NotBefore) || at.After(c.NotAfter) {
			return access.Principal{}, fmt.Errorf("certificate %s: %w", fingerprint[:12], access.ErrForbidden)
		}
		return admin("certificate " + fingerprint[:12]), nil
	}
}

// admin is an administrator of the whole fleet.
func admin(name string) access.Principal {
	return access.Principal{Name: name, Grant: access.Grant{Role: access.RoleAdmin}}
}

// TrustUnixSocket admits each client that connects over a Unix socket, as an administrator: the mode of its file decides which
// users can. The principal is "unix socket uid N", of the client's process. It is "unix socket" without ConnContext, and where the system
// does not tell the user.
func TrustUnixSocket() Authorizer {
	return func(r *http.Request) (access.Principal, error) {
		if !overUnixSocket(r) {
			return access.Principal{}, access.ErrUnauthenticated
		}
		if uid, ok := r.Context().Value(peerKey{}).(uint32); ok {
			return admin(fmt.Sprintf("unix socket uid %d", uid)), nil
		}
		return admin("unix socket"), nil
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

// AnyOf admits a request that one of the authorizers admits, as the principal of the first of them. Otherwise it returns the first
// error of credentials that are not admitted, and access.ErrUnauthenticated if the request shows none.
func AnyOf(authorizers ...Authorizer) Authorizer {
	return func(r *http.Request) (access.Principal, error) {
		refused := error(access.ErrUnauthenticated)
		for _, authorize := range authorizers {
			p, err := authorize(r)
			if err == nil {
				return p, nil
			}
			if errors.Is(refused, access.ErrUnauthenticated) {
				refused = err
			}
		}
		return access.Principal{}, refused
	}
}

// challenge is what a client without credentials is told: how it may show some (RFC 9110, 11.6.1). Certificates have no scheme of
// their own there.
const challenge = `Bearer realm="opscenter"`

// authorized admits principals of the route's role whose scope covers the request. It refuses pages of other sites that act in an
// operator's name.
func (h *Handler) authorized(w http.ResponseWriter, r *http.Request, rt *route, handle http.HandlerFunc) {
	header := w.Header() // for browsers: an answer is for this client alone, and is no page
	header.Set("Cache-Control", "no-store")
	header.Set("X-Content-Type-Options", "nosniff")
	header.Set("Cross-Origin-Resource-Policy", "same-origin")
	if err := h.crossSite.check(r); err != nil {
		h.fail(w, r, err)
		return
	}
	p, err := h.options.Authorize(r)
	if err != nil {
		h.options.Logger.InfoContext(r.Context(), "a principal's request was refused", "remote", r.RemoteAddr, "method", r.Method, "endpoint", r.Pattern, "path", shownPath(r), "error", err)
		if errors.Is(err, access.ErrUnauthenticated) {
			w.Header().Set("WWW-Authenticate", challenge)
			respondError(w, http.StatusUnauthorized, "No credentials were shown")
			return
		}
		respondError(w, http.StatusForbidden, "Not authorized")
		return
	}
	r = r.WithContext(access.With(opscenter.WithPrincipal(r.Context(), p.Name), p))
	switch needed := rt.needs(r.Method); {
	case !p.Role.Includes(needed):
		err = fmt.Errorf("the role %s is wanted, and yours is %.40q: %w", needed, string(p.Role), access.ErrForbidden)
	case p.Grant.Validate() != nil: // by the authorizer's fault
		err = fmt.Errorf("%w: %w", p.Grant.Validate(), access.ErrForbidden)
	default:
		err = h.checkScope(r, rt)
	}
	if err != nil {
		h.fail(w, r, err)
		return
	}
	if r.Method != http.MethodGet {
		h.options.Logger.InfoContext(r.Context(), "request of a principal", "principal", p.Name, "method", r.Method, "endpoint", r.Pattern)
	}
	h.audited(w, r, handle)
}

// principal returns the principal of a request, and whether it may at least view. Open routes ask it: they show principals more
// than other clients.
func (h *Handler) principal(r *http.Request) (access.Principal, bool) {
	p, err := h.options.Authorize(r)
	if err != nil || p.Grant.Validate() != nil {
		return access.Principal{}, false
	}
	return p, true
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
