package incusostest

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// ErrRefused means that the control plane answered with an error.
var ErrRefused = errors.New("the control plane refused")

// ErrNotRegistered means that the server has no control plane.
var ErrNotRegistered = errors.New("the server is not registered")

// registerAttempts is the number of attempts to register, as of a real server at each start.
const registerAttempts = 5

// Register registers the server with a control plane, like a real server at its first boot. The server trusts the
// certificate in the answer. If there is no answer, it tries up to 5 times, once per second. Errors: ErrRefused,
// and errors of the connection.
func (s *Server) Register(ctx context.Context, provider Provider) error {
	s.mu.Lock()
	s.provider = provider
	s.mu.Unlock()
	s.save()
	var err error
	for range registerAttempts {
		if err = s.RegisterOnce(ctx); err == nil || errors.Is(err, ErrRefused) {
			return err
		}
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
			return err
		case <-s.ctx.Done():
			return err
		}
	}
	return err
}

// RegisterOnce registers the server with its current provider, with one attempt. Errors are those of Register.
func (s *Server) RegisterOnce(ctx context.Context) error {
	s.mu.Lock()
	path := "/1.0/provisioning/servers?token=" + url.QueryEscape(s.provider.Token)
	body := map[string]any{"name": s.options.Name, "connection_url": "https://" + s.address,
		"machine_id": s.state.machineID, "system_uuid": s.state.systemUUID}
	s.mu.Unlock()
	var answer struct {
		Certificate string `json:"certificate"`
	}
	if err := s.send(ctx, http.MethodPost, path, body, &answer); err != nil {
		return fmt.Errorf("registering %s: %w", s.options.Name, err)
	}
	block, _ := pem.Decode([]byte(answer.Certificate))
	if block == nil {
		return fmt.Errorf("registering %s: the answer has no certificate", s.options.Name)
	}
	certificate, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return fmt.Errorf("registering %s: %w", s.options.Name, err)
	}
	s.Trust(certificate)
	return nil
}

// SelfUpdate sends a self update with the server's connection URL and a cause, such as "os-update-applied". It sends
// none while SetMuted is on. Errors: ErrNotRegistered, ErrRefused, and errors of the connection.
func (s *Server) SelfUpdate(ctx context.Context, cause string) error {
	s.mu.Lock()
	registered, muted, identity := s.provider.ServerURL != "", s.network.muted, s.identity.Leaf
	body := map[string]string{"connection_url": "https://" + s.address, "cause": cause}
	s.mu.Unlock()
	if muted {
		return nil
	}
	if s.fleet != nil {
		return s.fleet.selfUpdate(ctx, identity, body["connection_url"], cause)
	}
	if !registered {
		return ErrNotRegistered
	}
	if err := s.send(ctx, http.MethodPut, "/1.0/provisioning/servers/:self", body, nil); err != nil {
		return fmt.Errorf("self update of %s: %w", s.options.Name, err)
	}
	return nil
}

// send sends a request to the control plane. Like a real server, it uses the status in the body, not the HTTP status.
func (s *Server) send(ctx context.Context, method, path string, body, metadata any) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	s.mu.Lock()
	base, transport := strings.TrimSuffix(s.provider.ServerURL, "/"), s.feedTransportLocked()
	s.mu.Unlock()
	data, err := json.Marshal(body)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, method, base+path, bytes.NewReader(data))
	if err != nil {
		return errors.New("the control plane's URL is invalid") // err has the token in it
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return err
	}
	var answer struct {
		Type       string          `json:"type"`
		StatusCode int             `json:"status_code"`
		ErrorCode  int             `json:"error_code"`
		Error      string          `json:"error"`
		Metadata   json.RawMessage `json:"metadata"`
	}
	if err := json.Unmarshal(text, &answer); err != nil {
		return fmt.Errorf("status %s: %w", resp.Status, err)
	}
	if answer.Type == "error" {
		return fmt.Errorf("%w: %d %s", ErrRefused, answer.ErrorCode, answer.Error)
	}
	if answer.Type != "sync" || answer.StatusCode != 200 {
		return fmt.Errorf("%w: type %q, status code %d", ErrRefused, answer.Type, answer.StatusCode)
	}
	if metadata != nil {
		return json.Unmarshal(answer.Metadata, metadata)
	}
	return nil
}
