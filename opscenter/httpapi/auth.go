package httpapi

import (
	"crypto/x509"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/opscenter-go/sdk/opscenter"
)

// Authorizer says who sends a request to the operators' API, or, with an error, that the
// sender may not. The error's text goes to the log, and not to the sender.
type Authorizer func(r *http.Request) (principal string, err error)

// ErrNotAuthorized is what the authorizers of this package refuse with.
var ErrNotAuthorized = errors.New("not authorized")

// TrustCertificates admits whoever presents one of these client certificates, valid at the time.
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

// TrustUnixSocket admits whoever connects over a Unix socket: its file's mode says who can.
func TrustUnixSocket() Authorizer {
	return func(r *http.Request) (string, error) {
		if address, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr); ok && address.Network() == "unix" {
			return "unix socket", nil
		}
		return "", ErrNotAuthorized
	}
}

// AnyOf admits whom one of the authorizers admits.
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

// authorized admits operators only.
func (h *Handler) authorized(handle http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		principal, err := h.options.Authorize(r)
		if err != nil {
			h.options.Logger.InfoContext(r.Context(), "an operator's request was refused", "remote", r.RemoteAddr, "method", r.Method, "error", err)
			respondError(w, http.StatusForbidden, "Not authorized")
			return
		}
		if r.Method != http.MethodGet {
			h.options.Logger.InfoContext(r.Context(), "operator's request", "principal", principal, "method", r.Method, "endpoint", r.Pattern)
		}
		h.audited(w, r.WithContext(opscenter.By(r.Context(), principal)), handle)
	}
}

// clientCertificate returns the certificate of the TLS handshake, nil if there is none.
func clientCertificate(r *http.Request) *x509.Certificate {
	if r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
		return nil
	}
	return r.TLS.PeerCertificates[0]
}

// limiter counts failures by address.
type limiter struct {
	perMinute, max int

	mu        sync.Mutex
	addresses map[netip.Prefix]*rate.Limiter
}

func newLimiter(perMinute, max int) *limiter {
	return &limiter{perMinute: perMinute, max: max, addresses: map[netip.Prefix]*rate.Limiter{}}
}

// networkOf is what counts as one address: of IPv6, a /64, all of which is one host's to use.
func networkOf(remote string) netip.Prefix {
	address, err := netip.ParseAddrPort(remote)
	if err != nil {
		return netip.Prefix{} // a Unix socket
	}
	bits := 32
	ip := address.Addr().Unmap()
	if ip.Is6() {
		bits = 64
	}
	prefix, _ := ip.Prefix(bits)
	return prefix
}

// blocked reports whether an address has failed too often.
func (l *limiter) blocked(remote string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	known := l.addresses[networkOf(remote)]
	return known != nil && known.Tokens() < 1
}

// failed counts a failure.
func (l *limiter) failed(remote string) {
	if l.perMinute < 0 {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	key := networkOf(remote)
	known := l.addresses[key]
	if known == nil {
		l.makeRoom()
		known = rate.NewLimiter(rate.Limit(float64(l.perMinute)/60), l.perMinute)
		l.addresses[key] = known
	}
	known.Allow()
}

// makeRoom forgets the addresses that have recovered or, if all are failing still, any.
func (l *limiter) makeRoom() {
	if len(l.addresses) < l.max {
		return
	}
	for key, known := range l.addresses {
		if known.Tokens() >= float64(l.perMinute) {
			delete(l.addresses, key)
		}
	}
	for key := range l.addresses {
		if len(l.addresses) < l.max {
			return
		}
		delete(l.addresses, key)
	}
}
