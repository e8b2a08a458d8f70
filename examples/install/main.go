// Command install shows the way from an installation image to a member of the fleet. It starts a control plane with an update feed of generated,
// signed releases, makes a token with a named seed, and fetches an image of that, as an operator or a BMC would:
//
//	go run ./examples/install -o install.img
//
// With -serve it stays, and serves the image. With -boot, three simulated machines boot from images of their own: each installs itself, fetches Incus from the feed, and
// registers. They become a cluster, and get their first rolling update.
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/controlplane"
	"github.com/opscenter-go/sdk/opscenter/devcert"
	"github.com/opscenter-go/sdk/opscenter/httpapi"
	"github.com/opscenter-go/sdk/opscenter/image"
	"github.com/opscenter-go/sdk/opscenter/incusos"
	"github.com/opscenter-go/sdk/opscenter/incusostest"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
	"github.com/opscenter-go/sdk/opscenter/network"
	"github.com/opscenter-go/sdk/opscenter/rolling"
	"github.com/opscenter-go/sdk/opscenter/rollout"
	"github.com/opscenter-go/sdk/opscenter/seed"
	"github.com/opscenter-go/sdk/opscenter/system"
	"github.com/opscenter-go/sdk/opscenter/terminal"
	"github.com/opscenter-go/sdk/opscenter/updates"
	"github.com/opscenter-go/sdk/poller"
	"github.com/opscenter-go/sdk/storage/memstore"
)

const (
	oldVersion = "202610010000"
	newVersion = "202610150000"
	machines   = 3
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], terminal.Safe(os.Stdout)); err != nil {
		fmt.Fprintln(terminal.Safe(os.Stderr), "install:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, out io.Writer) (err error) {
	flags := flag.NewFlagSet("install", flag.ContinueOnError)
	flags.SetOutput(out)
	file := flags.String("o", "", "file to write an image to; default: a temporary one")
	kind := flags.String("type", image.Raw, "kind of image: raw or iso")
	architecture := flags.String("architecture", updates.ArchitectureX8664, "x86_64 or aarch64")
	application := flags.String("application", "incus", "what the servers run: incus, incus-lts-7.0, migration-manager")
	serve := flags.Bool("serve", false, "serve the image at a random URL until Ctrl-C")
	boot := flags.Bool("boot", false, "boot simulated machines from images, until they are a cluster that was updated")
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return nil
		}
		return err
	}
	if !*serve {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, 5*time.Minute)
		defer cancel()
	}
	s, err := begin(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	if err := s.publish(ctx, oldVersion); err != nil {
		return err
	}
	fmt.Fprintf(out, "The control plane listens at %s, and offers release %s.\n", s.url, oldVersion)
	token, err := s.Registry.CreateToken(ctx, opscenter.TokenSpec{Description: "rack 7", Uses: machines, AutoRemove: true})
	if err != nil {
		return err
	}
	path := *file
	if path == "" {
		path = filepath.Join(s.dir, "install.img")
	}
	if err := s.image(ctx, token, "server01", *application, image.Request{Kind: *kind, Architecture: *architecture}, path); err != nil {
		return err
	}
	if err := describe(out, path, *file); err != nil {
		return err
	}
	if *serve {
		return s.serve(ctx, token, image.Request{Kind: *kind, Architecture: *architecture}, out)
	}
	if !*boot {
		return nil
	}
	if err := s.install(ctx, token, *application, image.Request{Kind: *kind, Architecture: *architecture}, out); err != nil {
		return err
	}
	if *application == "migration-manager" {
		fmt.Fprintln(out, "They run no Incus, and stay on their own.")
		return nil
	}
	return s.cluster(ctx, out)
}

// describe shows what is in an image.
func describe(out io.Writer, path, kept string) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	layout, err := image.ReadLayout(file)
	if err != nil {
		return err
	}
	read, err := seed.Read(io.NewSectionReader(file, layout.SeedOffset, layout.SeedSize))
	if err != nil {
		return err
	}
	raw, err := read.Raw()
	if err != nil {
		return err
	}
	if kept != "" {
		fmt.Fprintf(out, "The image is in %s.\n", kept)
	}
	fmt.Fprintf(out, "Its seed is %d bytes into it, and has:", layout.SeedOffset)
	for _, name := range seed.Files {
		if raw[name] != nil {
			fmt.Fprint(out, " ", name)
		}
	}
	fmt.Fprintln(out)
	return nil
}

// site is a control plane, with what is installed from its images.
type site struct {
	*controlplane.ControlPlane
	publisher *incusostest.Publisher
	url, dir  string
	operator  *http.Client
	servers   []*incusostest.Server
	closers   []func()
	failure   error // of the control plane, when it has ended
}

// begin starts a publisher of updates, and the control plane with a feed that mirrors it, for all architectures.
func begin(ctx context.Context) (s *site, err error) {
	s = &site{}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close())
		}
	}()
	if s.dir, err = os.MkdirTemp("", "install"); err != nil {
		return s, err
	}
	s.closers = append(s.closers, func() { os.RemoveAll(s.dir) })
	if s.publisher, err = incusostest.NewPublisher(); err != nil {
		return s, err
	}
	if err := s.publisher.Start(); err != nil {
		return s, err
	}
	s.closers = append(s.closers, s.publisher.Close)
	own, err := devcert.New("control plane", "127.0.0.1")
	if err != nil {
		return s, err
	}
	operator, err := devcert.New("operator")
	if err != nil {
		return s, err
	}
	store := memstore.New()
	s.closers = append(s.closers, func() { store.Close() })
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return s, err
	}
	s.url = "https://" + listener.Addr().String()
	s.ControlPlane, err = controlplane.New(store, own, controlplane.Options{URL: s.url, Trust: []*x509.Certificate{operator.Leaf},
		UpdatesDir: filepath.Join(s.dir, "updates"),
		Updates:    updates.Options{Settings: &updates.Settings{Source: s.publisher.URL(), FileFilter: updates.NoFilter}, Trust: updates.Trust{Root: s.publisher.Root()}},
		Images:     image.Options{Public: true},
		HTTP:       httpapi.Options{FailuresPerMinute: -1},
		// As in earnest, only quicker.
		Registry: opscenter.Options{RebootTimeout: 10 * time.Second},
		Client:   incusos.Options{Timeout: 2 * time.Second},
		Poller:   poller.Options{Interval: 30 * time.Second, FastInterval: 50 * time.Millisecond, RetryInterval: 100 * time.Millisecond, Timeout: 2 * time.Second},
		Rollouts: rollout.Options{PollInterval: 50 * time.Millisecond, Lease: 2 * time.Second},
		Systems:  system.Options{ResetTimeout: time.Minute}})
	if err != nil {
		return s, errors.Join(err, listener.Close())
	}
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(running, listener) }()
	s.closers = append(s.closers, func() {
		stop()
		s.failure = <-ended
	})
	roots := x509.NewCertPool()
	roots.AddCert(own.Leaf)
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{operator}}}
	s.closers = append(s.closers, transport.CloseIdleConnections)
	s.operator = &http.Client{Transport: transport}
	return s, nil
}

// close ends all, and returns the error of the control plane.
func (s *site) close() error {
	for _, server := range s.servers {
		server.Close()
	}
	for _, end := range slices.Backward(s.closers) {
		end()
	}
	s.closers = nil
	return s.failure
}

// publish publishes a release with images, and fetches it.
func (s *site) publish(ctx context.Context, version string) error {
	err := s.publisher.Publish(incusostest.Release{Version: version, ISO: true, Architectures: []string{updates.ArchitectureX8664, updates.ArchitectureAArch64}})
	if err != nil {
		return err
	}
	return s.Updates.Refresh(ctx, updates.RefreshOptions{})
}

// image makes a named seed of a token, and fetches an image of it over HTTP, in two parts as a BMC does.
func (s *site) image(ctx context.Context, token *opscenter.Token, name, application string, request image.Request, path string) error {
	wanted := &seed.Seed{Install: &seed.Install{ForceReboot: true}, Applications: seed.ApplicationsOf(application), Network: &seed.Network{Config: network.Config{DNS: &network.DNS{Hostname: name}}}}
	if err := wanted.Validate(seed.Rules{}); err != nil {
		return err
	}
	files, err := wanted.Raw()
	if err != nil {
		return err
	}
	if _, err := s.Registry.TokenSeeds().Create(ctx, token.UUID, name, opscenter.TokenSeedSpec{Files: files}); err != nil && !errors.Is(err, opscenter.ErrInUse) {
		return err
	}
	where := s.url + "/1.0/provisioning/tokens/" + token.UUID + "/seeds/" + name + "?" + query(request)
	partial := path + ".partial"
	file, err := os.OpenFile(partial, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600) // it holds a token
	if err != nil {
		return err
	}
	err = s.fetch(ctx, where, file)
	if err = errors.Join(err, file.Close()); err != nil {
		return errors.Join(err, os.Remove(partial))
	}
	return os.Rename(partial, path)
}

// serve makes the seed public, and waits.
func (s *site) serve(ctx context.Context, token *opscenter.Token, request image.Request, out io.Writer) error {
	err := s.Registry.TokenSeeds().Edit(ctx, token.UUID, "server01", func(_ *opscenter.TokenSeed, spec *opscenter.TokenSeedSpec) error {
		spec.Public = true
		return nil
	})
	if err != nil {
		return err
	}
	public, err := s.Registry.TokenSeeds().Get(ctx, token.UUID, "server01")
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "It is served: curl -k -o install%s '%s/1.0/provisioning/images/%s?%s'\n", map[string]string{image.Raw: ".img", image.ISO: ".iso"}[request.Kind], s.url, public.Public, query(request))
	<-ctx.Done()
	return nil
}

func query(request image.Request) string {
	return url.Values{"type": {request.Kind}, "architecture": {request.Architecture}}.Encode()
}

// fetch fetches the first half of an image, and the rest.
func (s *site) fetch(ctx context.Context, where string, to io.Writer) error {
	size, tag, done := int64(-1), "", int64(0)
	for size < 0 || done < size {
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, where, nil)
		if err != nil {
			return err
		}
		if size >= 0 {
			r.Header.Set("Range", fmt.Sprintf("bytes=%d-", done))
			r.Header.Set("If-Range", tag)
		}
		resp, err := s.operator.Do(r)
		if err != nil {
			return err
		}
		want, n := http.StatusPartialContent, size-done
		if size < 0 {
			want, size, tag = http.StatusOK, resp.ContentLength, resp.Header.Get("ETag")
			n = size / 2
		}
		if resp.StatusCode != want {
			text, _ := io.ReadAll(io.LimitReader(resp.Body, 1000))
			resp.Body.Close()
			return fmt.Errorf("the image: status %d: %s", resp.StatusCode, text)
		}
		written, err := io.CopyN(to, resp.Body, n)
		resp.Body.Close()
		if err != nil {
			return err
		}
		done += written
	}
	return nil
}

// boot boots a machine from an image. It returns the server, which has registered.
func (s *site) boot(ctx context.Context, path string, request image.Request) (*incusostest.Server, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	server, err := incusostest.Boot(ctx, file, incusostest.Machine{Architecture: request.Architecture, CDROM: request.Kind == image.ISO,
		Options: incusostest.Options{UpdateDelay: 50 * time.Millisecond, RebootDelay: 50 * time.Millisecond, EvacuateDelay: 50 * time.Millisecond}})
	if server != nil {
		s.servers = append(s.servers, server)
	}
	return server, err
}

// install installs the machines, each from an image of its own.
func (s *site) install(ctx context.Context, token *opscenter.Token, application string, request image.Request, out io.Writer) error {
	for i := range machines {
		name := fmt.Sprintf("server%02d", i+1)
		path := filepath.Join(s.dir, name+".img")
		if err := s.image(ctx, token, name, application, request, path); err != nil {
			return err
		}
		server, err := s.boot(ctx, path, request)
		if err != nil {
			return err
		}
		version, _ := server.Version()
		fmt.Fprintf(out, "%s has booted from its image, installed %s %s, and registered.\n", server.Name(), application, version)
	}
	return s.settled(ctx, func(info *opscenter.ServerInfo) bool { return info.State.Status == lifecycle.StatusReady })
}

// settled waits until all servers are as they should be.
func (s *site) settled(ctx context.Context, good func(*opscenter.ServerInfo) bool) error {
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for {
		page, err := s.Registry.ListServers(ctx, opscenter.ServerFilter{}, opscenter.Page{Limit: opscenter.MaxPageSize})
		if err != nil {
			return err
		}
		waits := ""
		for _, info := range page.Servers {
			if !good(info) {
				waits = fmt.Sprintf("%s is %s (%s)", info.Name, info.State.Status, info.State.StatusReason)
			}
		}
		if waits == "" {
			return nil
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return fmt.Errorf("%s: %w", waits, ctx.Err())
		}
	}
}

// cluster makes the servers a cluster, and updates it.
func (s *site) cluster(ctx context.Context, out io.Writer) error {
	var names []string
	for _, server := range s.servers {
		names = append(names, server.Name())
	}
	if err := s.Clusters.Form(ctx, "rack7", names...); err != nil {
		return err
	}
	if err := s.settled(ctx, func(info *opscenter.ServerInfo) bool {
		return info.State.Status == lifecycle.StatusReady && info.Cluster == "rack7"
	}); err != nil {
		return err
	}
	fmt.Fprintf(out, "They are cluster rack7.\n")
	if err := s.publish(ctx, newVersion); err != nil {
		return err
	}
	fmt.Fprintf(out, "Release %s is published: each of them needs an update.\n", newVersion)
	if err := s.update(ctx); err != nil {
		return err
	}
	for _, name := range names {
		info, err := s.Registry.Server(ctx, name)
		if err != nil {
			return err
		}
		fmt.Fprintf(out, "%s is %s on %s.\n", name, info.State.Status, info.State.Versions.OS.Version)
	}
	return nil
}

// update carries out a rolling update of all servers.
func (s *site) update(ctx context.Context) error {
	r, err := s.Rollouts.Start(ctx, rolling.Selector{All: true}, rolling.Policy{Parallel: 20, Retries: 1, Backoff: 200 * time.Millisecond})
	if err != nil {
		return err
	}
	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	for {
		now, err := s.Rollouts.Get(ctx, r.ID)
		switch {
		case err != nil:
			return err
		case now.State.Status == rolling.StatusDone:
			return s.settled(ctx, func(info *opscenter.ServerInfo) bool {
				return info.State.Status == lifecycle.StatusReady && !info.NeedsUpdate()
			})
		case now.State.Status.Ended() || now.State.Status == rolling.StatusPaused:
			return fmt.Errorf("the rollout is %s: %s", now.State.Status, now.State.Reason)
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return fmt.Errorf("the rollout is %s: %w", now.State.Status, ctx.Err())
		}
	}
}
