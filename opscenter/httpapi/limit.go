package httpapi

import (
	"errors"
	"net/http"
	"net/netip"
	"sync"

	"golang.org/x/time/rate"

	"github.com/opscenter-go/sdk/opscenter"
)

// limiter counts failures of unknown clients by address. It remembers the last max addresses. A further address takes the place of
// the oldest, in constant time.
type limiter struct {
	perMinute, max int

	mu        sync.Mutex
	addresses map[netip.Prefix]*rate.Limiter
	ring      []netip.Prefix // the keys of addresses, in the order in which they came
	oldest    int            // in the ring, once it is full
}

func newLimiter(perMinute, max int) *limiter {
	return &limiter{perMinute: perMinute, max: max, addresses: map[netip.Prefix]*rate.Limiter{}}
}

// networkOf returns the network that counts as one address: of IPv6 a /64, because one host can use all of it.
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
		known = rate.NewLimiter(rate.Limit(float64(l.perMinute)/60), l.perMinute)
		l.remember(key, known)
	}
	known.Allow()
}

func (l *limiter) remember(key netip.Prefix, limiter *rate.Limiter) {
	if len(l.ring) < l.max {
		l.ring = append(l.ring, key)
	} else {
		delete(l.addresses, l.ring[l.oldest])
		l.ring[l.oldest] = key
		l.oldest = (l.oldest + 1) % l.max
	}
	l.addresses[key] = limiter
}

// tooMany answers a request from an address that has failed too often, unless heard admits it. It reports whether it answered. heard
// is called for such addresses alone, because it reads the store.
func (h *Handler) tooMany(w http.ResponseWriter, r *http.Request, heard func(*http.Request) bool) bool {
	if !h.limiter.blocked(r.RemoteAddr) || heard(r) {
		return false
	}
	h.options.Logger.InfoContext(r.Context(), "a request was refused: too many requests from its address have failed", "remote", r.RemoteAddr, "method", r.Method, "path", shownPath(r))
	w.Header().Set("Retry-After", "60")
	respondError(w, http.StatusTooManyRequests, "Too many failed requests from this address")
	return true
}

// isRegistered reports whether a request comes with the certificate of a registered server.
func (h *Handler) isRegistered(r *http.Request) bool { return !h.isStranger(r) }

// isStranger reports whether the client is no registered server. If the store does not answer, the client counts as a registered
// server.
func (h *Handler) isStranger(r *http.Request) bool {
	certificate := clientCertificate(r)
	if certificate == nil {
		return true
	}
	err := h.registry.Read(r.Context(), func(s *opscenter.Snapshot) error {
		_, err := s.ServerByFingerprint(opscenter.Fingerprint(certificate))
		return err
	})
	return errors.Is(err, opscenter.ErrUnknownCertificate)
}

// isAdmitted reports whether a request comes from a registered server, or with a token that admits one.
func (h *Handler) isAdmitted(r *http.Request) bool {
	if h.isRegistered(r) {
		return true
	}
	token, err := h.registry.Token(r.Context(), r.URL.Query().Get("token"))
	return err == nil && token.UsesRemaining > 0 && h.registry.Observer().Now().Before(token.ExpireAt)
}
