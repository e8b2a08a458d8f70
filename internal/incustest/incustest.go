// Package incustest starts the real Incus daemon for tests. Each daemon has its own temporary directory and mount namespace. It
// reaches only loopback addresses.
package incustest

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// RequireVariable names an environment variable. With the value 1, a test fails where it would skip for lack of a daemon. With the
// value 0, all tests with a daemon skip.
const RequireVariable = "OPSCENTER_REQUIRE_INCUS"

// daemonPath is the path of the daemon in Debian's package.
const daemonPath = "/usr/libexec/incus/incusd"

// startTimeout bounds the start of the daemon.
const startTimeout = time.Minute

// Daemon is a running Incus daemon. Call, Get, Do and Instances may be called concurrently; the other methods must not.
type Daemon struct {
	// Socket is the path of the daemon's Unix socket, which gives full access.
	Socket string
	// URL is the HTTPS URL of the daemon.
	URL string
	// Certificate that the daemon presents.
	Certificate *x509.Certificate
	// Version of the daemon.
	Version string
	// Dir is the daemon's INCUS_DIR.
	Dir string
	// Image is the fingerprint of the image that Furnish stored.
	Image string

	t       testing.TB
	host    string
	unshare string
	command *exec.Cmd
	ended   chan struct{}
}

// Start starts a daemon on 127.0.0.1, and stops it at the end of the test. It skips the test if there is no daemon or the user may
// not start it.
func Start(t testing.TB) *Daemon { return StartOn(t, "127.0.0.1") }

// StartOn starts a daemon that listens on the loopback address host.
func StartOn(t testing.TB, host string) *Daemon {
	t.Helper()
	skip := t.Skipf
	if os.Getenv(RequireVariable) == "1" {
		skip = t.Fatalf
	}
	switch {
	case os.Getenv(RequireVariable) == "0":
		skip(RequireVariable + " is 0: tests with the Incus daemon are off")
	case runtime.GOOS != "linux":
		skip("the Incus daemon runs on Linux")
	case os.Getuid() != 0:
		skip("the Incus daemon needs root")
	}
	if _, err := os.Stat(daemonPath); err != nil {
		skip("there is no Incus daemon (Debian's package incus-base): %v", err)
	}
	unshare, err := exec.LookPath("unshare")
	if err != nil {
		skip("the command unshare is required to start the Incus daemon: %v", err)
	}

	dir, err := os.MkdirTemp("/tmp", "i") // short: the path of a Unix socket is limited
	if err != nil {
		t.Fatal(err)
	}
	d := &Daemon{Socket: filepath.Join(dir, "unix.socket"), Dir: dir, t: t, unshare: unshare, host: host}
	t.Cleanup(func() {
		d.stopContainers()
		d.removeBridges()
		d.Stop(false)
		_ = os.RemoveAll(dir)
	})
	if err := d.boot(); err != nil {
		t.Fatal(err)
	}
	d.listen()
	return d
}

// boot starts the daemon's process, and waits until the daemon answers.
func (d *Daemon) boot() error {
	logs := &logBuffer{}
	command := exec.Command(d.unshare, "-m", daemonPath, "--group", "root")
	command.Env = append(os.Environ(), "INCUS_DIR="+d.Dir, "HTTPS_PROXY=http://127.0.0.1:9", "HTTP_PROXY=http://127.0.0.1:9", "NO_PROXY=127.0.0.0/8,localhost")
	command.Stdout, command.Stderr = logs, logs
	ownGroup(command)
	if err := command.Start(); err != nil {
		return err
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = command.Wait()
	}()
	d.command, d.ended = command, ended
	deadline := time.Now().Add(startTimeout)
	for {
		var server struct {
			Environment struct {
				Certificate   string `json:"certificate"`
				ServerVersion string `json:"server_version"`
			} `json:"environment"`
		}
		err := d.Call(http.MethodGet, "/1.0", nil, &server)
		if err == nil {
			d.Version = server.Environment.ServerVersion
			return nil
		}
		select {
		case <-ended:
			return fmt.Errorf("the Incus daemon ended: %s", logs)
		case <-time.After(100 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("the Incus daemon does not answer: %v\n%s", err, logs)
		}
	}
}

// stopTimeout is the time for an orderly end of the daemon.
const stopTimeout = 30 * time.Second

// Stop ends the daemon's process: in order, or at once if kill is set.
func (d *Daemon) Stop(kill bool) {
	if kill {
		_ = d.command.Process.Kill()
	} else {
		_ = d.command.Process.Signal(syscall.SIGTERM)
	}
	select {
	case <-d.ended:
	case <-time.After(stopTimeout):
		_ = d.command.Process.Kill()
		<-d.ended
	}
}

// Restart stops the daemon in order and starts it again, like a reboot of the host. Its containers keep running.
func (d *Daemon) Restart() error {
	d.Stop(false)
	return d.boot()
}

// Revive starts the daemon again after Stop.
func (d *Daemon) Revive() error { return d.boot() }

// ClusterKeyPair returns the certificate and key of the daemon's cluster. Call it only after Cluster.
func (d *Daemon) ClusterKeyPair() (tls.Certificate, error) {
	pair, err := tls.LoadX509KeyPair(filepath.Join(d.Dir, "cluster.crt"), filepath.Join(d.Dir, "cluster.key"))
	if err == nil && pair.Leaf == nil {
		pair.Leaf, err = x509.ParseCertificate(pair.Certificate[0])
	}
	return pair, err
}

// listen makes the daemon listen on a free port, and reads its certificate.
func (d *Daemon) listen() {
	d.t.Helper()
	free, err := net.Listen("tcp", d.host+":0")
	if err != nil {
		d.t.Fatal(err)
	}
	address := free.Addr().String()
	free.Close()
	if err := d.Call(http.MethodPatch, "/1.0", map[string]any{"config": map[string]string{"core.https_address": address}}, nil); err != nil {
		d.t.Fatal(err)
	}
	d.URL = "https://" + address
	d.readCertificate()
}

// readCertificate reads the certificate that the daemon presents.
func (d *Daemon) readCertificate() {
	d.t.Helper()
	conn, err := tls.Dial("tcp", strings.TrimPrefix(d.URL, "https://"), &tls.Config{InsecureSkipVerify: true})
	if err != nil {
		d.t.Fatal(err)
	}
	defer conn.Close()
	d.Certificate = conn.ConnectionState().PeerCertificates[0]
}

// Cluster makes the daemon the first member of a new cluster, under the name. The daemon then presents the cluster's certificate.
func (d *Daemon) Cluster(name string) {
	d.t.Helper()
	address := strings.TrimPrefix(d.URL, "https://")
	if err := d.Call(http.MethodPatch, "/1.0", map[string]any{"config": map[string]string{"cluster.https_address": address}}, nil); err != nil {
		d.t.Fatal(err)
	}
	var operation struct {
		ID string `json:"id"`
	}
	if err := d.Call(http.MethodPut, "/1.0/cluster", map[string]any{"server_name": name, "enabled": true}, &operation); err != nil {
		d.t.Fatal(err)
	}
	if err := d.Call(http.MethodGet, "/1.0/operations/"+operation.ID+"/wait?timeout=25", nil, &struct{}{}); err != nil {
		d.t.Fatal(err)
	}
	d.readCertificate()
}

// Trust adds a client certificate to the daemon's trust store.
func (d *Daemon) Trust(certificate *x509.Certificate) {
	d.t.Helper()
	body := map[string]any{"name": certificate.Subject.CommonName, "type": "client", "certificate": certificate.Raw}
	if err := d.Call(http.MethodPost, "/1.0/certificates", body, nil); err != nil {
		d.t.Fatal(err)
	}
}

// transport reaches the daemon over its Unix socket.
func (d *Daemon) transport() *http.Transport {
	return &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var dialer net.Dialer
		return dialer.DialContext(ctx, "unix", d.Socket)
	}}
}

// Call calls the daemon's API over its Unix socket. It decodes the metadata of the answer into into, unless that is nil.
func (d *Daemon) Call(method, path string, body, into any) error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	var data []byte
	if body != nil {
		var err error
		if data, err = json.Marshal(body); err != nil {
			return err
		}
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://incus"+path, bytes.NewReader(data))
	if err != nil {
		return err
	}
	resp, err := d.transport().RoundTrip(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	var answer struct {
		Type     string          `json:"type"`
		Error    string          `json:"error"`
		Metadata json.RawMessage `json:"metadata"`
	}
	if err := json.Unmarshal(text, &answer); err != nil {
		return err
	}
	if answer.Type == "error" {
		return fmt.Errorf("%s %s: %s", method, path, answer.Error)
	}
	if into != nil {
		return json.Unmarshal(answer.Metadata, into)
	}
	return nil
}

// removeBridges removes the bridges, which would otherwise remain in the host's network.
func (d *Daemon) removeBridges() {
	if entries, _ := os.ReadDir(filepath.Join(d.Dir, "networks")); len(entries) == 0 {
		return // do not ask the daemon: it does not answer in a cluster without a quorum
	}
	var networks []struct {
		Name    string `json:"name"`
		Type    string `json:"type"`
		Managed bool   `json:"managed"`
		Project string `json:"project"`
	}
	if d.Get("/1.0/networks?recursion=1&all-projects=true", &networks) != nil {
		return
	}
	for _, n := range networks {
		if n.Managed && n.Type == "bridge" {
			_ = d.Do(http.MethodDelete, "/1.0/networks/"+n.Name+"?project="+n.Project, nil)
		}
	}
}

// Get reads from the daemon's API over its Unix socket.
func (d *Daemon) Get(path string, into any) error { return d.Call(http.MethodGet, path, nil, into) }

// TrustToken returns a token with which a client becomes trusted.
func (d *Daemon) TrustToken() string {
	d.t.Helper()
	var op struct {
		Metadata struct {
			Request struct {
				Name string `json:"name"`
			} `json:"request"`
			Secret      string    `json:"secret"`
			Fingerprint string    `json:"fingerprint"`
			Addresses   []string  `json:"addresses"`
			ExpiresAt   time.Time `json:"expiresAt"`
		} `json:"metadata"`
	}
	if err := d.Call(http.MethodPost, "/1.0/certificates", map[string]any{"name": "control-plane", "type": "client", "token": true}, &op); err != nil {
		d.t.Fatal(err)
	}
	m := op.Metadata
	data, err := json.Marshal(map[string]any{"client_name": m.Request.Name, "fingerprint": m.Fingerprint, "addresses": m.Addresses, "secret": m.Secret, "expires_at": m.ExpiresAt})
	if err != nil {
		d.t.Fatal(err)
	}
	return base64.StdEncoding.EncodeToString(data)
}

// logBuffer keeps the first 64 KiB of the daemon's log.
type logBuffer struct {
	mu   sync.Mutex
	text strings.Builder
}

// Write implements io.Writer.
func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.text.Len() < 64<<10 {
		l.text.Write(p)
	}
	return len(p), nil
}

// String returns the log.
func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}
