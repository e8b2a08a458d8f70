package webui

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/opscenter-go/sdk/internal/defaults"
	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/access"
)

// cookieName is the name of the session's cookie. A browser accepts one with this prefix only over HTTPS, from the host itself, and for all
// paths (RFC 6265bis, 4.1.3.2).
const cookieName = "__Host-opscenter"

// Defaults of SessionOptions.
const (
	DefaultIdleTimeout = 30 * time.Minute
	DefaultLifetime    = 12 * time.Hour
	DefaultMaxSessions = 10_000
	// maxOfOne bounds the sessions of one principal. A further one ends the oldest.
	maxOfOne = 20
)

// ErrTooManySessions means that SessionOptions.MaxSessions are open.
var ErrTooManySessions = errors.New("too many sessions are open")

// SessionOptions are the options of NewSessions.
type SessionOptions struct {
	// IdleTimeout ends a session that loads no page and sends no form for that long. What a page loads by itself does not count.
	// Default 30 minutes.
	IdleTimeout time.Duration
	// Lifetime ends a session, however it is used. Default 12 hours.
	Lifetime time.Duration
	// MaxSessions bounds the sessions that are open at a time. Default 10,000.
	MaxSessions int
}

// Check returns the principal of a session. It is called for each request, so that a session ends with the credentials that began it.
type Check func(ctx context.Context) (access.Principal, error)

// Sessions are the sessions of browsers. They are in memory: the end of the process ends them. All methods may be called concurrently.
type Sessions struct {
	options SessionOptions

	mu   sync.Mutex
	open map[[sha256.Size]byte]*session // by the digest of the secret in the cookie
}

type session struct {
	principal   string
	check       Check
	begun, used time.Time
}

// NewSessions returns an empty set of sessions. Errors: opscenter.ErrInvalidOptions.
func NewSessions(options SessionOptions) (*Sessions, error) {
	err := defaults.Fill(opscenter.ErrInvalidOptions, defaults.Of("IdleTimeout", &options.IdleTimeout, DefaultIdleTimeout),
		defaults.Of("Lifetime", &options.Lifetime, DefaultLifetime), defaults.Of("MaxSessions", &options.MaxSessions, DefaultMaxSessions))
	return &Sessions{options: options, open: map[[sha256.Size]byte]*session{}}, err
}

// Start begins a session for the client of a request, whose principal check returns, and ends the session that it had. The answer must not have
// begun. Errors: ErrTooManySessions, and those of check.
func (s *Sessions) Start(w http.ResponseWriter, r *http.Request, check Check) error {
	p, err := check(r.Context())
	if err != nil {
		return err
	}
	s.End(w, r)
	secret, now := rand.Text(), time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.makeRoom(p.Name, now)
	if len(s.open) >= s.options.MaxSessions {
		return fmt.Errorf("%w: %d", ErrTooManySessions, s.options.MaxSessions)
	}
	s.open[sha256.Sum256([]byte(secret))] = &session{principal: p.Name, check: check, begun: now, used: now}
	http.SetCookie(w, &http.Cookie{Name: cookieName, Value: secret, Path: "/", Secure: true, HttpOnly: true, SameSite: http.SameSiteLaxMode, MaxAge: int(s.options.Lifetime.Seconds())})
	return nil
}

// makeRoom removes sessions that have ended, and the oldest of a principal that has maxOfOne. s.mu is held.
func (s *Sessions) makeRoom(principal string, now time.Time) {
	var oldest [sha256.Size]byte
	begun, count := now, 0
	for key, one := range s.open {
		switch {
		case s.ended(one, now):
			delete(s.open, key)
		case one.principal == principal:
			if count++; !one.begun.After(begun) {
				oldest, begun = key, one.begun
			}
		}
	}
	if count >= maxOfOne {
		delete(s.open, oldest)
	}
}

// End ends the session of a request, if it has one, and removes its cookie.
func (s *Sessions) End(w http.ResponseWriter, r *http.Request) {
	cookie, err := r.Cookie(cookieName)
	if err != nil {
		return
	}
	s.mu.Lock()
	delete(s.open, sha256.Sum256([]byte(cookie.Value)))
	s.mu.Unlock()
	http.SetCookie(w, &http.Cookie{Name: cookieName, Path: "/", Secure: true, HttpOnly: true, SameSite: http.SameSiteLaxMode, MaxAge: -1})
}

// Authorize returns the principal of the session of a request, for httpapi.Options.Authorize. It returns access.ErrUnauthenticated if the
// request has no session, or one that has ended. It ends a session whose credentials are no longer admitted.
func (s *Sessions) Authorize(r *http.Request) (access.Principal, error) {
	cookie, err := r.Cookie(cookieName)
	if err != nil {
		return access.Principal{}, access.ErrUnauthenticated
	}
	key, now := sha256.Sum256([]byte(cookie.Value)), time.Now()
	s.mu.Lock()
	one := s.open[key]
	if one != nil && s.ended(one, now) {
		delete(s.open, key)
		one = nil
	}
	if one != nil && byPerson(r) {
		one.used = now
	}
	s.mu.Unlock()
	if one == nil {
		return access.Principal{}, access.ErrUnauthenticated
	}
	p, err := one.check(r.Context())
	if errors.Is(err, access.ErrUnauthenticated) || errors.Is(err, access.ErrForbidden) {
		s.mu.Lock()
		delete(s.open, key)
		s.mu.Unlock()
	}
	return p, err
}

// ended reports whether a session has ended by its timeouts.
func (s *Sessions) ended(one *session, now time.Time) bool {
	return now.Sub(one.begun) >= s.options.Lifetime || now.Sub(one.used) >= s.options.IdleTimeout
}

// byPerson reports whether a request comes of an act of a person: a page is loaded, or a form is sent. Scripts of a page send the others
// (Fetch Metadata, Sec-Fetch-Mode).
func byPerson(r *http.Request) bool {
	return r.Method != http.MethodGet || cmp.Or(r.Header.Get("Sec-Fetch-Mode"), "navigate") == "navigate"
}
