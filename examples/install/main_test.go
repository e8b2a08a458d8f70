package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/image"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
	"github.com/opscenter-go/sdk/opscenter/system"
	"github.com/opscenter-go/sdk/opscenter/updates"
)

// TestInstall is what README says.
func TestInstall(t *testing.T) {
	var out bytes.Buffer
	path := filepath.Join(t.TempDir(), "install.img")
	require.NoError(t, run(t.Context(), []string{"-o", path, "-boot"}, &out))
	require.FileExists(t, path)
	text := out.String()
	for _, line := range []string{"Its seed is", "has: applications incus install network provider update", "server03 has booted from its image, installed incus 202610010000, and registered.", "They are cluster rack7.",
		"server01 is ready on 202610150000.", "server02 is ready on 202610150000.", "server03 is ready on 202610150000."} {
		require.Contains(t, text, line)
	}
	for _, bad := range [][]string{{"-type", "floppy"}, {"-architecture", "riscv64"}, {"-application", "none/"}, {"-application", "gpu-support"}, {"-o", filepath.Join(path, "x")}} {
		require.Error(t, run(t.Context(), bad, &out), bad)
	}
}

// TestServe: a client that has the URL gets the image.
func TestServe(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	out, in := io.Pipe()
	ended := make(chan error, 1)
	go func() { ended <- run(ctx, []string{"-serve"}, in) }()
	where := ""
	for lines := bufio.NewScanner(out); where == "" && lines.Scan(); {
		if _, after, ok := strings.Cut(lines.Text(), "install.img '"); ok {
			where = strings.TrimSuffix(after, "'")
		}
	}
	transport := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
	defer transport.CloseIdleConnections()
	resp, err := (&http.Client{Transport: transport, Timeout: 20 * time.Second}).Get(where)
	require.NoError(t, err)
	defer resp.Body.Close()
	require.Equal(t, 200, resp.StatusCode)
	n, err := io.Copy(io.Discard, resp.Body)
	require.NoError(t, err)
	require.Equal(t, resp.ContentLength, n)
	stop()
	require.NoError(t, <-ended)
}

// TestTheWholeWay goes from a token to a server that was updated, reset, and has come back, for each application, kind of image and
// architecture.
func TestTheWholeWay(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	s, err := begin(ctx)
	require.NoError(t, err)
	defer s.close()
	require.NoError(t, s.publish(ctx, oldVersion))
	applications := map[string]string{}
	for _, application := range []string{"incus", "incus-lts-7.0", "migration-manager"} {
		for _, kind := range []string{image.Raw, image.ISO} {
			for _, architecture := range []string{updates.ArchitectureX8664, updates.ArchitectureAArch64} {
				name := fmt.Sprintf("server%02d", len(applications)+1)
				token, err := s.Registry.CreateToken(ctx, opscenter.TokenSpec{Uses: 1})
				require.NoError(t, err)
				path := filepath.Join(s.dir, name)
				request := image.Request{Kind: kind, Architecture: architecture}
				require.NoError(t, s.image(ctx, token, name, application, request, path))
				server, err := s.boot(ctx, path, request)
				require.NoError(t, err)
				require.Equal(t, name, server.Name())
				applications[name] = application
				require.NoError(t, os.Remove(path))
			}
		}
	}
	as := func(info *opscenter.ServerInfo, version string) bool {
		if info.State.Status != lifecycle.StatusReady || info.State.Operation != nil || info.State.Versions.OS.Version != version {
			return false
		}
		for _, a := range info.State.Versions.Applications {
			if a.Primary {
				return a.Name == applications[info.Name] && a.Version == version
			}
		}
		return false
	}
	require.NoError(t, s.settled(ctx, func(info *opscenter.ServerInfo) bool { return as(info, oldVersion) && !info.NeedsUpdate() }))
	require.NoError(t, s.publish(ctx, newVersion))
	require.NoError(t, s.settled(ctx, func(info *opscenter.ServerInfo) bool {
		return info.Recommendation().Action == lifecycle.ActionUpdate
	}), "each is recommended an update")
	require.NoError(t, s.update(ctx))
	require.NoError(t, s.settled(ctx, func(info *opscenter.ServerInfo) bool { return as(info, newVersion) }))
	before := map[string]string{}
	for name := range applications {
		info, err := s.Registry.Server(ctx, name)
		require.NoError(t, err)
		before[name] = info.Fingerprint
		require.NoError(t, s.Systems.FactoryReset(ctx, name, system.ResetOptions{}), name)
	}
	require.NoError(t, s.settled(ctx, func(info *opscenter.ServerInfo) bool {
		return info.Fingerprint != before[info.Name] && as(info, newVersion) && !info.NeedsUpdate()
	}), "each comes back as what it was")
}
