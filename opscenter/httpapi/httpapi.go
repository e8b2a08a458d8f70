package httpapi

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net/http"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/sync/semaphore"

	"github.com/opscenter-go/sdk/internal/defaults"
	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/access"
	"github.com/opscenter-go/sdk/opscenter/accesstoken"
	"github.com/opscenter-go/sdk/opscenter/audit"
	"github.com/opscenter-go/sdk/opscenter/image"
	"github.com/opscenter-go/sdk/opscenter/inventory"
	"github.com/opscenter-go/sdk/opscenter/rollout"
	"github.com/opscenter-go/sdk/opscenter/system"
	"github.com/opscenter-go/sdk/opscenter/updates"
)

// Defaults of Options and NewServer.
const (
	DefaultMaxBody           = 64 << 10
	DefaultReadTimeout       = 15 * time.Second
	DefaultWriteTimeout      = 30 * time.Second
	DefaultIdleTimeout       = 60 * time.Second
	DefaultFailuresPerMinute = 30
	DefaultMaxAddresses      = 10_000
	DefaultMaxForward        = 1 << 30
	DefaultMaxRedacted       = 4 << 20
	DefaultForwardTimeout    = 15 * time.Minute

	DefaultMaxDownloads           = 1000
	DefaultMaxDownloadsPerAddress = 250
	DefaultDownloadPatience       = 10 * time.Minute
)

// Options of New.
type Options struct {
	// ClientCertificate is the certificate with which the control plane connects to servers. A server gets it when it
	// registers, and trusts it from then on. Required.
	ClientCertificate *x509.Certificate
	// Authorize admits clients to the operators' API. Default: it is closed. See TrustCertificates,
	// TrustAccessTokens, TrustUnixSocket and AnyOf.
	Authorize Authorizer
	// AccessTokens are managed over the API; nil: those endpoints answer 501. TrustAccessTokens admits clients with them.
	AccessTokens *accesstoken.Tokens
	// Origins are those of web pages of yours, as "https://ops.example.com", that may use the operators'
	// API from a browser. Default: the API's own host alone.
	Origins []string
	// Hosts are the names, and IP addresses, under which the operators' API may be called, without
	// ports. With them a page can't reach it under a name of its own (DNS rebinding). Default: all. They do not
	// count for a Unix socket.
	Hosts []string
	// Logger gets refused requests and internal errors. Default: nothing is logged.
	Logger *slog.Logger
	// Version is the server_version of GET /1.0. Default "opscenter".
	Version string
	// Rollouts carries out rolling updates and single actions; nil: those endpoints answer 501.
	Rollouts *rollout.Manager
	// Clusters forms clusters; nil: they are only recorded.
	Clusters Former
	// Inventory lists the objects in clusters; nil: those endpoints answer 501.
	Inventory *inventory.Manager
	// Adopt takes in Incus servers that don't register themselves; nil: its endpoint answers 501.
	Adopt Adopter
	// System changes servers: their networks and settings, their installation; nil: those
	// endpoints answer 501. Its Run must run: it finishes changes whose clients have left.
	System *system.Manager
	// Audit logs each request that changes something, with its outcome. Default: the log of System. With System it must be
	// that log. Without both no log is kept.
	Audit *audit.Log
	// Forward sends requests to servers' own OS APIs, under servers/{name}/os/; nil: those endpoints answer 501.
	Forward Forwarder
	// ShowSecrets reports whether a principal sees secrets in the answers of servers' own APIs. Other principals see JSON
	// without secrets, and no answers of other types. Default: no principal does.
	ShowSecrets func(principal string) bool
	// MaxForward bounds the bodies of requests to servers' own APIs and of their answers, and
	// MaxRedacted answers of which secrets are removed, in bytes. Defaults 1 GiB and 4 MiB.
	MaxForward, MaxRedacted int64
	// ForwardTimeout bounds a request to a server's own API. Default 15 minutes.
	ForwardTimeout time.Duration
	// Updates is the update feed, for servers and for operators; nil: those endpoints answer 501.
	Updates *updates.Manager
	// Images makes installation images, for operators; nil: those endpoints answer 501.
	Images *image.Manager
	// MaxDownloads bounds the files and images that are sent at a time to unknown clients, and as many to registered servers and
	// operators. A server is unknown until it has registered. MaxDownloadsPerAddress bounds those to one address (of
	// IPv6: a /64). Further requests wait for at most DownloadPatience. As many may wait as may be sent, in all and from one
	// address. A request beyond that, or one that waited too long, is answered 503. Defaults 1000, 250 and 10 minutes.
	MaxDownloads, MaxDownloadsPerAddress int
	DownloadPatience                     time.Duration
	// MaxStreams bounds the streams of events and audit entries that are open at a time. A further one is answered 503. Default 1000.
	MaxStreams int
	// DownloadRate bounds the rate of all downloads together, in bytes a second. Default 0: no limit.
	DownloadRate int64
	// MaxBody bounds a request's body, in bytes. Default 64 KiB. Seeds, uploads and forwarded requests have limits of their own.
	MaxBody int64
	// ReadTimeout bounds the time for a request's body. Default 15 s.
	ReadTimeout time.Duration
	// WriteTimeout bounds the time in which a client must take some of a long answer. Default 30 s.
	WriteTimeout time.Duration
	// FailuresPerMinute bounds the failed registrations and self updates of unknown clients at one address (of IPv6: a /64),
	// per minute and in one burst. Beyond it unknown clients there are answered 429. Registered servers and clients with a
	// valid token are still served. Default 30; below 0: no limit.
	FailuresPerMinute int
	// MaxAddresses bounds the addresses whose failures are counted at a time. Default 10,000.
	MaxAddresses int
}

// Handler serves the API. It may be used concurrently.
type Handler struct {
	registry    *opscenter.Registry
	options     Options
	certificate string
	limiter     *limiter
	crossSite   *crossSite
	// downloads are the places of unknown clients, known those of registered servers and operators. packing bounds the images
	// that are packed at a time.
	downloads, known *downloads
	packing          *semaphore.Weighted
	streams          *semaphore.Weighted        // of events and audit entries
	images           *lru.Cache[string, string] // ETags of the images of which clients have parts
	changelogs       *semaphore.Weighted        // bounds those that are made at a time
	mux              *http.ServeMux
	rows             []*route // the table of routes
	byPattern        map[string]*route
	description      []byte           // of the API, as JSON
	announceServers  http.HandlerFunc // of a row that shares its pattern
}

// New returns the handler. Errors: opscenter.ErrInvalidOptions.
func New(registry *opscenter.Registry, options Options) (*Handler, error) {
	if options.ClientCertificate == nil {
		return nil, fmt.Errorf("ClientCertificate is missing: %w", opscenter.ErrInvalidOptions)
	}
	if options.Authorize == nil {
		options.Authorize = func(*http.Request) (access.Principal, error) { return access.Principal{}, errClosed }
	}
	if options.Logger == nil {
		options.Logger = slog.New(slog.DiscardHandler)
	}
	if options.Version == "" {
		options.Version = "opscenter"
	}
	err := defaults.Fill(opscenter.ErrInvalidOptions,
		defaults.Of("MaxBody", &options.MaxBody, DefaultMaxBody), defaults.Of("ReadTimeout", &options.ReadTimeout, DefaultReadTimeout),
		defaults.Of("WriteTimeout", &options.WriteTimeout, DefaultWriteTimeout), defaults.Of("MaxForward", &options.MaxForward, DefaultMaxForward),
		defaults.Of("MaxRedacted", &options.MaxRedacted, DefaultMaxRedacted), defaults.Of("ForwardTimeout", &options.ForwardTimeout, DefaultForwardTimeout),
		defaults.Of("MaxAddresses", &options.MaxAddresses, DefaultMaxAddresses), defaults.Of("MaxDownloads", &options.MaxDownloads, DefaultMaxDownloads),
		defaults.Of("MaxStreams", &options.MaxStreams, DefaultMaxStreams),
		defaults.Of("MaxDownloadsPerAddress", &options.MaxDownloadsPerAddress, DefaultMaxDownloadsPerAddress),
		defaults.Of("DownloadPatience", &options.DownloadPatience, DefaultDownloadPatience), defaults.Of("DownloadRate", &options.DownloadRate, 0))
	if err != nil {
		return nil, err
	}
	if options.System != nil {
		if options.Audit == nil {
			options.Audit = options.System.Audit()
		}
		if options.Audit != options.System.Audit() {
			return nil, fmt.Errorf("option Audit is not the audit log of System: %w", opscenter.ErrInvalidOptions)
		}
	}
	if options.FailuresPerMinute == 0 {
		options.FailuresPerMinute = DefaultFailuresPerMinute
	}
	h := &Handler{registry: registry, options: options, certificate: opscenter.EncodeCertificate(options.ClientCertificate)}
	if h.crossSite, err = newCrossSite(&options); err != nil {
		return nil, err
	}
	h.limiter = newLimiter(options.FailuresPerMinute, options.MaxAddresses)
	h.downloads, h.known, h.changelogs, h.packing = newDownloads(&h.options), newDownloads(&h.options), semaphore.NewWeighted(2), semaphore.NewWeighted(2)
	h.streams = semaphore.NewWeighted(int64(options.MaxStreams))
	h.known.rate = h.downloads.rate // all together
	if h.images, err = lru.New[string, string](maxImagesSent); err != nil {
		return nil, err
	}
	h.mux = h.newMux()
	if h.description, err = describe(h.rows, options.Version); err != nil {
		return nil, err
	}
	return h, nil
}

// ServeHTTP implements http.Handler.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	control := http.NewResponseController(w)
	if r.ContentLength != 0 {
		// Without a body net/http reads ahead to see a client leave. A deadline would end that.
		_ = control.SetReadDeadline(time.Now().Add(h.options.ReadTimeout)) // not every writer can
	}
	_ = control.SetWriteDeadline(time.Now().Add(h.options.WriteTimeout))
	_, pattern := h.mux.Handler(r)
	limit := h.options.MaxBody
	if rt := h.byPattern[pattern]; rt != nil && rt.maxBody > 0 { // the body is read only once the client is authorized
		limit = rt.maxBody
	}
	r.Body = http.MaxBytesReader(w, r.Body, limit)
	if pattern == "" {
		h.unmatched(w, r)
		return
	}
	h.mux.ServeHTTP(w, r)
}

// unmatched answers in the envelope where the mux would answer in text.
func (h *Handler) unmatched(w http.ResponseWriter, r *http.Request) {
	probe := discardWriter{header: http.Header{}, status: http.StatusOK}
	h.mux.ServeHTTP(&probe, r)
	if probe.status == http.StatusMethodNotAllowed {
		w.Header().Set("Allow", probe.header.Get("Allow"))
		h.fail(w, r, fmt.Errorf("method %.20s %w", r.Method, errMethod))
		return
	}
	h.fail(w, r, errNoEndpoint)
}

var (
	errNoEndpoint = errors.New("not found: there is no such endpoint")
	errMethod     = errors.New("is not allowed here")
)

type discardWriter struct {
	header http.Header
	status int
}

func (d *discardWriter) Header() http.Header         { return d.header }
func (d *discardWriter) WriteHeader(status int)      { d.status = status }
func (d *discardWriter) Write(p []byte) (int, error) { return len(p), nil }

// apiServer is the document of the API: its version, and how the client is authenticated.
type apiServer struct {
	APIStatus     string   `json:"api_status"`
	APIVersion    string   `json:"api_version"`
	Auth          string   `json:"auth"`
	AuthMethods   []string `json:"auth_methods"`
	ServerVersion string   `json:"server_version"`
	// Principal and Role are those of the client, empty if it is not trusted.
	Principal string      `json:"principal"`
	Role      access.Role `json:"role"`
}

// getServer answers GET /1.0.
func (h *Handler) getServer(w http.ResponseWriter, r *http.Request) {
	auth := "untrusted"
	who, trusted := h.principal(r)
	if trusted {
		switch auth = "trusted"; {
		case overUnixSocket(r): // in the words of Operations Center's client
			auth = "unix"
		case clientCertificate(r) != nil:
			auth = "tls"
		}
	}
	respond(w, apiServer{"stable", "1.0", auth, []string{"tls"}, h.options.Version, who.Name, who.Role})
}

// TLSConfig returns a configuration for the endpoint: TLS 1.3, with client certificates of any origin, because servers sign
// theirs themselves.
func TLSConfig(certificate tls.Certificate) *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{certificate}, ClientAuth: tls.RequestClientCert}
}

// NewServer returns an http.Server for the handler, or for a mux that holds it. It limits the times of headers and idle
// connections; the handler limits those of bodies and answers. The server logs clients' errors to logger at debug level; nil: it
// logs nothing.
func NewServer(handler http.Handler, config *tls.Config, logger *slog.Logger) *http.Server {
	errorLog := log.New(io.Discard, "", 0)
	if logger != nil {
		errorLog = slog.NewLogLogger(logger.Handler(), slog.LevelDebug)
	}
	return &http.Server{
		Handler:           handler,
		TLSConfig:         config,
		ReadHeaderTimeout: DefaultReadTimeout,
		IdleTimeout:       DefaultIdleTimeout,
		MaxHeaderBytes:    32 << 10,
		ErrorLog:          errorLog,
		ConnContext:       ConnContext,
		// Handler sets the deadlines of bodies and answers itself.
	}
}

var errClosed = fmt.Errorf("no authorizer is configured: the operators' API is closed: %w", access.ErrForbidden)
