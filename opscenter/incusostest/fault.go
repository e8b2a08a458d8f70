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

// FaultKind is a way in which a server fails.
type FaultKind string

const (
	// FaultNone is no fault.
	FaultNone FaultKind = ""
	// FaultDown refuses connections.
	FaultDown FaultKind = "down"
	// FaultSilent accepts connections, and sends nothing.
	FaultSilent FaultKind = "silent"
	// FaultHang answers GET /, and never answers other requests.
	FaultHang FaultKind = "hang"
	// FaultSlow delays every answer by Delay.
	FaultSlow FaultKind = "slow"
	// FaultTrickle sends answers byte by byte, with Delay after each.
	FaultTrickle FaultKind = "trickle"
	// FaultGarbage sends answers that are not JSON.
	FaultGarbage FaultKind = "garbage"
	// FaultTruncated sends the first half of answers, and closes the connection.
	FaultTruncated FaultKind = "truncated"
	// FaultHuge sends answers of 1 GiB.
	FaultHuge FaultKind = "huge"
	// FaultWrongCertificate presents the certificate of an unknown server.
	FaultWrongCertificate FaultKind = "wrong certificate"
	// FaultExpiredCertificate presents an expired certificate of an unknown server.
	FaultExpiredCertificate FaultKind = "expired certificate"
	// FaultReset resets connections in the middle of an answer.
	FaultReset FaultKind = "reset"
	// FaultError answers every request with status 500.
	FaultError FaultKind = "error 500"
	// FaultNotFound answers every request with status 404.
	FaultNotFound FaultKind = "not found"
)

// FaultErrorText is the error message of FaultError.
const FaultErrorText = "Something is wrong inside"

// Faults lists all kinds except FaultNone.
var Faults = []FaultKind{FaultDown, FaultSilent, FaultHang, FaultSlow, FaultTrickle, FaultGarbage, FaultTruncated,
	FaultHuge, FaultWrongCertificate, FaultExpiredCertificate, FaultReset, FaultError, FaultNotFound}

// Fault is a failure of a server, for SetFault. The zero value is no failure.
type Fault struct {
	// Kind is the way in which the server fails.
	Kind FaultKind
	// Delay is for FaultSlow and FaultTrickle. Default 1 s.
	Delay time.Duration
	// Path limits faults of answers to requests whose path begins with it. Method limits them to requests
	// with that method. Empty: all requests. Faults of connections ignore both.
	Path   string
	Method string
	// Times is the number of answers with the fault, after which it ends; 0: no limit.
	Times int
}

// SetFault sets the fault of the server, and replaces an earlier one. The zero value ends it. SetFault closes
// open connections, so that the fault takes effect at once. It returns an error if the server can't listen.
func (s *Server) SetFault(fault Fault) error {
	if fault.Delay == 0 {
		fault.Delay = time.Second
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fault = fault
	s.stopServing()
	return s.serve()
}

// faultListener accepts connections. With FaultSilent, it holds them, and the web server never receives them.
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

// injectFaults counts requests, and applies faults of answers.
func (s *Server) injectFaults(next http.Handler) http.Handler {
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
			_, _ = w.Write([]byte("\x00\xff{]<html>an unexpected page</html>"))
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
					_ = raw.SetLinger(0) // closing then resets the connection
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

// connKey is the key of the connection in a request's context.
type connKey struct{}

// pause waits for d. It returns false if the client disconnects or the server closes before that.
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

// recorded is an answer that is held in memory.
type recorded struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (r *recorded) Header() http.Header         { return r.header }
func (r *recorded) WriteHeader(status int)      { r.status = status }
func (r *recorded) Write(p []byte) (int, error) { return r.body.Write(p) }

// record runs a handler, and returns its answer.
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
