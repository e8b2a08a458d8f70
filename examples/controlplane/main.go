// Controlplane is a long-running control plane: IncusOS servers register with it over HTTPS
// and are polled; operators use its web page and its REST API. It is flags around
// package opscenter/controlplane.
//
//	go run ./examples/controlplane -demo
//
// The demo is a simulated fleet in motion: open the address that it prints in a browser, and accept its certificate. For real servers:
//
//	go run ./examples/controlplane [-config FILE] [-listen 127.0.0.1:7443] [-url https://HOST:PORT] [-data DIR] [-socket PATH] [-interval 5m] [-trust CERT.pem]
//		[-updates DIR [-source URL] [-source-root CERT.pem]] [-log-level info] [-log-format text]
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
//
// # Operators
//
// The page and the API admit access tokens, the certificates of -trust, and clients of the Unix socket of -socket. Without -trust and -socket, and
// as long as no access token is valid, a start makes one for an administrator, which ends after 24 hours, and prints the address of the page with
// it: the part behind # stays in the browser. With -socket, this makes one:
//
//	curl --unix-socket PATH http://opscenter/1.0/access-tokens --json '{"name":"me","role":"admin"}'
//
// # Settings
//
// Each setting has one name. It is a flag (-source-root), an environment variable (OPSCENTER_SOURCE_ROOT), and a key of the
// YAML file that -config or OPSCENTER_CONFIG names (source-root). A flag is over a variable, a variable over the file, the file
// over the default. An empty variable counts as none. The file is refused if it has a key that is no setting. A file:
//
//	listen: :7443
//	url: https://control.example.org:7443
//	data: /var/lib/opscenter
//	socket: /run/opscenter/socket
//	updates: /var/lib/opscenter/updates
//	log-format: json
//
// # As a service
//
// A unit of systemd for that file as /etc/opscenter/controlplane.yaml, with no user and no privileges of its own. The operators' socket is root's to open:
//
//	[Unit]
//	Description=Control plane of IncusOS servers
//	Wants=network-online.target
//	After=network-online.target
//
//	[Service]
//	Type=exec
//	ExecStart=/usr/local/bin/controlplane -config /etc/opscenter/controlplane.yaml
//	Restart=on-failure
//	RestartSec=5s
//	TimeoutStopSec=75s
//	DynamicUser=yes
//	StateDirectory=opscenter
//	StateDirectoryMode=0700
//	RuntimeDirectory=opscenter
//	UMask=0077
//	LimitNOFILE=65536
//	CapabilityBoundingSet=
//	NoNewPrivileges=yes
//	ProtectSystem=strict
//	ProtectHome=yes
//	ProtectProc=invisible
//	PrivateTmp=yes
//	PrivateDevices=yes
//	ProtectClock=yes
//	ProtectControlGroups=yes
//	ProtectHostname=yes
//	ProtectKernelLogs=yes
//	ProtectKernelModules=yes
//	ProtectKernelTunables=yes
//	RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX AF_NETLINK
//	RestrictNamespaces=yes
//	RestrictRealtime=yes
//	RestrictSUIDSGID=yes
//	LockPersonality=yes
//	MemoryDenyWriteExecute=yes
//	RemoveIPC=yes
//	SystemCallArchitectures=native
//	SystemCallFilter=@system-service
//	SystemCallFilter=~@privileged @resources
//	SystemCallErrorNumber=EPERM
//
//	[Install]
//	WantedBy=multi-user.target
//
// It stops in order at SIGTERM, within two times 30 s at the most. A first start prints a token: read it in the journal.
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
	"net/url"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/access"
	"github.com/opscenter-go/sdk/opscenter/accesstoken"
	"github.com/opscenter-go/sdk/opscenter/controlplane"
	"github.com/opscenter-go/sdk/opscenter/devcert"
	"github.com/opscenter-go/sdk/opscenter/incusos"
	"github.com/opscenter-go/sdk/opscenter/incusostest"
	"github.com/opscenter-go/sdk/opscenter/terminal"
	"github.com/opscenter-go/sdk/opscenter/updates"
	"github.com/opscenter-go/sdk/poller"
	"github.com/opscenter-go/sdk/storage"
	"github.com/opscenter-go/sdk/storage/badgerstore"
	"github.com/opscenter-go/sdk/storage/memstore"
)

// The token that is made at a first start.
const (
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

func run(ctx context.Context, args []string, out, logs io.Writer) error {
	c, unknown, err := load(args, os.Environ(), logs)
	if err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return nil
		}
		return err
	}
	logger, err := c.logger(logs)
	if err != nil {
		return err
	}
	for _, name := range unknown {
		logger.Warn("an environment variable is no setting", "variable", name)
	}
	err = serve(ctx, c, out, logger)
	if err == nil {
		logger.Info("stopped")
	}
	return err
}

func serve(ctx context.Context, c config, out io.Writer, logger *slog.Logger) (err error) {
	options := controlplane.Options{Logger: logger, Socket: c.socket, UpdatesDir: c.updates, Poller: poller.Options{Interval: c.interval}, WebUI: true}
	if options.Trust, err = operators(c.trust); err != nil {
		return err
	}
	if options.Updates.Settings, err = c.feedSettings(); err != nil {
		return err
	}
	var fleet *demo
	if c.demo {
		if fleet, err = newDemo(&options); err != nil {
			return err
		}
		defer fleet.close()
		options.Poller.Interval = min(c.interval, demoInterval)
	}
	if c.data == "" {
		options.Updates.Owner = "in memory" // the files of a store on disk are not removed
	}
	listener, err := net.Listen("tcp", c.listen)
	if err != nil {
		return err
	}
	defer listener.Close()
	if options.URL, err = c.ownURL(listener.Addr()); err != nil {
		return err
	}
	store, err := openStore(c.data, logger)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	certificates, err := loadCertificates(c, options.URL, logger)
	if err != nil {
		return err
	}
	options.Client = incusos.Options{Certificate: &certificates.client}
	cp, err := controlplane.New(store, certificates.server, options)
	if errors.Is(err, updates.ErrInvalid) {
		return fmt.Errorf("-source, -source-root: %w", err)
	}
	if err != nil {
		return err
	}
	if err := introduce(ctx, cp, out, options.URL, certificates.server.Leaf, c); err != nil {
		if ctx.Err() != nil { // stopped in the middle of the start
			err = nil
		}
		return errors.Join(err, cp.Close())
	}
	group, running := errgroup.WithContext(ctx)
	group.Go(func() error { return cp.Serve(running, listener) })
	if c.demo {
		provider := incusostest.Provider{ServerURL: options.URL, Certificate: certificates.server.Leaf}
		group.Go(func() error { return fleet.run(running, cp, provider) })
	} else if cp.Updates != nil {
		group.Go(func() error { showProgress(running, cp.Updates, out); return nil })
	}
	return group.Wait()
}

// showProgress prints a line whenever a refresh has come further, until ctx ends.
func showProgress(ctx context.Context, feed *updates.Manager, out io.Writer) {
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
			return
		}
	}
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
	certify := devcert.New
	if c.data != "" {
		certify = func(name string, hosts ...string) (tls.Certificate, error) {
			return devcert.Load(c.data, name, hosts...)
		}
	}
	if out.server, err = certify("server", hosts...); err != nil {
		return out, err
	}
	if err := out.server.Leaf.VerifyHostname(own.Hostname()); err != nil {
		logger.Warn("the certificate that was made at an earlier start lacks the host of the URL: servers that do not pin it refuse it; remove server.crt and server.key, and every server's provider has to be given the new one", "url", ownURL, "error", err)
	}
	out.client, err = certify("client")
	return out, err
}

// operators returns the certificates in a file; none without one.
func operators(path string) ([]*x509.Certificate, error) {
	if path == "" {
		return nil, nil
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("-trust: %w", err)
	}
	trusted, err := opscenter.ParseCertificates(string(text))
	if err != nil {
		return nil, fmt.Errorf("-trust %s: %w", path, err)
	}
	return trusted, nil
}

// introduce prints how to reach the control plane. As long as there is no registration token, it makes a first one; and an access token, if without one
// no operator could come in.
func introduce(ctx context.Context, cp *controlplane.ControlPlane, out io.Writer, ownURL string, certificate *x509.Certificate, c config) error {
	fmt.Fprintf(out, "URL:         %s\n", ownURL)
	fmt.Fprintf(out, "Fingerprint: %s\n", opscenter.Fingerprint(certificate))
	if err := showPage(ctx, cp.AccessTokens, out, ownURL, c.socket != "" || c.trust != ""); err != nil {
		return err
	}
	if c.demo {
		fmt.Fprintf(out, "Demo:        open the page, accept its certificate, and log in. Every %s a release is rolled out, and about every %s a server fails. Ctrl-C ends it.\n", demoRelease, demoTrouble)
		return nil
	}
	page, err := cp.Registry.ListTokens(ctx, opscenter.Page{Limit: 1})
	if err != nil || len(page.Tokens) > 0 {
		return err
	}
	token, err := cp.Registry.CreateToken(ctx, opscenter.TokenSpec{Description: "first token", Uses: firstTokenUse, ExpireAt: time.Now().Add(tokenLifetime)})
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

// showPage prints the address of the page. If there is no other way in, and no access token is valid, it makes one for an administrator, and
// prints it behind the # of the address.
func showPage(ctx context.Context, tokens *accesstoken.Tokens, out io.Writer, ownURL string, otherWay bool) error {
	list, err := tokens.List(ctx)
	if err != nil {
		return err
	}
	now := time.Now()
	if otherWay || slices.ContainsFunc(list, func(t *accesstoken.Token) bool { return t.ExpireAt.After(now) }) {
		fmt.Fprintf(out, "Page:        %s/\n", ownURL)
		return nil
	}
	made, secret, err := tokens.Create(ctx, accesstoken.Spec{Name: "first " + now.UTC().Format(time.RFC3339), Grant: access.Grant{Role: access.RoleAdmin}, ExpireAt: now.Add(tokenLifetime)})
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "Page:        %s/login#%s (until %s)\n", ownURL, secret, made.ExpireAt.Format(time.RFC3339))
	return nil
}
