package system_test

import (
	"bytes"
	"crypto/tls"
	"encoding/json"
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/internal/selfsigned"
	"github.com/opscenter-go/sdk/opscenter/incusostest"
)

// otherClient changes a server without the control plane.
type otherClient struct {
	server *incusostest.Server
	client *http.Client
}

func newOtherClient(t *testing.T, server *incusostest.Server) *otherClient {
	identity, err := selfsigned.New("stranger")
	require.NoError(t, err)
	server.Trust(identity.Leaf)
	transport := &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{identity}}}
	return &otherClient{server, &http.Client{Transport: transport}}
}

func (s *otherClient) send(t *testing.T, method, path string, body any) {
	t.Helper()
	data, err := json.Marshal(body)
	require.NoError(t, err)
	req, err := http.NewRequestWithContext(t.Context(), method, s.server.URL()+path, bytes.NewReader(data))
	require.NoError(t, err)
	resp, err := s.client.Do(req)
	require.NoError(t, err)
	resp.Body.Close()
	require.Equal(t, http.StatusOK, resp.StatusCode)
}

func (s *otherClient) put(t *testing.T, config json.RawMessage, timeout string) {
	t.Helper()
	var document map[string]any
	require.NoError(t, json.Unmarshal(config, &document))
	if timeout != "" {
		document["confirmation_timeout"] = timeout
	}
	s.send(t, http.MethodPut, "/os/1.0/system/network", map[string]any{"config": document})
}

func (s *otherClient) confirm(t *testing.T) {
	t.Helper()
	s.send(t, http.MethodPost, "/os/1.0/system/network/:confirm", map[string]any{})
}
