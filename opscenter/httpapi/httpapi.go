package httpapi

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"math"
	"net/http"
	"strings"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/sync/semaphore"

	"github.com/opscenter-go/sdk/internal/defaults"
	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/audit"
	"github.com/opscenter-go/sdk/opscenter/image"
	"github.com/opscenter-go/sdk/opscenter/inventory"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
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
	// ClientCertificate is what the control plane presents when it connects to servers: they
	// are told it when they register, and trust it from then on. Required.
	ClientCertificate *x509.Certificate
	// Authorize says who may use the operators' API. Default: nobody. See TrustCertificates,
	// TrustUnixSocket and AnyOf.
	Authorize Authorizer
	// Origins are those of web pages of yours, as "https://ops.example.com", that may use the operators'
	// API from a browser. Default: those of the same host alone.
	Origins []string
	// Hosts are the names, and IP addresses, under which the operators' API may be called, without
	// ports: then a page can't reach it under a name of its own (DNS rebinding). Default: all. A
	// Unix socket has none.
	Hosts []string
	// Logger gets what goes wrong inside. Default: nothing is logged.
	Logger *slog.Logger
	// Version is what GET /1.0 says of the server's version. Default "opscenter".
	Version string
	// Rollouts carries out rolling updates and single actions; nil: those endpoints answer 501.
	Rollouts *rollout.Manager
	// Clusters forms clusters; nil: they are only recorded.
	Clusters Former
	// Inventory is what is in the clusters; nil: those endpoints answer 501.
	Inventory *inventory.Manager
	// Adopt takes in Incus servers that don't register themselves; nil: that is answered 501.
	Adopt Adopter
	// System changes servers: their networks and settings, their installation; nil: those
	// endpoints answer 501. Its Run must run: it goes on with what clients don't wait for.
	System *system.Manager
	// Audit logs each request that changes something, with its outcome. Default: that of System, and it
	// must be that; without either none is kept.
	Audit *audit.Log
	// Forward sends requests to servers' own OS APIs, under servers/{name}/os/; nil: that is answered 501.
	Forward Forwarder
	// ShowSecrets says which principals see secrets in the answers of servers' own APIs. Others
	// see them without, and nothing that is not JSON. Default: nobody.
	ShowSecrets func(principal string) bool
	// MaxForward bounds the bodies of requests to servers' own APIs and of their answers, and
	// MaxRedacted answers of which secrets are removed, in bytes. Defaults 1 GiB and 4 MiB.
	MaxForward, MaxRedacted int64
	// ForwardTimeout bounds such a request. Default 15 minutes.
	ForwardTimeout time.Duration
	// Updates is the update feed, for servers and for operators; nil: those endpoints answer 501.
	Updates *updates.Manager
	// Images makes installation images, for operators; nil: those endpoints answer 501.
	Images *image.Manager
	// MaxDownloads is how many files of updates are sent at a time to strangers, which servers are until they have registered, and as many to all
	// others; MaxDownloadsPerAddress is how many to one address (of
	// IPv6: a /64). Others wait for at most DownloadPatience; as many may wait as may be sent, in all and from one address. A
	// request beyond that, or one that waited too long, is answered 503. Defaults 1000, 250 and 10 minutes.
	MaxDownloads, MaxDownloadsPerAddress int
	DownloadPatience                     time.Duration
	// DownloadRate bounds what is sent of files of updates in all, in bytes a second. Default 0: no limit.
	DownloadRate int64
	// MaxBody bounds a request's body, in bytes. Default 64 KiB.
	MaxBody int64
	// ReadTimeout bounds the time for a request's body. Default 15 s.
	ReadTimeout time.Duration
	// WriteTimeout bounds the time in which a reader must take some of a long answer. Default 30 s.
	WriteTimeout time.Duration
	// FailuresPerMinute is how many failed registrations and self updates of strangers an address
	// (of IPv6: a /64) may have per minute, and in one burst, before strangers there are answered
	// 429. A registered server is heard all the same, and so is a valid token. Default 30; below 0: no limit.
	FailuresPerMinute int
	// MaxAddresses is for how many addresses failures are counted at a time. Default 10,000.
	MaxAddresses int
}

// Handler serves the API. It may be used concurrently.
type Handler struct {
	registry    *opscenter.Registry
	options     Options
	certificate string
	limiter     *limiter
	crossSite   *crossSite
	// downloads are those to strangers and servers that have not registered yet, known those to registered servers and operators; packing
	// bounds the images that are packed.
	downloads, known *downloads
	packing          *semaphore.Weighted
	images           *lru.Cache[string, string] // ETags of the images of which clients have parts
	changelogs       *semaphore.Weighted        // those that are made at a time
	mux              *http.ServeMux
}

// New returns the handler. Errors: opscenter.ErrInvalidOptions.
func New(registry *opscenter.Registry, options Options) (*Handler, error) {
	if options.ClientCertificate == nil {
		return nil, fmt.Errorf("ClientCertificate is missing: %w", opscenter.ErrInvalidOptions)
	}
	if options.Authorize == nil {
		options.Authorize = func(*http.Request) (string, error) { return "", errNobody }
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
			return nil, fmt.Errorf("the audit log is another than that of System: %w", opscenter.ErrInvalidOptions)
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
	h.known.rate = h.downloads.rate // all together
	if h.images, err = lru.New[string, string](maxImagesSent); err != nil {
		return nil, err
	}
	h.mux = h.routes()
	return h, nil
}

func (h *Handler) routes() *http.ServeMux {
	mux := http.NewServeMux()
	for pattern, handle := range h.openRoutes() {
		mux.HandleFunc(pattern, handle)
	}
	for pattern, handle := range h.operatorRoutes() {
		mux.HandleFunc(pattern, h.authorized(h.named(handle)))
	}
	return mux
}

// openRoutes are the routes for every client and for servers, by their patterns.
func (h *Handler) openRoutes() map[string]http.HandlerFunc {
	open := map[string]http.HandlerFunc{
		"GET /{$}":                            func(w http.ResponseWriter, _ *http.Request) { respond(w, []string{"/1.0"}) },
		"GET /1.0":                            h.getServer,
		"GET /1.0/{$}":                        h.getServer, // as from a mux that has this one at /1.0/
		"POST /1.0/provisioning/servers":      h.postServers,
		"PUT /1.0/provisioning/servers/:self": h.putSelf,
		publicImagePattern:                    h.withImages(h.getPublicImage),
	}
	for pattern, handle := range h.feedRoutes() {
		open[pattern] = h.withUpdates(handle)
	}
	return open
}

// operatorRoutes are those for operators, by their patterns. POST /1.0/provisioning/servers is for
// them, too: without a token it announces a server.
func (h *Handler) operatorRoutes() map[string]http.HandlerFunc {
	operators := map[string]http.HandlerFunc{
		"GET /1.0/provisioning/tokens":                              h.getTokens,
		"POST /1.0/provisioning/tokens":                             h.noQuery(h.postTokens),
		"GET /1.0/provisioning/tokens/{uuid}":                       h.noQuery(h.tokens().get(h.registry.Token)),
		"PUT /1.0/provisioning/tokens/{uuid}":                       h.noQuery(h.putToken),
		"DELETE /1.0/provisioning/tokens/{uuid}":                    h.noQuery(h.deleteToken),
		"GET /1.0/provisioning/servers":                             h.getServers,
		"GET /1.0/provisioning/servers/{name}":                      h.getServerByName,
		"PUT /1.0/provisioning/servers/{name}":                      h.noQuery(h.putServer),
		"POST /1.0/provisioning/servers/{name}":                     h.noQuery(rename[server](h.servers(false), serverPath, h.registry.RenameServer)),
		"DELETE /1.0/provisioning/servers/{name}":                   h.deleteServer,
		"POST /1.0/provisioning/servers/{name}/:accept-certificate": h.noQuery(h.acceptCertificate),
		"GET /1.0/provisioning/clusters":                            h.getClusters,
		"POST /1.0/provisioning/clusters":                           h.noQuery(h.postClusters),
		"GET /1.0/provisioning/clusters/{name}":                     h.noQuery(h.clusters().get(h.registry.Cluster)),
		"PUT /1.0/provisioning/clusters/{name}":                     h.noQuery(h.putCluster),
		"POST /1.0/provisioning/clusters/{name}":                    h.noQuery(rename[cluster](h.clusters(), clusterPath, h.registry.RenameCluster)),
		"DELETE /1.0/provisioning/clusters/{name}":                  h.deleteCluster,
		"POST /1.0/provisioning/clusters/{name}/:add-servers":       h.noQuery(h.addServers),
		"POST /1.0/provisioning/clusters/{name}/:remove-servers":    h.removeServers,
		"POST /1.0/provisioning/clusters/{name}/:update":            h.updateCluster,
		"POST /1.0/provisioning/clusters/{name}/:reboot":            h.noBody(h.rebootCluster),
		"POST /1.0/provisioning/clusters/{name}/:cancel-operation":  h.noBody(h.cancelCluster),
		"GET /1.0/provisioning/rollouts":                            h.getRollouts,
		rolloutsPattern:                                             h.postRollouts,
		"GET /1.0/provisioning/rollouts/{uuid}":                     h.noQuery(h.withRollouts(h.rollouts().get(h.options.Rollouts.Get))),
		"GET /1.0/provisioning/rollouts/{uuid}/units":               h.getRolloutUnits,
		"GET /1.0/provisioning/rollouts/{uuid}/plan":                h.noQuery(h.withRollouts(h.getRolloutPlan)),
		"POST /1.0/provisioning/rollouts/{uuid}/{action}":           h.noBody(h.changeRollout),
		"GET /1.0/warnings":                                         h.getWarnings,
		"GET /1.0/warnings/{uuid}":                                  h.noQuery(h.warnings().get(h.registry.Warning)),
		"PUT /1.0/warnings/{uuid}":                                  h.noQuery(h.putWarning),
	}
	for _, action := range actions {
		operators[actionPattern+string(action)] = h.actOn(action)
		if action != lifecycle.ActionUpdate {
			operators[actionPattern+string(action)] = h.noBody(h.actOn(action))
		}
	}
	h.inventoryRoutes(operators)
	h.systemRoutes(operators)
	h.auditRoutes(operators)
	h.updateRoutes(operators)
	h.imageRoutes(operators)
	operators[forwardPattern] = h.forward
	return operators
}

// with returns the handler of a part that is set up, or else one that refuses all requests.
func (h *Handler) with(setUp bool, missing error, handle http.HandlerFunc) http.HandlerFunc {
	if setUp {
		return handle
	}
	return func(w http.ResponseWriter, r *http.Request) { h.fail(w, r, missing) }
}

// named refuses names that begin with ":": those are endpoints that there are not.
func (h *Handler) named(handle http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.PathValue("name"), ":") || strings.HasPrefix(r.PathValue("uuid"), ":") {
			h.fail(w, r, errNoEndpoint)
			return
		}
		handle(w, r)
	}
}

// ServeHTTP implements http.Handler.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	control := http.NewResponseController(w)
	if r.ContentLength != 0 {
		// Without a body net/http reads ahead, to see a client that leaves: that must not end.
		_ = control.SetReadDeadline(time.Now().Add(h.options.ReadTimeout)) // not every writer can
	}
	_ = control.SetWriteDeadline(time.Now().Add(h.options.WriteTimeout))
	_, pattern := h.mux.Handler(r)
	limit := h.options.MaxBody
	if pattern == forwardPattern {
		limit = h.options.MaxForward // which is only read once it is known for whom
	}
	if strings.HasPrefix(pattern, "P") && strings.Contains(pattern, "/tokens/{uuid}/") { // POST or PUT of a seed
		limit = max(limit, opscenter.MaxSeedSize+64<<10)
	}
	if pattern == postUpdatePattern {
		limit = math.MaxInt64 // the feed has a limit of its own
	}
	r.Body = http.MaxBytesReader(w, r.Body, limit)
	if pattern == "" {
		h.unmatched(w, r)
		return
	}
	h.mux.ServeHTTP(w, r)
}

// unmatched answers in the envelope what the mux would say in text.
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

// getServer answers GET /1.0.
func (h *Handler) getServer(w http.ResponseWriter, r *http.Request) {
	auth := "untrusted"
	if _, err := h.options.Authorize(r); err == nil {
		switch auth = "trusted"; {
		case overUnixSocket(r): // the words Operations Center's client wants
			auth = "unix"
		case clientCertificate(r) != nil:
			auth = "tls"
		}
	}
	respond(w, map[string]any{"api_status": "stable", "api_version": "1.0", "auth": auth,
		"auth_methods": []string{"tls"}, "server_version": h.options.Version})
}

// TLSConfig returns a configuration for the endpoint: TLS 1.3, and client certificates asked for, of any origin,
// as servers present certificates that nobody signed.
func TLSConfig(certificate tls.Certificate) *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{certificate}, ClientAuth: tls.RequestClientCert}
}

// NewServer returns an http.Server for the handler, or for a mux that holds it, with time
// limits on everything a client could hold up. It logs to logger what clients do wrong, at
// debug level; nil: nowhere.
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

var errNobody = errors.New("no authorizer is configured: the operators' API is closed")

// actions that can be carried out on a server, as steps of a rollout.
var actions = []lifecycle.Action{lifecycle.ActionUpdate, lifecycle.ActionEvacuate, lifecycle.ActionReboot, lifecycle.ActionRestore, lifecycle.ActionPowerOff}
