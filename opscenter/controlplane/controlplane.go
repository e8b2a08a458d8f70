package controlplane

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/accesstoken"
	"github.com/opscenter-go/sdk/opscenter/audit"
	"github.com/opscenter-go/sdk/opscenter/cluster"
	"github.com/opscenter-go/sdk/opscenter/httpapi"
	"github.com/opscenter-go/sdk/opscenter/image"
	"github.com/opscenter-go/sdk/opscenter/incusos"
	"github.com/opscenter-go/sdk/opscenter/inventory"
	"github.com/opscenter-go/sdk/opscenter/rollout"
	"github.com/opscenter-go/sdk/opscenter/system"
	"github.com/opscenter-go/sdk/opscenter/updates"
	"github.com/opscenter-go/sdk/opscenter/webui"
	"github.com/opscenter-go/sdk/poller"
	"github.com/opscenter-go/sdk/storage"
)

// ControlPlane is an assembled control plane. Its fields are its parts, to be used and not to be replaced. All methods, and
// those of the parts, may be called concurrently.
type ControlPlane struct {
	// Registry knows the servers.
	Registry *opscenter.Registry
	// Client talks to servers.
	Client *incusos.Client
	// Poller finds out how the servers are.
	Poller *poller.Poller
	// Planner recommends actions, carries one out, and plans rolling updates.
	Planner *opscenter.UpdatePlanner
	// Rollouts carries out rolling updates.
	Rollouts *rollout.Manager
	// Systems changes networks and settings of servers.
	Systems *system.Manager
	// Inventory knows what is in the clusters.
	Inventory *inventory.Manager
	// Clusters forms clusters.
	Clusters *cluster.Manager
	// Audit is the log of the changes of operators.
	Audit *audit.Log
	// AccessTokens authenticate operators without a certificate.
	AccessTokens *accesstoken.Tokens
	// Updates is the update feed; nil without Options.UpdatesDir and Options.Files.
	Updates *updates.Manager
	// WebUI is the web page; nil without Options.WebUI.
	WebUI *webui.Handler
	// Images makes installation images; nil without an update feed, Options.URL, and a directory for images.
	Images *image.Manager

	options     Options
	certificate tls.Certificate
	requests    *requests
	socket      *socket // nil: there is none
	closers     []closer
	released    func() error // closes once, and returns the error of that

	mu      sync.Mutex
	started bool
	closed  bool
	stop    context.CancelFunc // of the run; nil before
	ended   chan struct{}      // closed when the run has ended
}

// closer closes one part. Parts are closed in reverse order.
type closer struct {
	name  string
	close func() error
}

// New assembles a control plane over a store, which stays the caller's: close it after the control plane. The certificate is that of the
// endpoint, with its key. New opens connections to no server, and starts no goroutine. Either run the ControlPlane, which closes it, or
// Close it.
//
// Errors: opscenter.ErrInvalidOptions, opscenter.ErrInvalidURL, and those of the parts, of the store, of Options.UpdatesDir and of Options.Socket.
func New(store storage.Store, certificate tls.Certificate, options Options) (_ *ControlPlane, err error) {
	if options, err = options.withDefaults(); err != nil {
		return nil, err
	}
	if certificate.Leaf, err = leaf("certificate", certificate); err != nil {
		return nil, err
	}
	c := &ControlPlane{options: options, certificate: certificate, ended: make(chan struct{})}
	c.released = sync.OnceValue(c.closeAll)
	defer func() {
		if err != nil {
			err = errors.Join(err, c.released())
		}
	}()
	if err := c.assemble(store); err != nil {
		return nil, err
	}
	handler, err := c.newHandler()
	if err != nil {
		return nil, err
	}
	c.requests = newRequests(handler)
	if options.Socket != "" {
		if c.socket, err = listenSocket(options.Socket); err != nil {
			return nil, err
		}
		c.closeLater("socket", c.socket.Close)
	}
	return c, nil
}

// leaf returns the parsed certificate of a pair.
func leaf(name string, pair tls.Certificate) (*x509.Certificate, error) {
	switch {
	case len(pair.Certificate) == 0 || pair.PrivateKey == nil:
		return nil, fmt.Errorf("the %s or its key is missing: %w", name, opscenter.ErrInvalidOptions)
	case pair.Leaf != nil:
		return pair.Leaf, nil
	}
	parsed, err := x509.ParseCertificate(pair.Certificate[0])
	if err != nil {
		return nil, fmt.Errorf("the %s: %w: %w", name, err, opscenter.ErrInvalidOptions)
	}
	return parsed, nil
}

// pinned is the certificate that servers are told to pin; nil: none.
func (c *ControlPlane) pinned() *x509.Certificate {
	if c.options.PubliclyTrusted {
		return nil
	}
	return c.certificate.Leaf
}

func (c *ControlPlane) closeLater(name string, close func() error) {
	c.closers = append(c.closers, closer{name, close})
}

// closeAll closes what New has opened, the last one first.
func (c *ControlPlane) closeAll() error {
	var errs []error
	for _, one := range slices.Backward(c.closers) {
		if err := one.close(); err != nil {
			errs = append(errs, fmt.Errorf("closing the %s: %w", one.name, err))
		}
	}
	return errors.Join(errs...)
}

// assemble makes the parts, each after those that it needs.
func (c *ControlPlane) assemble(store storage.Store) (err error) {
	o := &c.options
	if c.Registry, err = opscenter.NewRegistry(store, o.Registry); err != nil {
		return err
	}
	c.closeLater("registry", c.Registry.Close)
	if o.Client.Certificate == nil {
		o.Client.Certificate = &c.certificate
	}
	own, err := leaf("certificate of Client", *o.Client.Certificate)
	if err != nil {
		return err
	}
	if o.HTTP.ClientCertificate == nil {
		o.HTTP.ClientCertificate = own
	}
	c.Client = incusos.New(o.Client)
	c.closeLater("client", c.Client.Close)
	if c.Poller, err = poller.New(c.Registry, c.Client, o.Poller); err != nil {
		return err
	}
	c.Planner = opscenter.NewUpdatePlanner(c.Registry, c.Client)
	o.Rollouts.Poller = c.Poller
	if c.Rollouts, err = rollout.New(c.Planner, o.Rollouts); err != nil {
		return err
	}
	if c.Inventory, err = inventory.New(c.Registry, c.Client, o.Inventory); err != nil {
		return err
	}
	if c.Audit, err = audit.New(c.Registry, o.Audit); err != nil {
		return err
	}
	if c.AccessTokens, err = accesstoken.New(c.Registry, o.AccessTokens); err != nil {
		return err
	}
	o.Systems.Audit = c.Audit
	if o.Systems.Provider.ServerURL == "" && o.URL != "" {
		o.Systems.Provider = system.Provider{ServerURL: o.URL, Certificate: c.pinned()}
	}
	if c.Systems, err = system.New(c.Registry, c.Client, o.Systems); err != nil {
		return err
	}
	c.Clusters = cluster.New(c.Registry, c.Client, o.Clusters)
	if err := c.openUpdates(); err != nil {
		return err
	}
	return c.openImages()
}

// openUpdates makes the update feed, if there is a place for its files.
func (c *ControlPlane) openUpdates() error {
	files := c.options.Files
	if c.options.UpdatesDir != "" {
		dir, err := updates.NewDir(c.options.UpdatesDir)
		if err != nil {
			return fmt.Errorf("UpdatesDir: %w", err)
		}
		c.closeLater("files of updates", dir.Close)
		files = dir
	}
	if files == nil {
		return nil
	}
	feed, err := updates.New(context.Background(), c.Registry, files, c.options.Updates)
	if err != nil {
		return fmt.Errorf("update feed: %w", err)
	}
	c.Updates = feed
	return nil
}

// openImages makes the part for installation images, if there are releases, a place for images, and a URL to put into them.
func (c *ControlPlane) openImages() error {
	o := &c.options
	dir := o.ImagesDir
	if dir == "" && o.UpdatesDir != "" {
		dir = filepath.Join(o.UpdatesDir, "images")
	}
	if o.Images.ServerURL == "" && o.URL != "" {
		o.Images.ServerURL, o.Images.Certificate = o.URL, c.pinned()
	}
	if c.Updates == nil || dir == "" || o.Images.ServerURL == "" {
		return nil
	}
	bases, err := image.NewStore(dir, o.Bases)
	if err != nil {
		return fmt.Errorf("ImagesDir: %w", err)
	}
	c.closeLater("images", bases.Close)
	o.Images.Audit = c.Audit
	if c.Images, err = image.New(c.Registry, c.Updates, bases, o.Images); err != nil {
		return fmt.Errorf("images: %w", err)
	}
	return nil
}

// newHandler makes the handler of the endpoint.
func (c *ControlPlane) newHandler() (http.Handler, error) {
	o := c.options.HTTP
	o.Rollouts, o.Inventory, o.System, o.Audit, o.Updates, o.Images, o.AccessTokens = c.Rollouts, c.Inventory, c.Systems, c.Audit, c.Updates, c.Images, c.AccessTokens
	if o.Clusters == nil {
		o.Clusters = c.Clusters
	}
	if o.Forward == nil {
		o.Forward = c.Client
	}
	if o.Adopt == nil {
		o.Adopt = func(ctx context.Context, a httpapi.Adopting) ([]string, error) {
			return c.Client.Adopt(ctx, c.Registry, a.ConnectionURL, a.TrustToken,
				incusos.AdoptOptions{Name: a.Name, Channel: a.Channel, Names: a.Names, URLs: a.ConnectionURLs, Certificates: a.Certificates})
		}
	}
	var operators []httpapi.Authorizer
	var sessions *webui.Sessions
	if c.options.WebUI {
		var err error
		if sessions, err = webui.NewSessions(c.options.Sessions); err != nil {
			return nil, err
		}
		operators = append(operators, sessions.Authorize)
	}
	if o.Authorize != nil {
		operators = append(operators, o.Authorize)
	}
	if c.options.Socket != "" {
		operators = append(operators, trustSocket)
	}
	if len(c.options.Trust) > 0 {
		operators = append(operators, httpapi.TrustCertificates(c.options.Trust...))
	}
	if len(operators) > 0 { // else no operator could make one
		operators = append(operators, httpapi.TrustAccessTokens(c.AccessTokens))
		o.Authorize = httpapi.AnyOf(operators...)
	}
	api, err := httpapi.New(c.Registry, o)
	if err != nil || !c.options.WebUI {
		return api, err
	}
	c.WebUI, err = webui.New(webui.Options{API: api, Registry: c.Registry, Authorize: o.Authorize, Rollouts: c.Rollouts, Sessions: sessions, LogIn: c.AccessTokens.Principal,
		Origins: o.Origins, MaxStreams: o.MaxStreams, Logger: c.options.Logger})
	if err != nil {
		return nil, err
	}
	c.closeLater("page", c.WebUI.Close)
	return withPage(api, c.WebUI), nil
}

// withPage serves the page beside the API. The path / is that of both: a client that does not ask for HTML gets the answer of the API.
func withPage(api, page http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		path := r.URL.Path
		if path == "/1.0" || strings.HasPrefix(path, "/1.0/") || path == "/" && !strings.Contains(r.Header.Get("Accept"), "text/html") {
			api.ServeHTTP(w, r)
			return
		}
		page.ServeHTTP(w, r)
	})
}

// Handler returns the endpoint for servers and operators, to be mounted at /1.0 and /1.0/ of a mux, or as it is. With Options.WebUI mount it at /. Its TLS configuration must
// ask for client certificates, as TLSConfig does. When the run has ended it answers with status 503.
func (c *ControlPlane) Handler() http.Handler { return c.requests }

// TLSConfig returns a new TLS configuration for a server of the Handler: TLS 1.3, the certificate of New, and client certificates
// asked for, see httpapi.TLSConfig.
func (c *ControlPlane) TLSConfig() *tls.Config { return httpapi.TLSConfig(c.certificate) }
