package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/access"
	"github.com/opscenter-go/sdk/opscenter/controlplane"
	"github.com/opscenter-go/sdk/opscenter/devcert"
	"github.com/opscenter-go/sdk/opscenter/incusostest"
	"github.com/opscenter-go/sdk/storage/memstore"
)

// TestMain lets the test binary be the control plane itself: a process to send signals to.
func TestMain(m *testing.M) {
	if os.Getenv("OPSCENTER_CONTROLPLANE") != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

// process is a control plane in a process of its own.
type process struct {
	t           *testing.T
	cmd         *exec.Cmd
	url         string
	fingerprint string
	logs        *bytes.Buffer
	socket      string
}

func start(t *testing.T, args ...string) *process {
	t.Helper()
	p := &process{t: t, logs: &bytes.Buffer{}, socket: filepath.Join(t.TempDir(), "s")}
	p.cmd = exec.Command(os.Args[0], append([]string{"-listen", "127.0.0.1:0", "-socket", p.socket, "-interval", "1s"}, args...)...)
	p.cmd.Env = append(os.Environ(), "OPSCENTER_CONTROLPLANE=1")
	p.cmd.Stderr = p.logs
	out, err := p.cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, p.cmd.Start())
	t.Cleanup(func() { _ = p.cmd.Process.Kill() })
	scanner := bufio.NewScanner(out)
	for p.url == "" || p.fingerprint == "" {
		require.True(t, scanner.Scan(), "it ended: %s", p.logs)
		p.note(scanner.Text())
	}
	go func() {
		for scanner.Scan() {
		}
	}()
	return p
}

func (p *process) note(line string) {
	name, value, _ := strings.Cut(line, ":")
	value, _, _ = strings.Cut(strings.TrimSpace(value), " ")
	switch name {
	case "URL":
		p.url = value
	case "Fingerprint":
		p.fingerprint = value
	}
}

// local calls the API over the Unix socket.
func (p *process) local(method, path, body string, into any) {
	p.t.Helper()
	client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", p.socket)
	}}}
	defer client.CloseIdleConnections()
	call(p.t, client, method, "http://opscenter"+path, body, into)
}

func call(t *testing.T, client *http.Client, method, url, body string, into any) {
	t.Helper()
	req, err := http.NewRequest(method, url, strings.NewReader(body))
	require.NoError(t, err)
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := client.Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	var envelope struct {
		Type     string          `json:"type"`
		Error    string          `json:"error"`
		Metadata json.RawMessage `json:"metadata"`
	}
	require.NoError(t, json.Unmarshal(data, &envelope))
	require.Equal(t, "sync", envelope.Type, envelope.Error)
	if into != nil {
		require.NoError(t, json.Unmarshal(envelope.Metadata, into))
	}
}

// stop sends SIGTERM, and wants an orderly end within 5 s.
func (p *process) stop() {
	p.t.Helper()
	begun := time.Now()
	require.NoError(p.t, p.cmd.Process.Signal(syscall.SIGTERM))
	require.NoError(p.t, p.cmd.Wait(), "%s", p.logs)
	require.Less(p.t, time.Since(begun), 5*time.Second)
	require.Contains(p.t, p.logs.String(), "stopped")
}

type shown struct {
	Name   string    `json:"name"`
	Status string    `json:"server_status"`
	Type   string    `json:"server_type"`
	Seen   time.Time `json:"last_seen"`
}

func (p *process) servers() []shown {
	var out []shown
	p.local("GET", "/1.0/provisioning/servers?recursion=1&facts=0", "", &out)
	return out
}

func TestControlPlane(t *testing.T) {
	data := t.TempDir()
	operator, err := devcert.New("operator")
	require.NoError(t, err)
	trust := filepath.Join(t.TempDir(), "operators.pem")
	require.NoError(t, os.WriteFile(trust, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: operator.Certificate[0]}), 0o600))
	p := start(t, "-data", data, "-trust", trust)
	info, err := os.Stat(p.socket)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm())
	for _, key := range []string{"server.key", "client.key"} {
		info, err := os.Stat(filepath.Join(data, key))
		require.NoError(t, err)
		require.Equal(t, os.FileMode(0o600), info.Mode().Perm())
	}
	var tokens []struct {
		UUID     string    `json:"uuid"`
		ExpireAt time.Time `json:"expire_at"`
	}
	require.Eventually(t, func() bool {
		p.local("GET", "/1.0/provisioning/tokens?recursion=1", "", &tokens)
		return len(tokens) == 1
	}, 5*time.Second, 10*time.Millisecond)
	require.WithinDuration(t, time.Now().Add(24*time.Hour), tokens[0].ExpireAt, time.Hour)

	// Servers register, pinning the certificate whose fingerprint was printed, and get polled.
	var pinned = func() incusostest.Provider {
		conn, err := tls.Dial("tcp", strings.TrimPrefix(p.url, "https://"), &tls.Config{InsecureSkipVerify: true})
		require.NoError(t, err)
		defer conn.Close()
		certificate := conn.ConnectionState().PeerCertificates[0]
		require.Equal(t, p.fingerprint, opscenter.Fingerprint(certificate))
		return incusostest.Provider{ServerURL: p.url, Token: tokens[0].UUID, Certificate: certificate}
	}
	for i := range 5 {
		server, err := incusostest.New(incusostest.Options{Name: fmt.Sprintf("server%d", i)})
		require.NoError(t, err)
		defer server.Close()
		require.NoError(t, server.Register(t.Context(), pinned()))
	}
	ready := func(want int) func() bool {
		return func() bool {
			n := 0
			for _, s := range p.servers() {
				if s.Status == "ready" && s.Type == "incus" {
					n++
				}
			}
			return n == want
		}
	}
	require.Eventually(t, ready(5), 20*time.Second, 50*time.Millisecond)
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{operator}}}}
	var paths []string
	call(t, client, "GET", p.url+"/1.0/provisioning/servers", "", &paths)
	require.Len(t, paths, 5, "operators with a trusted certificate")
	// Seen again, by polls that store nothing; the stop must not lose it. The idle connection is no obstacle.
	first := p.servers()[0].Seen
	require.Eventually(t, func() bool { return p.servers()[0].Seen.After(first) }, 10*time.Second, 20*time.Millisecond)
	before := p.servers()
	p.stop()
	client.CloseIdleConnections()
	require.NotContains(t, p.logs.String(), tokens[0].UUID)
	_, err = os.Stat(p.socket)
	require.ErrorIs(t, err, os.ErrNotExist, "the socket is tidied up")

	// A second start knows every server, and is who it was.
	fingerprint := p.fingerprint
	p = start(t, "-data", data)
	require.Equal(t, fingerprint, p.fingerprint)
	after := p.servers()
	require.Len(t, after, 5)
	for i := range after {
		require.Equal(t, before[i].Name, after[i].Name)
		require.Equal(t, "ready", after[i].Status)
		require.False(t, after[i].Seen.Before(before[i].Seen), "when it was last seen was not lost")
	}
	require.Eventually(t, func() bool { return p.servers()[0].Seen.After(after[0].Seen) }, 10*time.Second, 20*time.Millisecond)
	p.local("GET", "/1.0/provisioning/tokens?recursion=1", "", &tokens)
	require.Len(t, tokens, 1, "there is a token already")

	// Two control planes can't share a store; and one that is killed has lost nothing.
	var out bytes.Buffer
	require.ErrorContains(t, run(t.Context(), []string{"-data", data, "-listen", "127.0.0.1:0"}, &out, io.Discard), "in use by another process")
	require.NoError(t, p.cmd.Process.Kill())
	_ = p.cmd.Wait()
	p = start(t, "-data", data)
	require.Len(t, p.servers(), 5)
	p.stop()
}

func TestBadFlags(t *testing.T) {
	garbage := filepath.Join(t.TempDir(), "garbage.pem")
	require.NoError(t, os.WriteFile(garbage, []byte("garbage"), 0o600))
	for want, args := range map[string][]string{
		"-trust": {"-trust", "/does/not/exist"}, "no PEM certificate": {"-trust", garbage},
		"-interval": {"-interval", "0s"}, "-listen": {"-listen", "nowhere"},
		"is no socket": {"-listen", "127.0.0.1:0", "-socket", garbage}, "is not known": {"listen"},
		"-url is required": {"-listen", ":0"}, "0.0.0.0:0 names no address": {"-listen", "0.0.0.0:0"}, "[::]:0 names no address": {"-listen", "[::]:0"},
		"https is wanted": {"-url", "http://x"}, "unspecified address": {"-url", "https://0.0.0.0"}, "must have no path": {"-url", "https://x/y"}, "user or a password": {"-url", "https://a:b@x"}, "flag provided": {"-unheard-of"},
	} {
		err := run(t.Context(), args, io.Discard, io.Discard)
		require.ErrorContains(t, err, want)
	}
	kept, err := os.ReadFile(garbage)
	require.NoError(t, err)
	require.Equal(t, "garbage", string(kept))
}

// TestURL: the address that servers use is printed, in the certificate and in what servers are configured with.
func TestURL(t *testing.T) {
	data := t.TempDir()
	p := start(t, "-data", data, "-listen", "0.0.0.0:0", "-url", "https://control.example:7443/")
	require.Equal(t, "https://control.example:7443", p.url)
	certificate, err := tls.LoadX509KeyPair(filepath.Join(data, "server.crt"), filepath.Join(data, "server.key"))
	require.NoError(t, err)
	require.NoError(t, certificate.Leaf.VerifyHostname("control.example"))
	require.NoError(t, certificate.Leaf.VerifyHostname("localhost"))
	require.Error(t, certificate.Leaf.VerifyHostname("0.0.0.0"))
	p.stop()
	// Another URL later: the identity that servers pin is kept, with a word about it.
	p = start(t, "-data", data, "-listen", "0.0.0.0:0", "-url", "https://other.example")
	require.Equal(t, opscenter.Fingerprint(certificate.Leaf), p.fingerprint)
	p.stop()
	require.Contains(t, p.logs.String(), "lacks the host of the URL")
}

// TestIntroduce: what is printed is what a server's seed needs, and the token is made once.
func TestIntroduce(t *testing.T) {
	own, err := devcert.New("control plane")
	require.NoError(t, err)
	cp, err := controlplane.New(memstore.New(), own, controlplane.Options{})
	require.NoError(t, err)
	defer cp.Close()
	registry := cp.Registry
	var out bytes.Buffer
	require.NoError(t, introduce(t.Context(), cp, &out, "https://control.example", own.Leaf, config{}))
	_, line, found := strings.Cut(out.String(), "provider.json: ")
	require.True(t, found, out.String())
	var seed struct {
		Name   string            `json:"name"`
		Config map[string]string `json:"config"`
	}
	require.NoError(t, json.Unmarshal([]byte(line), &seed))
	require.Equal(t, "operations-center", seed.Name)
	require.Equal(t, "https://control.example", seed.Config["server_url"])
	pinned, err := opscenter.ParseCertificate(seed.Config["server_certificate"])
	require.NoError(t, err)
	require.Equal(t, own.Leaf.Raw, pinned.Raw)
	token, err := registry.Token(t.Context(), seed.Config["server_token"])
	require.NoError(t, err)
	require.EqualValues(t, firstTokenUse, token.UsesRemaining)
	_, line, found = strings.Cut(out.String(), "https://control.example/login#")
	require.True(t, found, out.String())
	secret, _, _ := strings.Cut(line, " ")
	person, err := cp.AccessTokens.Principal(t.Context(), secret)
	require.NoError(t, err)
	require.Equal(t, access.RoleAdmin, person.Role)
	out.Reset()
	require.NoError(t, introduce(t.Context(), cp, &out, "https://control.example", own.Leaf, config{}))
	require.NotContains(t, out.String(), "Token")
	require.Contains(t, out.String(), "Page:        https://control.example/\n")
	list, err := cp.AccessTokens.List(t.Context())
	require.NoError(t, err)
	require.NoError(t, cp.AccessTokens.Revoke(t.Context(), list[0].UUID))
	require.NoError(t, introduce(t.Context(), cp, &out, "https://control.example", own.Leaf, config{}))
	require.Contains(t, out.String(), "/login#", "without one, no operator could log in")
	list, err = cp.AccessTokens.List(t.Context())
	require.NoError(t, err)
	require.NoError(t, cp.AccessTokens.Revoke(t.Context(), list[0].UUID))
	out.Reset()
	require.NoError(t, introduce(t.Context(), cp, &out, "https://control.example", own.Leaf, config{socket: "s"}))
	require.NotContains(t, out.String(), "/login#", "the socket makes one")
}

// TestDemo: the simulated servers register, are updated by a rollout, and have trouble.
func TestDemo(t *testing.T) {
	p := start(t, "-demo", "-log-level", "info")
	require.Eventually(t, func() bool {
		var servers []struct {
			Status string `json:"server_status"`
		}
		var rollouts []struct {
			StepsDone int `json:"steps_done"`
		}
		p.local("GET", "/1.0/provisioning/servers?recursion=1&facts=0", "", &servers)
		p.local("GET", "/1.0/provisioning/rollouts?recursion=1", "", &rollouts)
		ready := 0
		for _, s := range servers {
			if s.Status == "ready" {
				ready++
			}
		}
		return len(servers) == demoClusters*demoMembers+demoSingles && ready >= 10 && len(rollouts) == 1 && rollouts[0].StepsDone > 0
	}, 60*time.Second, 100*time.Millisecond)
	p.stop()
	c, _, err := load(nil, []string{"OPSCENTER_DEMO=true"}, io.Discard)
	require.NoError(t, err)
	require.True(t, c.demo)
	require.Equal(t, "error", c.level)
	require.ErrorContains(t, run(t.Context(), []string{"-demo", "-data", t.TempDir()}, io.Discard, io.Discard), "-demo")
}

// TestUpdateFeed: with -updates a freshly installed server finds its application, and comes to register.
func TestUpdateFeed(t *testing.T) {
	publisher, err := incusostest.NewPublisher()
	require.NoError(t, err)
	require.NoError(t, publisher.Start())
	t.Cleanup(publisher.Close)
	require.NoError(t, publisher.Publish(incusostest.Release{Version: "202610010000"}))
	dir := t.TempDir()
	root := filepath.Join(dir, "root.pem")
	require.NoError(t, os.WriteFile(root, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: publisher.Root().Raw}), 0o600))
	p := start(t, "-updates", filepath.Join(dir, "updates"), "-source", publisher.URL(), "-source-root", root)
	require.Eventually(t, func() bool {
		var list []struct {
			Channels []string `json:"channels"`
		}
		p.local("GET", "/1.0/provisioning/updates?recursion=1", "", &list)
		return len(list) == 1 && len(list[0].Channels) == 1
	}, 20*time.Second, 20*time.Millisecond)
	var tokens []struct {
		UUID string `json:"uuid"`
	}
	p.local("GET", "/1.0/provisioning/tokens?recursion=1", "", &tokens)
	server, err := incusostest.New(incusostest.Options{Name: "fresh", Fresh: true, Standalone: true})
	require.NoError(t, err)
	t.Cleanup(server.Close)
	require.NoError(t, server.Install(t.Context(), incusostest.Provider{ServerURL: p.url, Token: tokens[0].UUID}))
	require.Eventually(t, func() bool {
		var shown struct {
			Status string `json:"server_status"`
		}
		p.local("GET", "/1.0/provisioning/servers/fresh", "", &shown)
		return shown.Status == "ready"
	}, 20*time.Second, 50*time.Millisecond)
	require.ErrorContains(t, run(t.Context(), []string{"-updates", filepath.Join(dir, "u"), "-source", "ftp://x"}, io.Discard, io.Discard), "-source")
}
