package inventory_test

import (
	"bytes"
	"crypto/tls"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/internal/controltest"
	"github.com/opscenter-go/sdk/internal/selfsigned"
	"github.com/opscenter-go/sdk/opscenter/incusos"
	"github.com/opscenter-go/sdk/opscenter/incusostest"
)

// operator uses the Incus API of a simulated server, as a human operator does.
type operator struct {
	t      *testing.T
	server *incusostest.Server
	client *http.Client
}

func newOperator(t *testing.T, server *incusostest.Server) *operator {
	t.Helper()
	identity, err := selfsigned.New("operator")
	require.NoError(t, err)
	server.Trust(identity.Leaf)
	transport := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{identity}}}
	t.Cleanup(transport.CloseIdleConnections)
	return &operator{t, server, &http.Client{Transport: transport}}
}

// do sends a request, and waits for the end of its operation.
func (o *operator) do(method, path string, body, into any) error {
	data, err := json.Marshal(body)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(o.t.Context(), method, o.server.URL()+path, bytes.NewReader(data))
	if err != nil {
		return err
	}
	resp, err := o.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	var answer struct {
		Type, Error, Operation string
		Metadata               json.RawMessage
	}
	if err := json.Unmarshal(text, &answer); err != nil {
		return err
	}
	switch {
	case answer.Type == "error":
		return errors.New(answer.Error)
	case answer.Operation != "":
		return o.do(http.MethodGet, answer.Operation+"/wait?timeout=10", nil, nil)
	case into != nil:
		return json.Unmarshal(answer.Metadata, into)
	}
	return nil
}

func (o *operator) get(path string, into any) error { return o.do(http.MethodGet, path, nil, into) }

func (o *operator) must(method, path string, body any) {
	o.t.Helper()
	require.NoError(o.t, o.do(method, "/1.0/"+path, body, nil), "%s %s", method, path)
}

// boot starts a simulated Incus server in no cluster.
func boot(t *testing.T, name string) *incusostest.Server {
	t.Helper()
	return controltest.Server(t, incusostest.Options{Name: name, Standalone: true, EvacuateDelay: time.Millisecond})
}

// adopt adds a server, or all servers of its cluster, to the registry.
func (p *plane) adopt(t *testing.T, s *incusostest.Server, name string) []string {
	t.Helper()
	names, err := p.Client.Adopt(t.Context(), p.Registry, s.URL(), s.TrustToken("control-plane"), incusos.AdoptOptions{Name: name})
	require.NoError(t, err)
	return names
}
