package incusostest

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"path"
	"slices"
	"strings"
	"time"
)

// This file has the server's side of the update feed of a control plane, like IncusOS: see Install.

// feedCache is how long a server uses its last list of updates.
const feedCache = time.Hour

// ErrNoApplication means that the feed lacks the application of a fresh server. A real server then hangs.
var ErrNoApplication = errors.New("the server has no application, and waits for one")

// feedUpdate is the part of an update in the feed that a server reads.
type feedUpdate struct {
	UUID     string   `json:"uuid"`
	Version  string   `json:"version"`
	Channels []string `json:"channels"`
}

// feedFile is a file of an update in the feed.
type feedFile struct {
	Filename     string `json:"filename"`
	Size         int64  `json:"size"`
	SHA256       string `json:"sha256"`
	Component    string `json:"component"`
	Type         string `json:"type"`
	Architecture string `json:"architecture"`
}

func (f *feedFile) isApplication(name string) bool {
	return f.Type == "application" && path.Base(f.Filename) == name+".raw.gz"
}

// fetched is the result of a check of the feed.
type fetched struct {
	version string            // of the selected update; empty if there is none
	os      string            // version of the operating system; empty if there is none
	apps    map[string]string // versions of the available applications
	key     string            // the next Secure Boot key; it has to be applied before all else
	keys    int               // number of further keys
}

// Install performs the first boot of a freshly installed server (Options.Fresh). The server asks the feed of the
// control plane, without a client certificate, for Secure Boot keys, its application and the operating system. It
// installs them, and registers. From then on it takes its updates from the feed. For other servers, Install only
// registers and follows the feed.
//
// Errors: ErrNoApplication if the feed lacks the application, which the Console then shows, too; errors of downloads;
// those of Register.
func (s *Server) Install(ctx context.Context, provider Provider) error {
	s.mu.Lock()
	s.provider, s.feed = provider, true
	application, fresh := s.options.Application, s.state.bare
	s.mu.Unlock()
	if fresh {
		for range 1 + maxKeys { // each key needs a boot
			got, err := s.fetchUpdates(ctx, []string{application}, false)
			switch {
			case err != nil:
				s.printConsole("Failed to check for updates: " + err.Error())
				return fmt.Errorf("installing %s: %w", s.options.Name, err)
			case got.key != "":
				s.applyKey(got.key)
				s.bootUnregistered()
				continue
			case got.apps[application] == "":
				s.printConsole(fmt.Sprintf("No update available for application %q, waiting for one", application))
				return fmt.Errorf("%s: application %s: %w", s.options.Name, application, ErrNoApplication)
			}
			s.mu.Lock()
			s.state.bare = false
			s.state.applications = []deployed{{application, got.apps[application], true}}
			if got.os != "" && newer(got.os, s.state.version) {
				s.state.next = got.os // the check at startup boots it at once
				s.boot()
			}
			s.state.ready, s.state.lastCheck = true, time.Now()
			s.saveSoon()
			s.mu.Unlock()
			break
		}
	}
	return s.Register(ctx, provider)
}

// maxKeys is the largest number of Secure Boot keys that a fresh server applies.
const maxKeys = 8

// FollowFeed makes the server take its updates from the feed of its control plane, like a real server. With false, it
// takes them from Offer, which is the default.
func (s *Server) FollowFeed(follow bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.feed = follow
}

// Console returns the last 100 lines of the server's console.
func (s *Server) Console() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.console)
}

const maxConsole = 100

// printConsole adds a line to the console.
func (s *Server) printConsole(line string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.console = append(s.console, line); len(s.console) > maxConsole {
		s.console = s.console[1:]
	}
}

// fetchUpdates checks the feed, and downloads newer versions of the applications and, in any case, the operating system.
func (s *Server) fetchUpdates(ctx context.Context, applications []string, osOnly bool) (*fetched, error) {
	s.mu.Lock()
	running, channel, bad := s.state.version, s.state.update.Channel, ""
	if s.state.next == s.state.alternate {
		bad = s.state.next // it failed to boot
	}
	staged, waits := s.state.next, s.state.keyBoot
	have := map[string]string{}
	for _, a := range s.state.applications {
		have[a.name] = a.version
	}
	s.mu.Unlock()
	list, err := s.feedList(ctx)
	if err != nil {
		return nil, err
	}
	out := &fetched{apps: map[string]string{}}
	if waits {
		s.printConsole("A Secure Boot key waits for a reboot")
		return out, nil
	}
	at := slices.IndexFunc(list, func(u feedUpdate) bool { return slices.Contains(u.Channels, channel) || u.Version == running })
	if at < 0 {
		return out, nil
	}
	if !slices.ContainsFunc(list, func(u feedUpdate) bool { return slices.Contains(u.Channels, channel) }) {
		s.printConsole(fmt.Sprintf("No update has channel %q", channel))
	}
	u := list[at]
	var files []feedFile
	if err := s.send(ctx, http.MethodGet, "/1.0/provisioning/updates/"+u.UUID+"/files", nil, &files); err != nil {
		return nil, err
	}
	files = slices.DeleteFunc(files, func(f feedFile) bool { return f.Architecture != "" && f.Architecture != s.options.Architecture })
	if len(files) == 0 {
		return out, nil
	}
	out.version = u.Version
	keys, err := s.newKeys(ctx, &u, files)
	if err != nil {
		return nil, err
	}
	if len(keys) > 0 {
		out.key, out.keys = keys[0], len(keys)-1
		return out, nil
	}
	if !osOnly {
		for _, name := range applications {
			i := slices.IndexFunc(files, func(f feedFile) bool { return f.isApplication(name) })
			if i < 0 {
				continue
			}
			if have[name] == "" || newer(u.Version, have[name]) {
				if _, err := s.download(ctx, &u, &files[i], io.Discard); err != nil {
					return nil, err
				}
			}
			out.apps[name] = u.Version
		}
	}
	parts := map[string]bool{}
	for i := range files {
		f := &files[i]
		if f.Component != "os" || !strings.HasPrefix(f.Type, "update-") || f.Type == "update-secureboot" {
			continue
		}
		if newer(u.Version, running) && u.Version != staged && u.Version != bad {
			if _, err := s.download(ctx, &u, f, io.Discard); err != nil {
				return nil, err
			}
		}
		parts[f.Type] = true
	}
	switch {
	case len(parts) == 0:
	case len(parts) < 4:
		return nil, fmt.Errorf("the operating system %s is incomplete: it has %s", u.Version, strings.Join(slices.Sorted(maps.Keys(parts)), ", "))
	case newer(running, u.Version):
		s.printConsole(fmt.Sprintf("Local version %s is newer than available %s", running, u.Version))
	default:
		out.os = u.Version
	}
	return out, nil
}

// feedList returns the list of updates. It reads the list again after feedCache.
func (s *Server) feedList(ctx context.Context) ([]feedUpdate, error) {
	s.mu.Lock()
	list, at := s.listed, s.listedAt
	s.mu.Unlock()
	if list != nil && time.Since(at) < feedCache {
		return list, nil
	}
	if err := s.send(ctx, http.MethodGet, "/1.0/provisioning/updates?recursion=1", nil, &list); err != nil {
		return nil, err
	}
	s.mu.Lock()
	s.listed, s.listedAt = list, time.Now()
	s.mu.Unlock()
	return list, nil
}

// download fetches a file, verifies its SHA-256, and writes the unpacked content to w.
func (s *Server) download(ctx context.Context, u *feedUpdate, f *feedFile, w io.Writer) (unpacked int64, err error) {
	s.mu.Lock()
	base, transport, version := strings.TrimSuffix(s.provider.ServerURL, "/"), s.feedTransportLocked(), s.state.version
	s.mu.Unlock()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, base+"/1.0/provisioning/updates/"+u.UUID+"/files/"+f.Filename, nil)
	if err != nil {
		return 0, err
	}
	req.Header.Set("User-Agent", "IncusOS/"+version)
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return 0, fmt.Errorf("file %s: status %s", f.Filename, resp.Status)
	}
	sum := sha256.New()
	body := io.TeeReader(resp.Body, sum)
	content, err := gzip.NewReader(body) // fails if net/http has unpacked a Content-Encoding
	if err != nil {
		return 0, fmt.Errorf("file %s: %w", f.Filename, err)
	}
	if unpacked, err = io.Copy(w, content); err == nil {
		_, err = io.Copy(io.Discard, body)
	}
	if err != nil {
		return 0, fmt.Errorf("file %s: %w", f.Filename, err)
	}
	if got := hex.EncodeToString(sum.Sum(nil)); f.SHA256 != "" && got != f.SHA256 {
		return 0, fmt.Errorf("file %s: its sha256 is %s, but the feed lists %s", f.Filename, got, f.SHA256)
	}
	return unpacked, nil
}

// feedTransportLocked returns the transport for requests to the control plane. A server without an application has no
// client certificate. s.mu is held.
func (s *Server) feedTransportLocked() *http.Transport {
	if !s.state.bare {
		return s.transport
	}
	if s.anonymous == nil {
		s.anonymous = s.transport.Clone()
		s.anonymous.TLSClientConfig.Certificates = nil
	}
	return s.anonymous
}

// newKeys returns the Secure Boot keys of an update that the server lacks, in the order of their application.
func (s *Server) newKeys(ctx context.Context, u *feedUpdate, files []feedFile) ([]string, error) {
	i := slices.IndexFunc(files, func(f feedFile) bool { return f.Type == "update-secureboot" })
	if i < 0 {
		return nil, nil
	}
	reader, writer := io.Pipe()
	defer reader.Close()
	failed := make(chan error, 1)
	go func() {
		_, err := s.download(ctx, u, &files[i], writer)
		writer.CloseWithError(err)
		failed <- err
	}()
	var keys []string
	for archive := tar.NewReader(reader); ; {
		header, err := archive.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			reader.CloseWithError(err)
			return nil, fmt.Errorf("reading the Secure Boot keys: %w", errors.Join(err, <-failed))
		}
		keys = append(keys, strings.TrimSuffix(header.Name, ".auth"))
	}
	_, _ = io.Copy(io.Discard, reader)
	if err := <-failed; err != nil {
		return nil, err
	}
	order := []string{"KEK_", "db_", "dbx_"}
	rank := func(key string) int {
		return slices.IndexFunc(order, func(prefix string) bool { return strings.HasPrefix(key, prefix) })
	}
	slices.SortStableFunc(keys, func(a, b string) int { return rank(a) - rank(b) })
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.DeleteFunc(keys, func(key string) bool { return s.state.keys[key] }), nil
}

// applyKey adds a Secure Boot key to the firmware.
func (s *Server) applyKey(key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state.keys == nil {
		s.state.keys = map[string]bool{}
	}
	s.state.keys[key] = true
	s.saveSoon()
}

// bootUnregistered reboots a server before its registration.
func (s *Server) bootUnregistered() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.boot()
	s.reboots++
}

// Check makes the server check for updates and apply them, as if at its console, and returns afterwards.
func (s *Server) Check() {
	if s.beginUpdate() {
		s.applyUpdate(false)
	}
}

// ApplicationVersions returns the version of each installed application, by name.
func (s *Server) ApplicationVersions() map[string]string {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := map[string]string{}
	for _, a := range s.state.applications {
		out[a.name] = a.version
	}
	return out
}
