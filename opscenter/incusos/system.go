package incusos

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/netip"
	"net/url"

	"github.com/lxc/incus/v6/shared/api"

	"github.com/opscenter-go/sdk/internal/release"
	"github.com/opscenter-go/sdk/internal/truncate"
	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
	"github.com/opscenter-go/sdk/opscenter/network"
	"github.com/opscenter-go/sdk/opscenter/system"
)

// ReadSystem returns the answer of GET /os/1.0/system/<section>, as a JSON object. It is a method of
// system.OS. Its errors are those of ClusterState.
func (c *Client) ReadSystem(ctx context.Context, target opscenter.Target, section string) (json.RawMessage, error) {
	data, err := c.ReadObject(ctx, target, "/os/1.0/system/"+url.PathEscape(section))
	if err == nil && section == system.SectionUpdate {
		data, err = convertFrequency(data, func(f release.Frequency) (any, error) { return f, nil })
	}
	return data, readError(err)
}

// convertFrequency converts config.check_frequency of the update section, if it is set. Releases before
// 2025-10-28 have a number of nanoseconds there, later ones a text.
func convertFrequency(data json.RawMessage, to func(release.Frequency) (any, error)) (json.RawMessage, error) {
	var document, config map[string]json.RawMessage
	if json.Unmarshal(data, &document) != nil || json.Unmarshal(document["config"], &config) != nil || config["check_frequency"] == nil {
		return data, nil
	}
	var have release.Frequency
	if err := json.Unmarshal(config["check_frequency"], &have); err != nil || have == "" {
		return data, nil
	}
	wanted, err := to(have)
	if err != nil {
		return nil, err
	}
	if config["check_frequency"], err = json.Marshal(wanted); err != nil {
		return nil, err
	}
	if document["config"], err = json.Marshal(config); err != nil {
		return nil, err
	}
	return json.Marshal(document)
}

// readError classifies the error of a read. It is ErrNotApplicable if the server is not on IncusOS, ErrRefused if the
// server answered with an error, and ErrUnreachable in all other cases.
func readError(err error) error {
	_, answered := api.StatusErrorMatch(err)
	switch {
	case err == nil:
		return nil
	case notOnIncusOS(err):
		return fmt.Errorf("the server is not on IncusOS: %w: %w", opscenter.ErrNotApplicable, err)
	case answered && !errors.Is(err, errForeign):
		return fmt.Errorf("%w: %w", opscenter.ErrRefused, err)
	case errors.Is(err, opscenter.ErrUnreachable):
		return err
	}
	return fmt.Errorf("%w: %w", opscenter.ErrUnreachable, err)
}

// WriteSystem sends PUT /os/1.0/system/<section> with a JSON body. It is a method of system.OS. Errors:
//
//   - opscenter.ErrUnreachable if the request was not sent
//   - opscenter.ErrRefused if the server refused, and changed nothing
//   - system.ErrFailed if the server failed, and may have changed something
//   - opscenter.ErrOutcomeUnknown if the answer was lost
//   - system.ErrInvalid if the server's release can't express the body
func (c *Client) WriteSystem(ctx context.Context, target opscenter.Target, section string, body []byte) error {
	if section == system.SectionUpdate && release.Before(target.OSVersion, release.FrequencyText) {
		var err error
		if body, err = convertFrequency(body, func(f release.Frequency) (any, error) { return f.Nanoseconds() }); err != nil {
			return fmt.Errorf("%w: %w", system.ErrInvalid, err)
		}
	}
	return c.change(ctx, target, http.MethodPut, "/os/1.0/system/"+url.PathEscape(section), body)
}

// ConfirmNetwork confirms a change of the network. The error is system.ErrNothingPending if no change waits
// for confirmation. Other errors are those of WriteSystem. It is a method of system.OS.
func (c *Client) ConfirmNetwork(ctx context.Context, target opscenter.Target) error {
	err := c.change(ctx, target, http.MethodPost, confirmPath, nil)
	if isStatus(err, http.StatusBadRequest) {
		return fmt.Errorf("%w: %w", system.ErrNothingPending, err)
	}
	return err
}

const confirmPath = "/os/1.0/system/network/:confirm"

// CanConfirmNetwork reports whether the server's release supports changes of the network that it undoes
// unless they are confirmed. It is a method of system.OS. Its errors are those of ClusterState.
//
// It sends a request with a wrong method: a release with support does not answer it with 404. After a
// 404, it sends a confirmation. A release without support refuses it. One with support confirms a
// pending change, if there is one.
func (c *Client) CanConfirmNetwork(ctx context.Context, target opscenter.Target) (bool, error) {
	_, err := c.exchange(ctx, target, http.MethodGet, confirmPath, nil)
	switch {
	case err == nil, isStatus(err, http.StatusNotImplemented), isStatus(err, http.StatusMethodNotAllowed), isStatus(err, http.StatusBadRequest):
		return true, nil
	case !isStatus(err, http.StatusNotFound):
		return false, readError(err)
	}
	err = c.ConfirmNetwork(ctx, target)
	switch {
	case err == nil, errors.Is(err, system.ErrNothingPending):
		return true, nil
	case isStatus(err, http.StatusNotFound):
		return false, nil
	}
	return false, err
}

// FactoryReset resets the server to the state after its installation. body has the seeds for its next start,
// as JSON. Errors are those of WriteSystem. A server usually restarts before it answers, so
// opscenter.ErrOutcomeUnknown is the usual result. It is a method of system.OS.
func (c *Client) FactoryReset(ctx context.Context, target opscenter.Target, body []byte) error {
	return c.change(ctx, target, http.MethodPost, "/os/1.0/system/:factory-reset", body)
}

// change sends a request that changes the server, once, and classifies its error.
func (c *Client) change(ctx context.Context, target opscenter.Target, method, path string, body []byte) error {
	if err := ctx.Err(); err != nil {
		return err // the server was not asked
	}
	_, err := c.exchange(ctx, target, method, path, body)
	if errors.Is(err, errForeign) { // the gateway may have forwarded the request
		return fmt.Errorf("%w: %w", opscenter.ErrOutcomeUnknown, err)
	}
	if status, answered := api.StatusErrorMatch(err); answered && status >= http.StatusInternalServerError {
		return fmt.Errorf("%w: %w", system.ErrFailed, err)
	}
	return commandError(err)
}

// exchange sends one request on a new connection. The answer may take Options.ListTimeout: a server answers
// a change of its network once the network is up.
func (c *Client) exchange(ctx context.Context, target opscenter.Target, method, path string, body []byte) (json.RawMessage, error) {
	p, err := c.fleet.peer(target)
	if err != nil {
		return nil, err
	}
	p.alone, p.patient = true, true
	return (&probe{peer: p, ctx: ctx}).exchange(method, path, body)
}

// Look reads the server's machine ID and network, and the address at which it answered. It is a method of
// system.OS. It uses a new connection, because an older one may lead to another address. Its errors are
// those of ClusterState; opscenter.ErrUnreachable, too, if another member of the cluster answers.
func (c *Client) Look(ctx context.Context, target opscenter.Target) (*system.Probe, error) {
	// Accept only the registered certificates: a public one proves the host name, not the server.
	target.PublicConnectionURL = ""
	p, err := c.fleet.peer(target)
	if err != nil {
		return nil, err
	}
	p.alone = true
	found := &system.Probe{URL: target.ConnectionURL}
	look := &probe{peer: p, o: &lifecycle.Observation{}}
	look.ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(info httptrace.GotConnInfo) {
		if address, err := netip.ParseAddrPort(info.Conn.RemoteAddr().String()); err == nil {
			found.Remote = address.Addr().Unmap()
		}
	}})
	var root osRoot
	if err := look.get("/os/1.0", &root); err != nil {
		if isStatus(err, http.StatusNotFound) && target.OSVersion == "" { // the answer of older Incus daemons without IncusOS
			return nil, fmt.Errorf("the server is not on IncusOS: %w: %w", opscenter.ErrNotApplicable, err)
		}
		return nil, readError(err)
	}
	found.MachineID = truncate.Text(root.Environment.MachineID.value, maxText)
	if found.MachineID == "" && target.MemberName != "" {
		// Older releases have no machine ID, and all members present the same certificate. Compare the name.
		incus, err := look.incus()
		if err != nil {
			return nil, readError(err)
		}
		if incus.Environment.ServerName != target.MemberName {
			return nil, fmt.Errorf("the server at %s is member %.100q: %w", target.ConnectionURL, incus.Environment.ServerName, opscenter.ErrUnreachable)
		}
	}
	found.Network = &network.Network{}
	if err := look.get("/os/1.0/system/network", found.Network); err != nil {
		return nil, readError(err)
	}
	if target.MemberName != "" {
		// The OS answers even if Incus does not.
		if found.Member, err = memberStatus(look, target.MemberName); err != nil {
			found.Member = truncate.Text(fmt.Sprintf("unknown (%v)", err), maxMessage)
		}
	}
	return found, nil
}

// Forward sends a request to the server's own API, with the method, path, query, header and body of req. It
// returns the answer unread; the caller must close its body. Options.MaxList bounds the body. ctx bounds
// the wait for the answer to begin.
//
// Errors: opscenter.ErrUnreachable if the request was not sent, or was a GET or HEAD.
// opscenter.ErrOutcomeUnknown if another request was sent, and its answer was lost.
func (c *Client) Forward(ctx context.Context, target opscenter.Target, req *http.Request) (*http.Response, error) {
	p, err := c.fleet.peer(target)
	if err != nil {
		return nil, err
	}
	p.large = true
	out := req.Clone(ctx)
	where := *req.URL
	where.Scheme, where.Host, where.User = "https", p.host, nil
	out.URL, out.Host, out.RequestURI = &where, p.host, ""
	resp, err := p.RoundTrip(out)
	switch {
	case err == nil:
		return resp, nil
	case req.Method == http.MethodGet, req.Method == http.MethodHead, errors.Is(err, errDial), errors.Is(err, errHandshake), errors.Is(err, ErrClosed):
		return nil, readError(err)
	}
	return nil, fmt.Errorf("%w: %w", opscenter.ErrOutcomeUnknown, err)
}

// request makes a request for a path of the server. A body is sent as JSON.
func (p *peer) request(ctx context.Context, method, path string, body []byte) (*http.Request, error) {
	req := &http.Request{Method: method, Header: http.Header{"User-Agent": userAgent}, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1}
	var err error
	if req.URL, err = url.Parse("https://" + p.host + path); err != nil {
		return nil, err
	}
	if body != nil {
		req.Body, req.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
		req.Header.Set("Content-Type", "application/json")
	}
	return req.WithContext(ctx), nil
}
