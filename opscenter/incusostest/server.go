// Package incusostest simulates IncusOS servers for tests and demonstrations. The servers have real TLS
// listeners, like those of net/http/httptest:
//
//	server, err := incusostest.New(incusostest.Options{Name: "server01"})
//	defer server.Close()
//	err = server.Register(ctx, incusostest.Provider{ServerURL: url, Token: token})
//
// The main type is Server. New starts one, and Close stops it. A Server registers with a control plane, and
// sends self updates. It serves IncusOS's API under /os/ and, for type incus, the part of Incus's API that
// a control plane uses. It can be updated, rebooted, evacuated and restored. It can change its network, and
// roll the change back. Thousands of servers fit into one process.
//
// Servers can misbehave in three ways. SetFault breaks connections or answers. SetTrouble makes actions
// fail. SetHostile makes a server attack the control plane.
//
// Three more parts:
//   - Fleet has servers without sockets, for tests in a testing/synctest bubble.
//   - Boot installs a server from an installation image.
//   - Publisher publishes signed releases of a simulated IncusOS.
package incusostest

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	mrand "math/rand/v2"
	"net"
	"net/http"
	"runtime"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/opscenter-go/sdk/internal/selfsigned"
)

// Options configures New. The zero value is a ready Incus server that is the only member of a cluster.
type Options struct {
	// Name is the host name. Default: "sim-" and a part of the machine ID.
	Name string
	// Application is the primary application: "incus", "incus-lts-6.0", "migration-manager",
	// "operations-center", or any other. Default "incus".
	Application string
	// Version is that of the OS and all applications. Default: Release, else "202610010000".
	Version string
	// Fresh means that the server is freshly installed, without an application. Install fetches the application from
	// the feed of the control plane.
	Fresh bool
	// Architecture is that of the processor. Default "x86_64".
	Architecture string
	// Standalone means that the Incus server is in no cluster.
	Standalone bool
	// Address is the host:port to listen on. Default: port 8443 of a loopback address of its own. If the system has
	// only one loopback address: a free port of it.
	Address string
	// UpdateDelay, RebootDelay and EvacuateDelay are the durations of these actions. A restore takes EvacuateDelay.
	// A reboot takes RebootDelay until the server is up, and once more until it is ready. Default 10 ms each.
	UpdateDelay, RebootDelay, EvacuateDelay time.Duration
	// Release is the IncusOS release whose API the server simulates, until it runs a newer version. Newer members of
	// answers are missing: machine_id before 202605290000, and is_primary before 202606240000. It has the form
	// YYYYMMDDHHMM, and must not be older than Version. Default: the newest.
	Release string
	// Plain means an Incus server without IncusOS. It answers requests under /os/ with an error, and does not register.
	Plain bool
	// SystemUUID is the UUID of the hardware. Default: random.
	SystemUUID string
	// VirtualFunctions is the number of virtual functions of each network card. If it is set, the server has eight
	// cards; 128 functions on each make 800 KiB of hardware facts. Default 0.
	VirtualFunctions int
	// Hardware are the facts of the hardware, in the form of api.Resources as JSON, as a hostile server may make them up. Default: those of Seed.
	Hardware json.RawMessage
	// LegacyNetwork simulates an older release that does not undo unconfirmed changes of the network.
	LegacyNetwork bool
	// LegacyVolumes simulates an older release of Incus that lists snapshots among the storage volumes.
	LegacyVolumes bool
	// VolumeDelay is the time from the event of a new instance, or of a snapshot, until its volume is there. Default 20 ms.
	// A negative value means none.
	VolumeDelay time.Duration
	// LegacyReady simulates an older release without system_is_ready, whose uptime is a string.
	LegacyReady bool
	// Backend is the path of the Unix socket of a real Incus daemon. The server forwards requests outside /os/ to it.
	Backend string
	// WhileDown, if set, is called while the server is down during a reboot, for example to restart the Backend.
	WhileDown func()
	// StateDir is a directory that keeps the state of the server. A new Server with the same name and directory continues
	// from that state. It also continues a reboot that the end of the process interrupted. Default: none.
	StateDir string
	// Seed determines the hardware facts. Default: random.
	Seed uint64
}

func (o Options) withDefaults() Options {
	if o.Application == "" {
		o.Application = "incus"
	}
	o.Version = cmp.Or(o.Version, o.Release, "202610010000")
	o.Architecture = cmp.Or(o.Architecture, "x86_64")
	for _, d := range []*time.Duration{&o.UpdateDelay, &o.RebootDelay, &o.EvacuateDelay} {
		*d = cmp.Or(*d, 10*time.Millisecond)
	}
	o.VolumeDelay = cmp.Or(o.VolumeDelay, 20*time.Millisecond)
	if o.Seed == 0 {
		o.Seed = mrand.Uint64() | 1
	}
	return o
}

// Server is a simulated IncusOS server. New starts it, and Close stops it. All methods may be called concurrently.
type Server struct {
	options   Options
	handler   http.Handler
	transport *http.Transport // for requests of the server
	connsMu   sync.Mutex
	conns     map[net.Conn]bool
	presented *tls.Certificate // certificate set by Present; nil: its own

	stop context.CancelFunc // ends background work
	ctx  context.Context
	wait sync.WaitGroup

	mu       sync.Mutex
	identity tls.Certificate
	provider Provider
	trusted  map[string]bool // fingerprints of client certificates
	state    state
	network  network
	fault    Fault
	hostile  []Hostility
	web      *http.Server
	tls      *tls.Config // of the listener
	listener *faultListener
	address  string // host:port
	requests map[string]int
	off      bool // powered off, or rebooting
	closed   bool
	// rebooting: a reboot has begun, and the server is not back. reboots counts accepted reboots.
	rebooting bool
	reboots   int
	trouble   Trouble
	incus     *daemon
	fleet     *Fleet // its Fleet, in which it has no sockets; nil: none

	seeds     map[string][]byte // content of its seed partition
	feed      bool              // updates come from the feed of the control plane
	console   []string
	listed    []feedUpdate // the feed's list of updates at listedAt
	listedAt  time.Time
	anonymous *http.Transport // transport without a client certificate

	saving sync.Mutex // held while the file is written
}

// Provider is the provider configuration of a server: how it reaches its control plane.
type Provider struct {
	// ServerURL is the URL of the control plane.
	ServerURL string
	// Token is the registration token.
	Token string
	// Certificate is the only certificate of the control plane that the server accepts. nil: it accepts any.
	Certificate *x509.Certificate
}

// New starts a server. It listens and is ready when New returns, unless Options say otherwise. The caller must close it.
// Errors: an invalid Release, and those of listening and of StateDir.
func New(options Options) (*Server, error) { return newServer(options, nil) }

func newServer(options Options, fleet *Fleet) (*Server, error) {
	if r := options.Release; r != "" {
		if _, err := time.Parse("200601021504", r); err != nil {
			return nil, fmt.Errorf("Options.Release %q must have the form YYYYMMDDHHMM", r)
		}
		if newer(options.Version, r) {
			return nil, fmt.Errorf("Options.Release %s must not be older than version %s", r, options.Version)
		}
	}
	s := &Server{fleet: fleet, options: options.withDefaults(), trusted: map[string]bool{}, requests: map[string]int{}}
	s.ctx, s.stop = context.WithCancel(context.Background())
	if err := s.install(); err != nil {
		return nil, err
	}
	if err := s.restore(); err != nil {
		return nil, err
	}
	s.handler = s.routes()
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.listen(s.options.Address); err != nil {
		s.stop()
		return nil, err
	}
	s.network = newNetwork(s)
	if s.rebooting || s.off {
		s.stopServing()
	}
	if s.rebooting { // the process ended during a reboot
		s.off = true
		s.laterLocked(s.options.RebootDelay, s.PowerOn)
	}
	return s, nil
}

// install gives the server an identity and a fresh state.
func (s *Server) install() error {
	machine := make([]byte, 16)
	_, _ = rand.Read(machine)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.options.Name == "" {
		s.options.Name = "sim-" + hex.EncodeToString(machine[:4])
	}
	identity, err := selfsigned.New("root@"+s.options.Name, s.options.Name)
	if err != nil {
		return err
	}
	systemUUID := cmp.Or(s.state.systemUUID, s.options.SystemUUID, uuid.NewString())
	s.identity = identity
	clear(s.trusted)
	s.state = newState(s.options, hex.EncodeToString(machine), systemUUID)
	s.incus = newDaemon(s, isIncus(s.options.Application) && !s.options.Standalone)
	if s.transport != nil {
		s.transport.CloseIdleConnections()
	}
	if s.anonymous != nil {
		s.anonymous.CloseIdleConnections()
		s.anonymous = nil
	}
	s.transport = &http.Transport{
		Proxy:               nil,
		TLSHandshakeTimeout: 10 * time.Second,
		IdleConnTimeout:     20 * time.Second,
		TLSClientConfig: &tls.Config{
			MinVersion:         tls.VersionTLS13,
			Certificates:       []tls.Certificate{identity},
			InsecureSkipVerify: true,
			VerifyConnection: func(c tls.ConnectionState) error {
				s.mu.Lock()
				defer s.mu.Unlock()
				if pinned := s.provider.Certificate; pinned != nil && !c.PeerCertificates[0].Equal(pinned) {
					return errors.New("the control plane presents a certificate other than the pinned one")
				}
				return nil
			},
		},
	}
	return nil
}

// loopbacks gives each server of the process a loopback address of its own. So no other server can take the port of a
// server that is down. The first address is random, because other processes may use others.
var loopbacks = struct {
	sync.Mutex
	next uint32
}{next: mrand.Uint32N(200<<16) + 1<<16}

func nextLoopback() string {
	loopbacks.Lock()
	defer loopbacks.Unlock()
	loopbacks.next++
	n := 1<<16 + loopbacks.next%(253<<16) // 127.1.0.0 to 127.253.255.255
	if n&0xff == 0 || n&0xff == 0xff {
		loopbacks.next += 2
		n += 2
	}
	return fmt.Sprintf("127.%d.%d.%d:8443", n>>16&0xff, n>>8&0xff, n&0xff)
}

// listen starts serving at an address. Empty: a loopback address of its own. s.mu is held.
func (s *Server) listen(address string) error {
	if s.fleet != nil {
		if s.address = address; address == "" {
			s.address = nextLoopback()
		}
		return nil
	}
	raw, err := s.bind(address)
	if err != nil {
		return err
	}
	s.address = raw.Addr().String()
	s.listener = &faultListener{Listener: raw, fault: s.fault}
	config := &tls.Config{
		MinVersion: tls.VersionTLS13,
		ClientAuth: tls.RequestClientCert,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			s.mu.Lock()
			certificate, presented, incus := s.identity, s.presented, s.incus
			s.mu.Unlock()
			if presented == nil {
				presented = incus.shared()
			}
			if presented != nil {
				certificate = *presented
			}
			return &certificate, nil
		},
	}
	if s.fault.Kind == FaultWrongCertificate || s.fault.Kind == FaultExpiredCertificate {
		other := stranger()
		if s.fault.Kind == FaultExpiredCertificate {
			if other, err = selfsigned.Expired("stranger"); err != nil {
				raw.Close()
				return err
			}
		}
		config.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return &other, nil }
	}
	s.web = &http.Server{
		Handler:           s.handler,
		TLSConfig:         config,
		ConnState:         s.track,
		ConnContext:       func(ctx context.Context, c net.Conn) context.Context { return context.WithValue(ctx, connKey{}, c) },
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       30 * time.Second, // like Incus
		ErrorLog:          log.New(io.Discard, "", 0),
	}
	web, listener := s.web, s.listener
	config.NextProtos = []string{"http/1.1"}
	s.tls = config
	s.wait.Go(func() { _ = web.Serve(tls.NewListener(listener, config)) })
	return nil
}

// stranger returns a certificate that belongs to no server.
var stranger = sync.OnceValue(func() tls.Certificate {
	made, err := selfsigned.New("stranger")
	if err != nil {
		panic(err) // the system has no random numbers
	}
	return made
})

func (s *Server) bind(address string) (net.Listener, error) {
	if address != "" {
		return net.Listen("tcp", address)
	}
	if runtime.GOOS != "linux" {
		return net.Listen("tcp", "127.0.0.1:0")
	}
	for range 20 {
		if raw, err := net.Listen("tcp", nextLoopback()); err == nil {
			return raw, nil
		}
	}
	return net.Listen("tcp", "127.0.0.1:0")
}

// stopServing stops listening, and closes all connections. s.mu is held.
func (s *Server) stopServing() {
	if web := s.web; web != nil {
		s.wait.Go(func() { s.cutEvents(web) }) // web does not close websockets; cutEvents needs s.mu to be free
		s.listener.release()
		_ = s.listener.Close() // web does not know the listener before Serve has begun
		_ = s.web.Close()
		s.web, s.listener = nil, nil
	}
}

// drainConnections stops listening, and closes connections after their active requests. s.mu is held.
func (s *Server) drainConnections() {
	web := s.web
	if web == nil {
		return
	}
	s.wait.Go(func() { s.cutEvents(web) })
	s.listener.release()
	_ = s.listener.Close()
	s.web, s.listener = nil, nil
	s.wait.Go(func() {
		_ = web.Shutdown(s.ctx)
		_ = web.Close()
	})
}

// Close stops the server, and waits for its goroutines. It may be called again.
func (s *Server) Close() {
	s.mu.Lock()
	if !s.closed {
		s.closed = true
		s.stop()
		s.stopServing()
	}
	s.mu.Unlock()
	s.wait.Wait()
	s.transport.CloseIdleConnections()
	if s.anonymous != nil {
		s.anonymous.CloseIdleConnections()
	}
}

// later calls do after a delay, unless the server is closed before that.
func (s *Server) later(delay time.Duration, do func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.laterLocked(delay, do)
}

// laterLocked is later for callers that hold s.mu.
func (s *Server) laterLocked(delay time.Duration, do func()) {
	if s.closed {
		return
	}
	s.wait.Go(func() {
		timer := time.NewTimer(delay)
		defer timer.Stop()
		select {
		case <-timer.C:
			do()
		case <-s.ctx.Done():
		}
	})
}

// Name returns the host name.
func (s *Server) Name() string { return s.options.Name }

// URL returns the connection URL, https://host:port. It changes with the server's network.
func (s *Server) URL() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return "https://" + s.address
}

// Certificate returns the server's own certificate, with which it registers.
func (s *Server) Certificate() *x509.Certificate {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.identity.Leaf
}

// CertificatePEM returns the server's own certificate in PEM form.
func (s *Server) CertificatePEM() string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}))
}

// MachineID returns the machine ID of the installation, 32 hexadecimal digits.
func (s *Server) MachineID() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state.machineID
}

// SystemUUID returns the UUID of the hardware.
func (s *Server) SystemUUID() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state.systemUUID
}

// Requests returns the number of requests for a path. "POST /path" counts only requests with that method; GET has no
// count of its own.
func (s *Server) Requests(path string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.requests[path]
}

// Trust makes the server trust a client certificate, like the certificate in the answer to a registration.
func (s *Server) Trust(certificate *x509.Certificate) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.trusted[fingerprint(certificate)] = true
	s.saveSoon()
}

// Reinstall simulates a new installation on the same hardware. The server gets a new certificate and machine ID, and
// trusts no client.
func (s *Server) Reinstall() error { return s.install() }

// SwapCertificate replaces the server's own certificate. It closes open connections.
func (s *Server) SwapCertificate() error {
	identity, err := selfsigned.New("root@"+s.options.Name, s.options.Name)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.identity = identity
	s.stopServing() // also ends the sessions of the old certificate
	return s.serve()
}

// Cut closes all open connections, like an Incus daemon after 30 s without requests. TLS sessions can still be
// resumed.
func (s *Server) Cut() {
	s.mu.Lock()
	web := s.web
	s.mu.Unlock()
	defer s.cutEvents(web)
	s.connsMu.Lock()
	defer s.connsMu.Unlock()
	for conn := range s.conns {
		conn.Close()
	}
}

// track records the open connections.
func (s *Server) track(conn net.Conn, state http.ConnState) {
	s.connsMu.Lock()
	defer s.connsMu.Unlock()
	switch state {
	case http.StateNew:
		if s.conns == nil {
			s.conns = map[net.Conn]bool{}
		}
		s.conns[conn] = true
	case http.StateClosed, http.StateHijacked:
		delete(s.conns, conn)
	}
}

// Present makes the server present another certificate than its own, such as that of a cluster or a publicly trusted
// one. nil ends that. The server's requests to the control plane keep its own certificate. Present closes open
// connections.
func (s *Server) Present(certificate *tls.Certificate) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.presented = certificate
	s.stopServing()
	return s.serve()
}

// endSessions invalidates the TLS sessions, so that new connections need a full handshake. Open connections stay. s.mu is
// held.
func (s *Server) endSessions() {
	if s.tls != nil {
		var key [32]byte
		_, _ = rand.Read(key[:])
		s.tls.SetSessionTicketKeys([][32]byte{key})
	}
}

// serve listens at the server's address, unless the server is down. s.mu is held.
func (s *Server) serve() error {
	if s.closed || s.off || s.fault.Kind == FaultDown {
		return nil
	}
	if host, _, _ := net.SplitHostPort(s.address); s.network.killed[host] {
		return nil
	}
	return s.listen(s.address)
}
