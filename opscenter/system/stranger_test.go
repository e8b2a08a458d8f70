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

// stranger is somebody else who changes a server.
type stranger struct {
	server *incusostest.Server
	client *http.Client
}

func newStranger(t *testing.T, server *incusostest.Server) *stranger {
	identity, err := selfsigned.New("stranger")
	require.NoError(t, err)
	server.Trust(identity.Leaf)
	transport := &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{identity}}}
	return &stranger{server, &http.Client{Transport: transport}}
}

func (s *stranger) send(t *testing.T, method, path string, body any) {
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

func (s *stranger) put(t *testing.T, config json.RawMessage, timeout string) {
	t.Helper()
	var document map[string]any
	require.NoError(t, json.Unmarshal(config, &document))
	if timeout != "" {
		document["confirmation_timeout"] = timeout
	}
	s.send(t, http.MethodPut, "/os/1.0/system/network", map[string]any{"config": document})
}

func (s *stranger) confirm(t *testing.T) {
	t.Helper()
	s.send(t, http.MethodPost, "/os/1.0/system/network/:confirm", map[string]any{})
}
