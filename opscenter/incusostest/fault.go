package incusostest

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"
)

// FaultKind is a way for a server to fail.
type FaultKind string

const (
	FaultNone FaultKind = ""
	// FaultDown: connections are refused.
	FaultDown FaultKind = "down"
	// FaultSilent: connections are accepted, and nothing is ever said.
	FaultSilent FaultKind = "silent"
	// FaultHang: GET / is answered, everything else never.
	FaultHang FaultKind = "hang"
	// FaultSlow: every answer takes Delay longer.
	FaultSlow FaultKind = "slow"
	// FaultTrickle: answers come byte by byte, with Delay between them.
	FaultTrickle FaultKind = "trickle"
	// FaultGarbage: answers are not JSON.
	FaultGarbage FaultKind = "garbage"
	// FaultTruncated: answers end in the middle.
	FaultTruncated FaultKind = "truncated"
	// FaultHuge: answers don't end for 1 GiB.
	FaultHuge FaultKind = "huge"
	// FaultWrongCertificate: somebody else's certificate is presented.
	FaultWrongCertificate FaultKind = "wrong certificate"
	// FaultExpiredCertificate: somebody else's certificate is presented, one that has expired.
	FaultExpiredCertificate FaultKind = "expired certificate"
	// FaultReset: connections are reset in the middle of an answer.
	FaultReset FaultKind = "reset"
	// FaultError: every request fails with status 500.
	FaultError FaultKind = "error 500"
	// FaultNotFound: every request is answered with status 404.
	FaultNotFound FaultKind = "not found"
)

// FaultErrorText is what a server says with FaultError.
const FaultErrorText = "Something is wrong inside"

// Faults lists all kinds but none.
var Faults = []FaultKind{FaultDown, FaultSilent, FaultHang, FaultSlow, FaultTrickle, FaultGarbage, FaultTruncated,
	FaultHuge, FaultWrongCertificate, FaultExpiredCertificate, FaultReset, FaultError, FaultNotFound}

// Fault is a failure to switch on.
type Fault struct {
	Kind FaultKind
	// Delay for FaultSlow and FaultTrickle. Default 1 s.
	Delay time.Duration
	// Path limits the faults of answers to paths that begin with it, Method to requests with
	// it; empty: all.
	Path   string
	Method string
	// Times is how many answers it spoils before it is over; 0: all.
	Times int
}

// SetFault switches a fault on, or off with the zero value. Connections are cut either way,
// so that it takes effect at once.
func (s *Server) SetFault(fault Fault) error {
	if fault.Delay == 0 {
		fault.Delay = time.Second
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fault = fault
	s.hangUp()
	return s.serve()
}

// faultListener accepts connections and, for FaultSilent, keeps them from being served.
type faultListener struct {
	net.Listener
	fault Fault

	mu       sync.Mutex
	held     []net.Conn
	released bool
}

func (l *faultListener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil || l.fault.Kind != FaultSilent {
			return conn, err
		}
		l.mu.Lock()
		if l.released {
			conn.Close()
		} else {
			l.held = append(l.held, conn)
		}
		l.mu.Unlock()
	}
}

func (l *faultListener) release() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, conn := range l.held {
		conn.Close()
	}
	l.held, l.released = nil, true
}

// faulty applies the faults that concern answers.
func (s *Server) faulty(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		fault := s.fault
		s.requests[r.URL.Path]++
		if r.Method != http.MethodGet {
			s.requests[r.Method+" "+r.URL.Path]++
		}
		hit := fault.Kind != FaultNone && strings.HasPrefix(r.URL.Path, fault.Path) && (fault.Method == "" || r.Method == fault.Method)
		if hit && fault.Times > 0 {
			if s.fault.Times--; s.fault.Times == 0 {
				s.fault = Fault{}
			}
		}
		s.mu.Unlock()
		if !hit {
			next.ServeHTTP(w, r)
			return
		}
		switch fault.Kind {
		case FaultHang:
			if r.URL.Path == "/" {
				next.ServeHTTP(w, r)
				return
			}
			pause(r, s, time.Hour)
			panic(http.ErrAbortHandler)
		case FaultSlow:
			if pause(r, s, fault.Delay) {
				next.ServeHTTP(w, r)
			}
		case FaultTrickle:
			answer := record(next, r)
			copyHead(w, answer)
			for _, b := range answer.body.Bytes() {
				if _, err := w.Write([]byte{b}); err != nil {
					return
				}
				if http.NewResponseController(w).Flush() != nil || !pause(r, s, fault.Delay) {
					return
				}
			}
		case FaultGarbage:
			_, _ = w.Write([]byte("\x00\xff{]<html>not what you think</html>"))
		case FaultTruncated:
			answer := record(next, r)
			w.Header().Set("Content-Length", fmt.Sprint(answer.body.Len()))
			copyHead(w, answer)
			_, _ = w.Write(answer.body.Bytes()[:answer.body.Len()/2])
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		case FaultReset:
			answer := record(next, r)
			w.Header().Set("Content-Length", fmt.Sprint(answer.body.Len()))
			copyHead(w, answer)
			_, _ = w.Write(answer.body.Bytes()[:answer.body.Len()/2])
			_ = http.NewResponseController(w).Flush()
			if over, ok := r.Context().Value(connKey{}).(*tls.Conn); ok {
				if raw, ok := over.NetConn().(*net.TCPConn); ok {
					_ = raw.SetLinger(0) // closing it resets it
				}
			}
			panic(http.ErrAbortHandler)
		case FaultHuge:
			_, _ = w.Write([]byte(`{"type":"sync","status":"Success","status_code":200,"metadata":{"x":"`))
			chunk := bytes.Repeat([]byte("x"), 1<<20)
			for range 1 << 10 {
				if _, err := w.Write(chunk); err != nil {
					return
				}
			}
		case FaultError:
			respondError(w, http.StatusInternalServerError, FaultErrorText)
		case FaultNotFound:
			respondError(w, http.StatusNotFound, "Not Found")
		default:
			next.ServeHTTP(w, r)
		}
	})
}

// connKey is where a request's context has its connection.
type connKey struct{}

// pause waits, and reports whether the client and the server are still there.
func pause(r *http.Request, s *Server, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-r.Context().Done():
	case <-s.ctx.Done():
	}
	return false
}

// recorded is an answer that was not sent, yet.
type recorded struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (r *recorded) Header() http.Header         { return r.header }
func (r *recorded) WriteHeader(status int)      { r.status = status }
func (r *recorded) Write(p []byte) (int, error) { return r.body.Write(p) }

func record(next http.Handler, r *http.Request) *recorded {
	answer := &recorded{header: http.Header{}, status: http.StatusOK}
	next.ServeHTTP(answer, r)
	return answer
}

func copyHead(w http.ResponseWriter, answer *recorded) {
	for key, values := range answer.header {
		w.Header()[key] = values
	}
	w.WriteHeader(answer.status)
}
