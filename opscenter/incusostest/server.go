// Package incusostest simulates IncusOS servers, with real TLS listeners, for tests and
// demonstrations, as net/http/httptest does for HTTP servers:
//
//	server, err := incusostest.New(incusostest.Options{Name: "server01"})
//	defer server.Close()
//	err = server.Register(ctx, incusostest.Provider{ServerURL: url, Token: token})
//
// A server registers, sends self updates, serves IncusOS's API under /os/ and, for type
// incus, the part of Incus's API that a control plane uses; it stages updates, reboots, is
// evacuated and restored, changes its network and rolls that back. Faults can be switched
// on. Thousands fit into one process.
package incusostest

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
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

// Options of New. The zero value is a ready Incus server, member of a cluster of its own.
type Options struct {
	// Name is the host name. Default: "sim-" and a part of the machine ID.
	Name string
	// Application is the primary one: "incus", "incus-lts-6.0", "migration-manager",
	// "operations-center", or any other. Default "incus".
	Application string
	// Version of the OS and all applications. Default: Release, else "202610010000".
	Version string
	// Fresh: the server is freshly installed, and has no application: Install fetches it from the feed of the control plane.
	Fresh bool
	// Architecture of its processor. Default "x86_64".
	Architecture string
	// Standalone: an Incus server that is in no cluster.
	Standalone bool
	// Address to listen on. Default: a loopback address of its own, port 8443; where the
	// system has only one loopback address, any free port of that.
	Address string
	// Delays of what takes time on a real server. Default: 10 ms each.
	UpdateDelay, RebootDelay, EvacuateDelay time.Duration
	// Release is the IncusOS release as which the server speaks, until it runs a newer version:
	// what that did not tell yet is not told, as with machine_id before 202605290000 and is_primary
	// before 202606240000. It must not be older than Version. Default: the newest.
	Release string
	// Plain: an Incus server that is not on IncusOS. It answers nothing under /os/, and does not register.
	Plain bool
	// SystemUUID of the hardware. Default: random.
	SystemUUID string
	// VirtualFunctions is how many each network card has: eight cards with 128 are 800 KiB of hardware.
	VirtualFunctions int
	// LegacyNetwork knows no changes of the network that are undone unless they are confirmed, as older releases.
	LegacyNetwork bool
	// LegacyVolumes lists the snapshots of storage volumes among the volumes, as older releases of Incus do.
	LegacyVolumes bool
	// LegacyReady leaves out system_is_ready, as older releases do, and tells the uptime as a string.
	LegacyReady bool
	// Backend is the Unix socket of a real Incus daemon: what is not under /os/ goes there.
	Backend string
	// WhileDown is called while the server is down, on its way through a reboot: whoever has
	// a Backend restarts it there.
	WhileDown func()
	// StateDir keeps what the server is: one that is made with the same name and directory
	// goes on from there, and where the process ended in the middle of a reboot, that goes on too.
	StateDir string
	// Seed makes the hardware; servers with different seeds differ. Default: random.
	Seed uint64
}

func (o Options) withDefaults() Options {
	if o.Application == "" {
		o.Application = "incus"
	}
	o.Version = cmp.Or(o.Version, o.Release, "202610010000")
	o.Architecture = cmp.Or(o.Architecture, "x86_64")
	for _, d := range []*time.Duration{&o.UpdateDelay, &o.RebootDelay, &o.EvacuateDelay} {
		if *d == 0 {
			*d = 10 * time.Millisecond
		}
	}
	if o.Seed == 0 {
		o.Seed = mrand.Uint64() | 1
	}
	return o
}

// Server is a simulated IncusOS server. All methods may be called concurrently.
type Server struct {
	options   Options
	handler   http.Handler
	transport *http.Transport // for what it calls itself
	connsMu   sync.Mutex
	conns     map[net.Conn]bool
	presented *tls.Certificate // when it is connected to; nil: its own

	stop context.CancelFunc // ends what goes on in the background
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
	off      bool // powered off, or on its way through a reboot
	closed   bool
	// rebooting: it was asked to, and is not back. reboots is how often it was.
	rebooting bool
	reboots   int
	trouble   Trouble
	incus     *daemon
	fleet     *Fleet // it belongs to, and has no sockets; nil: none

	seeds     map[string][]byte // what is in the seed partition of its disk
	feed      bool              // its updates come from the control plane
	console   []string
	listed    []feedUpdate // the updates of the feed, as they were then
	listedAt  time.Time
	anonymous *http.Transport // without a client certificate

	saving sync.Mutex // the file
}

// Provider is the provider configuration out of a server's seed.
type Provider struct {
	// ServerURL of the control plane.
	ServerURL string
	Token     string
	// Certificate of the control plane, to be pinned; nil: any is accepted.
	Certificate *x509.Certificate
}

// New boots a server: it listens, and is ready.
func New(options Options) (*Server, error) { return newServer(options, nil) }

func newServer(options Options, fleet *Fleet) (*Server, error) {
	if r := options.Release; r != "" {
		if _, err := time.Parse("200601021504", r); err != nil {
			return nil, fmt.Errorf("Options.Release %q: YYYYMMDDHHMM is wanted", r)
		}
		if newer(options.Version, r) {
			return nil, fmt.Errorf("Options.Release %s: no such server runs version %s, which is newer", r, options.Version)
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
		s.hangUp()
	}
	if s.rebooting { // the process ended in the middle
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
					return errors.New("the control plane presents another certificate than the pinned one")
				}
				return nil
			},
		},
	}
	return nil
}

// loopbacks hands out a loopback address of its own to each server of the process: ports of
// servers that are down stay theirs then. It begins at a random place, for the sake of other processes.
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

// listen starts serving. s.mu is held.
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
			if other, err = selfsigned.Expired("somebody-else"); err != nil {
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
		IdleTimeout:       30 * time.Second, // as Incus does
		ErrorLog:          log.New(io.Discard, "", 0),
	}
	web, listener := s.web, s.listener
	config.NextProtos = []string{"http/1.1"}
	s.tls = config
	s.wait.Go(func() { _ = web.Serve(tls.NewListener(listener, config)) })
	return nil
}

// stranger is a certificate that no server has.
var stranger = sync.OnceValue(func() tls.Certificate {
	made, err := selfsigned.New("somebody-else")
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

// hangUp stops serving, and cuts all connections. s.mu is held.
func (s *Server) hangUp() {
	if web := s.web; web != nil {
		s.wait.Go(func() { s.cutEvents(web) }) // their connections are not web's any more; s.mu must not be held for it
		s.listener.release()
		_ = s.listener.Close() // Serve may not have begun, and web not know of it
		_ = s.web.Close()
		s.web, s.listener = nil, nil
	}
}

// hangUpLater stops listening, and cuts connections when nothing is asked over them any more. s.mu is held.
func (s *Server) hangUpLater() {
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

// Close shuts the server down for good.
func (s *Server) Close() {
	s.mu.Lock()
	if !s.closed {
		s.closed = true
		s.stop()
		s.hangUp()
	}
	s.mu.Unlock()
	s.wait.Wait()
	s.transport.CloseIdleConnections()
	if s.anonymous != nil {
		s.anonymous.CloseIdleConnections()
	}
}

// later runs what takes time on a real server, unless the server is closed first.
func (s *Server) later(delay time.Duration, do func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.laterLocked(delay, do)
}

// laterLocked is later for those who hold s.mu.
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

// URL returns the connection URL.
func (s *Server) URL() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return "https://" + s.address
}

// Certificate returns the server's certificate.
func (s *Server) Certificate() *x509.Certificate {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.identity.Leaf
}

// CertificatePEM returns the server's certificate in PEM form.
func (s *Server) CertificatePEM() string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}))
}

// MachineID returns the machine ID of the installation.
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

// Requests returns how many requests to a path have been served; with a method other than GET and
// a space before it, how many of those.
func (s *Server) Requests(path string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.requests[path]
}

// Trust makes the server accept a client certificate, as its answer to Register does.
func (s *Server) Trust(certificate *x509.Certificate) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.trusted[fingerprint(certificate)] = true
	s.unsaved()
}

// Reinstall installs the server anew: same hardware, new certificate and machine ID, no trust.
func (s *Server) Reinstall() error { return s.install() }

// SwapCertificate makes the server present another certificate from now on.
func (s *Server) SwapCertificate() error {
	identity, err := selfsigned.New("root@"+s.options.Name, s.options.Name)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.identity = identity
	s.hangUp() // sessions of the old certificate end with it
	return s.serve()
}

// Cut closes the connections there are, as an Incus daemon does with those that are idle for
// 30 s. TLS sessions can be gone on with.
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

// track keeps the connections there are.
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

// Present makes the server answer with another certificate than its own, as a member of a
// cluster does, or one with a publicly trusted certificate; nil: with its own again. Who it is
// for what it calls itself does not change.
func (s *Server) Present(certificate *tls.Certificate) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.presented = certificate
	s.hangUp()
	return s.serve()
}

// endSessions ends the TLS sessions there are: who comes again sees the certificate anew.
// Connections that are open stay. s.mu is held.
func (s *Server) endSessions() {
	if s.tls != nil {
		var key [32]byte
		_, _ = rand.Read(key[:])
		s.tls.SetSessionTicketKeys([][32]byte{key})
	}
}

// serve listens where the server is to be found, unless it is down. s.mu is held.
func (s *Server) serve() error {
	if s.closed || s.off || s.fault.Kind == FaultDown {
		return nil
	}
	if host, _, _ := net.SplitHostPort(s.address); s.network.killed[host] {
		return nil
	}
	return s.listen(s.address)
}
