// Controlplane is a long-running control plane: IncusOS servers register with it over HTTPS
// and are polled; operators use its REST API, over a Unix socket or with a trusted certificate.
//
//	go run ./examples/controlplane [-listen 127.0.0.1:7443] [-url https://HOST:PORT] [-data DIR] [-socket PATH] [-interval 5m] [-trust CERT.pem] [-updates DIR [-source URL] [-source-root CERT.pem]]
//
// It makes its certificates on the first start and keeps them in -data; without -data
// everything is in memory, and gone when it stops. -url is the address that servers use: it is in
// the certificate's names, and in the provider configurations that are printed for the installation
// seed and made for a factory reset. It is required when -listen names no address that a server
// could use, as ":7443" does.
//
// With -updates it is the update feed of its servers: releases are fetched from -source, by default the public server of
// IncusOS, verified, and kept in DIR. With -source none they are only uploaded. Without -updates a server that is freshly
// installed finds no application, and never comes to register.
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/audit"
	"github.com/opscenter-go/sdk/opscenter/cluster"
	"github.com/opscenter-go/sdk/opscenter/devcert"
	"github.com/opscenter-go/sdk/opscenter/httpapi"
	"github.com/opscenter-go/sdk/opscenter/image"
	"github.com/opscenter-go/sdk/opscenter/incusos"
	"github.com/opscenter-go/sdk/opscenter/inventory"
	"github.com/opscenter-go/sdk/opscenter/rollout"
	"github.com/opscenter-go/sdk/opscenter/system"
	"github.com/opscenter-go/sdk/opscenter/terminal"
	"github.com/opscenter-go/sdk/opscenter/updates"
	"github.com/opscenter-go/sdk/poller"
	"github.com/opscenter-go/sdk/storage"
	"github.com/opscenter-go/sdk/storage/badgerstore"
	"github.com/opscenter-go/sdk/storage/memstore"
)

// Times of an orderly stop, which together stay under 5 s.
const (
	drainTimeout  = 2 * time.Second
	tokenLifetime = 24 * time.Hour
	firstTokenUse = 10
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], terminal.Safe(os.Stdout), terminal.Safe(os.Stderr)); err != nil {
		fmt.Fprintln(terminal.Safe(os.Stderr), "controlplane:", err)
		os.Exit(1)
	}
}

// config is what the flags say.
type config struct {
	listen, url, data, socket, trust string
	updates, source, sourceRoot      string
	interval                         time.Duration
}

func run(ctx context.Context, args []string, out, logs io.Writer) error {
	var c config
	flags := flag.NewFlagSet("controlplane", flag.ContinueOnError)
	flags.SetOutput(logs)
	flags.StringVar(&c.listen, "listen", "127.0.0.1:7443", "address for servers and operators")
	flags.StringVar(&c.url, "url", "", "URL that servers use; default: https:// and the address of -listen")
	flags.StringVar(&c.data, "data", "", "directory for the store and the certificates; default: in memory")
	flags.StringVar(&c.socket, "socket", "", "path of a Unix socket for operators, mode 0600")
	flags.DurationVar(&c.interval, "interval", poller.DefaultInterval, "time between two polls of a server")
	flags.StringVar(&c.trust, "trust", "", "PEM file with the certificates of operators")
	flags.StringVar(&c.updates, "updates", "", "directory for the files of updates, and of installation images; default: there is no update feed, and there are no images")
	flags.StringVar(&c.source, "source", updates.DefaultSource, "where updates are published, or none: they are uploaded; holds until PUT /1.0/system/updates")
	flags.StringVar(&c.sourceRoot, "source-root", "", "PEM file with the root certificate under which -source, and uploads, are signed; default: that of IncusOS")
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return nil
		}
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("argument %q is not known", flags.Arg(0))
	}
	if c.interval <= 0 {
		return fmt.Errorf("-interval is %s, it must be positive", c.interval)
	}
	host, err := listenHost(c.listen)
	if err != nil {
		return err
	}
	if c.url == "" && unspecified(host) {
		return fmt.Errorf("-listen %s names no address that a server could use: -url is required", c.listen)
	}
	if c.url != "" {
		if err := checkOwnURL(c.url); err != nil {
			return err
		}
	}
	logger := slog.New(slog.NewTextHandler(logs, nil))
	if err = serve(ctx, c, out, logger); ctx.Err() == nil {
		return err
	}
	if err = ignoreStop(err); err == nil { // also in the middle of the start
		logger.Info("stopped")
	}
	return err
}

func listenHost(listen string) (string, error) {
	host, _, err := net.SplitHostPort(listen)
	if err != nil {
		return "", fmt.Errorf("-listen: %w", err)
	}
	return host, nil
}

// unspecified reports whether a host to listen on stands for all addresses.
func unspecified(host string) bool {
	address, err := netip.ParseAddr(host)
	return host == "" || err == nil && address.Unmap().IsUnspecified()
}

// checkOwnURL wants what IncusOS's provider takes: an https URL without a path.
func checkOwnURL(raw string) error {
	if err := opscenter.CheckURL("-url", raw); err != nil {
		return err
	}
	if u, err := url.Parse(raw); err != nil || strings.Trim(u.Path, "/") != "" {
		return fmt.Errorf("-url %s: must have no path", raw)
	}
	return nil
}

// ownURL is where servers reach the control plane.
func (c config) ownURL(listening net.Addr) (string, error) {
	if c.url != "" {
		return strings.TrimRight(c.url, "/"), nil
	}
	host, err := listenHost(c.listen)
	if err != nil {
		return "", err
	}
	_, port, err := net.SplitHostPort(listening.String()) // the one that port 0 became
	return "https://" + net.JoinHostPort(host, port), err
}

func serve(ctx context.Context, c config, out io.Writer, logger *slog.Logger) (err error) {
	authorize, err := authorizer(c.trust)
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", c.listen)
	if err != nil {
		return err
	}
	defer listener.Close()
	ownURL, err := c.ownURL(listener.Addr())
	if err != nil {
		return err
	}
	store, err := openStore(c.data, logger)
	if err != nil {
		return err
	}
	// In reverse: the registry flushes what it knows into the store, then that is closed.
	defer func() { err = errors.Join(err, store.Close()) }()
	certificates, err := loadCertificates(c, ownURL, logger)
	if err != nil {
		return err
	}
	registry, err := opscenter.NewRegistry(store, opscenter.Options{Logger: logger})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, registry.Close()) }()

	client := incusos.New(incusos.Options{Certificate: &certificates.client})
	defer client.Close()
	polls, err := poller.New(registry, client, poller.Options{Interval: c.interval, Logger: logger})
	if err != nil {
		return err
	}
	rollouts, err := rollout.New(opscenter.NewUpdatePlanner(registry, client), rollout.Options{Poller: polls, Logger: logger})
	if err != nil {
		return err
	}
	objects, err := inventory.New(registry, client, inventory.Options{Logger: logger})
	if err != nil {
		return err
	}
	log, err := audit.New(registry, audit.Options{})
	if err != nil {
		return err
	}
	systems, err := system.New(registry, client, system.Options{Audit: log, Logger: logger,
		Provider: system.Provider{ServerURL: ownURL, Certificate: certificates.server.Leaf}})
	if err != nil {
		return err
	}
	adopt := func(ctx context.Context, a httpapi.Adopting) ([]string, error) {
		return client.Adopt(ctx, registry, a.ConnectionURL, a.TrustToken, incusos.AdoptOptions{Name: a.Name, Channel: a.Channel, Names: a.Names, URLs: a.ConnectionURLs, Certificates: a.Certificates})
	}
	feed, files, err := openFeed(ctx, c, registry, logger)
	if err != nil {
		return err
	}
	if files != nil {
		defer files.Close()
	}
	images, bases, err := openImages(c, registry, feed, log, ownURL, certificates.server.Leaf)
	if err != nil {
		return err
	}
	if bases != nil {
		defer bases.Close()
	}
	handler, err := httpapi.New(registry, httpapi.Options{Updates: feed, Images: images, ClientCertificate: certificates.client.Leaf, Authorize: authorize, Logger: logger,
		Rollouts: rollouts, Clusters: cluster.New(registry, client, cluster.Options{Logger: logger}), Inventory: objects, Adopt: adopt,
		System: systems, Audit: log, Forward: client})
	if err != nil {
		return err
	}
	socket, err := listenUnix(c.socket)
	if err != nil {
		return err
	}
	if socket != nil {
		defer socket.Close()
	}
	if err := introduce(ctx, registry, out, ownURL, certificates.server.Leaf); err != nil {
		return err
	}

	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return ignoreStop(polls.Run(ctx)) })
	group.Go(func() error { return ignoreStop(rollouts.Run(ctx)) })
	group.Go(func() error { return ignoreStop(objects.Run(ctx)) })
	group.Go(func() error { return ignoreStop(systems.Run(ctx)) })
	if feed != nil {
		group.Go(func() error { return ignoreStop(feed.Run(ctx)) })
		group.Go(func() error { return ignoreStop(showProgress(ctx, feed, out)) })
	}
	web := httpapi.NewServer(handler, httpapi.TLSConfig(certificates.server), logger)
	serveUntilDone(ctx, group, web, func() error { return web.ServeTLS(listener, "", "") })
	if socket != nil {
		local := httpapi.NewServer(handler, nil, logger)
		serveUntilDone(ctx, group, local, func() error { return local.Serve(socket) })
	}
	return group.Wait()
}

// openFeed returns the update feed; nil: there is none. What -source and -source-root say holds until operators set
// something else. Close the files when nothing is served any more.
func openFeed(ctx context.Context, c config, registry *opscenter.Registry, logger *slog.Logger) (*updates.Manager, io.Closer, error) {
	switch {
	case c.updates == "" && c.sourceRoot != "":
		return nil, nil, errors.New("-source-root wants -updates")
	case c.updates == "":
		return nil, nil, nil
	}
	options := updates.Options{Logger: logger}
	if c.data == "" {
		options.Owner = "in memory" // the files of a store on disk are not removed
	}
	settings := updates.Settings{Source: c.source}
	if c.source == "none" {
		settings.Source = ""
	}
	if c.sourceRoot != "" {
		root, err := os.ReadFile(c.sourceRoot)
		if err != nil {
			return nil, nil, fmt.Errorf("-source-root: %w", err)
		}
		settings.Root = string(root)
	}
	options.Settings = &settings
	files, err := updates.NewDir(c.updates)
	if err != nil {
		return nil, nil, fmt.Errorf("-updates: %w", err)
	}
	feed, err := updates.New(ctx, registry, files, options)
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("-updates, -source, -source-root: %w", err), files.Close())
	}
	return feed, files, nil
}

// openImages returns what makes installation images of the feed's releases, with the bases beside its files; nil: there is no feed. Close the bases.
func openImages(c config, registry *opscenter.Registry, feed *updates.Manager, log *audit.Log, ownURL string, own *x509.Certificate) (*image.Manager, io.Closer, error) {
	if feed == nil {
		return nil, nil, nil
	}
	bases, err := image.NewStore(filepath.Join(c.updates, "images"), image.StoreOptions{})
	if err != nil {
		return nil, nil, fmt.Errorf("-updates: %w", err)
	}
	images, err := image.New(registry, feed, bases, image.Options{ServerURL: ownURL, Certificate: own, Audit: log})
	if err != nil {
		return nil, nil, errors.Join(err, bases.Close())
	}
	return images, bases, nil
}

// showProgress prints a line whenever a refresh has come further.
func showProgress(ctx context.Context, feed *updates.Manager, out io.Writer) error {
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	last := ""
	for {
		if p := feed.Progress(); !p.Started.IsZero() {
			if line := "Updates:     " + p.String(); line != last {
				last = line
				fmt.Fprintln(out, line)
			}
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// serveUntilDone serves until ctx ends, lets requests under way end, and cuts those that don't.
func serveUntilDone(ctx context.Context, group *errgroup.Group, server *http.Server, serve func() error) {
	group.Go(func() error { return ignoreStop(serve()) })
	group.Go(func() error {
		<-ctx.Done()
		drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTimeout)
		defer cancel()
		if server.Shutdown(drain) != nil {
			return server.Close()
		}
		return nil
	})
}

// ignoreStop leaves out the errors that only say that we were stopped.
func ignoreStop(err error) error {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		var rest []error
		for _, one := range joined.Unwrap() {
			rest = append(rest, ignoreStop(one))
		}
		return errors.Join(rest...)
	}
	if errors.Is(err, http.ErrServerClosed) || errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

func openStore(data string, logger *slog.Logger) (storage.Store, error) {
	if data == "" {
		logger.Warn("no -data: everything is in memory, and gone when this stops")
		return memstore.New(), nil
	}
	return badgerstore.Open(filepath.Join(data, "store"), badgerstore.Options{Logger: logger})
}

// certificates of the control plane: what it serves with, and what it presents to servers.
type certificates struct {
	server, client tls.Certificate
}

func loadCertificates(c config, ownURL string, logger *slog.Logger) (out certificates, err error) {
	host, err := listenHost(c.listen)
	if err != nil {
		return out, err
	}
	hosts := []string{"localhost"}
	if !unspecified(host) {
		hosts = append(hosts, host)
	}
	own, err := url.Parse(ownURL)
	if err != nil {
		return out, err
	}
	hosts = append(hosts, own.Hostname())
	make := func(name string, hosts ...string) (tls.Certificate, error) { return devcert.New(name, hosts...) }
	if c.data != "" {
		make = func(name string, hosts ...string) (tls.Certificate, error) {
			return devcert.Load(c.data, name, hosts...)
		}
	}
	if out.server, err = make("server", hosts...); err != nil {
		return out, err
	}
	if err := out.server.Leaf.VerifyHostname(own.Hostname()); err != nil {
		logger.Warn("the certificate that was made at an earlier start lacks the host of the URL: servers that do not pin it refuse it; remove server.crt and server.key, and every server's provider has to be given the new one", "url", ownURL, "error", err)
	}
	out.client, err = make("client")
	return out, err
}

// authorizer trusts whoever can open the Unix socket, and the certificates in a file.
func authorizer(path string) (httpapi.Authorizer, error) {
	if path == "" {
		return httpapi.TrustUnixSocket(), nil
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("-trust: %w", err)
	}
	trusted, err := opscenter.ParseCertificates(string(text))
	if err != nil {
		return nil, fmt.Errorf("-trust %s: %w", path, err)
	}
	return httpapi.AnyOf(httpapi.TrustUnixSocket(), httpapi.TrustCertificates(trusted...)), nil
}

// listenUnix listens on a socket that only its owner can open, at no time anybody else. What
// an earlier run left there is removed; what is in use is not.
func listenUnix(path string) (net.Listener, error) {
	if path == "" {
		return nil, nil
	}
	info, err := os.Lstat(path)
	if err == nil && info.Mode()&os.ModeSocket == 0 {
		return nil, fmt.Errorf("-socket %s exists, and is no socket", path)
	}
	if err == nil {
		if conn, err := net.Dial("unix", path); err == nil {
			conn.Close()
			return nil, fmt.Errorf("-socket %s is in use", path)
		}
		if err := os.Remove(path); err != nil {
			return nil, err
		}
	}
	// Made in a directory of its own, and moved when its mode is right.
	private, err := os.MkdirTemp(filepath.Dir(path), ".socket")
	if err != nil {
		return nil, fmt.Errorf("-socket: %w", err)
	}
	defer os.RemoveAll(private)
	made := filepath.Join(private, "s")
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: made, Net: "unix"})
	if err != nil {
		return nil, err
	}
	listener.SetUnlinkOnClose(false)
	if err := errors.Join(os.Chmod(made, 0o600), os.Rename(made, path)); err != nil {
		listener.Close()
		return nil, err
	}
	return &unixListener{listener, path}, nil
}

// unixListener removes its file when it is closed.
type unixListener struct {
	net.Listener
	path string
}

func (l *unixListener) Close() error {
	err := l.Listener.Close()
	if err == nil {
		_ = os.Remove(l.path)
	}
	return err
}

// introduce prints how to reach the control plane and, as long as there are no tokens, a first one.
func introduce(ctx context.Context, registry *opscenter.Registry, out io.Writer, ownURL string, certificate *x509.Certificate) error {
	fmt.Fprintf(out, "URL:         %s\n", ownURL)
	fmt.Fprintf(out, "Fingerprint: %s\n", opscenter.Fingerprint(certificate))
	page, err := registry.Tokens(ctx, opscenter.Page{Limit: 1})
	if err != nil || len(page.Tokens) > 0 {
		return err
	}
	token, err := registry.CreateToken(ctx, opscenter.TokenSpec{Description: "first token", Uses: firstTokenUse, ExpireAt: time.Now().Add(tokenLifetime)})
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "Token:       %s (%d uses, until %s)\n", token.UUID, token.UsesRemaining, token.ExpireAt.Format(time.RFC3339))
	seed, err := json.Marshal(map[string]any{"name": "operations-center", "config": map[string]string{
		"server_url": ownURL, "server_token": token.UUID, "server_certificate": opscenter.EncodeCertificate(certificate)}})
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "Seed:        provider.json: %s\n", seed)
	return nil
}
