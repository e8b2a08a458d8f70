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
	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
	"github.com/opscenter-go/sdk/opscenter/network"
	"github.com/opscenter-go/sdk/opscenter/system"
)

// ReadSystem returns what GET /os/1.0/system/<section> answers. It implements, with the methods
// below, system.OS.
func (c *Client) ReadSystem(ctx context.Context, target opscenter.Target, section string) (json.RawMessage, error) {
	data, err := c.ReadObject(ctx, target, "/os/1.0/system/"+url.PathEscape(section))
	if err == nil && section == system.SectionUpdate {
		data, err = convertFrequency(data, func(f release.Frequency) (any, error) { return f, nil })
	}
	return data, reached(err)
}

// convertFrequency gives config.check_frequency of the update section another form, if it has one
// at all: releases before 2025-10-28 have a number of nanoseconds there, later ones a text.
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

// reached says in the terms of opscenter why something could not be read.
func reached(err error) error {
	_, word := api.StatusErrorMatch(err)
	switch {
	case err == nil:
		return nil
	case notOnIncusOS(err):
		return fmt.Errorf("the server is not on IncusOS: %w: %w", opscenter.ErrNotApplicable, err)
	case word && !errors.Is(err, errForeign):
		return fmt.Errorf("%w: %w", opscenter.ErrRefused, err)
	case errors.Is(err, opscenter.ErrUnreachable):
		return err
	}
	return fmt.Errorf("%w: %w", opscenter.ErrUnreachable, err)
}

// WriteSystem sends PUT /os/1.0/system/<section>. Once the server was asked, an error that is
// not its own word is an opscenter.ErrOutcomeUnknown; its own is an opscenter.ErrRefused if it
// has done nothing, and a system.ErrFailed if it may have done some of it.
func (c *Client) WriteSystem(ctx context.Context, target opscenter.Target, section string, body []byte) error {
	if section == system.SectionUpdate && release.Before(target.OSVersion, release.FrequencyText) {
		var err error
		if body, err = convertFrequency(body, func(f release.Frequency) (any, error) { return f.Nanoseconds() }); err != nil {
			return fmt.Errorf("%w: %w", system.ErrInvalid, err)
		}
	}
	return c.change(ctx, target, http.MethodPut, "/os/1.0/system/"+url.PathEscape(section), body)
}

// ConfirmNetwork confirms a change of the network. system.ErrNothingPending: there is none that
// waits for it. Other errors are as those of WriteSystem.
func (c *Client) ConfirmNetwork(ctx context.Context, target opscenter.Target) error {
	err := c.change(ctx, target, http.MethodPost, confirmPath, nil)
	if isStatus(err, http.StatusBadRequest) {
		return fmt.Errorf("%w: %w", system.ErrNothingPending, err)
	}
	return err
}

const confirmPath = "/os/1.0/system/network/:confirm"

// CanConfirmNetwork reports whether the server's release knows changes that are undone unless
// they are confirmed. It changes nothing: a release that knows them refuses the wrong method
// otherwise than one that does not know the path. Where it seems not to know it, it is asked to
// confirm: one that does not know that changes nothing, and one that does says so.
func (c *Client) CanConfirmNetwork(ctx context.Context, target opscenter.Target) (bool, error) {
	_, err := c.exchange(ctx, target, http.MethodGet, confirmPath, nil)
	switch {
	case err == nil, isStatus(err, http.StatusNotImplemented), isStatus(err, http.StatusMethodNotAllowed), isStatus(err, http.StatusBadRequest):
		return true, nil
	case !isStatus(err, http.StatusNotFound):
		return false, reached(err)
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

// FactoryReset sends the server back to where its installation left it, with seeds for what
// comes then. A real one is gone before it answers, so that no news is good news: errors are
// as those of WriteSystem, and an opscenter.ErrOutcomeUnknown is the usual one.
func (c *Client) FactoryReset(ctx context.Context, target opscenter.Target, body []byte) error {
	return c.change(ctx, target, http.MethodPost, "/os/1.0/system/:factory-reset", body)
}

func (c *Client) change(ctx context.Context, target opscenter.Target, method, path string, body []byte) error {
	if err := ctx.Err(); err != nil {
		return err // nothing was asked
	}
	_, err := c.exchange(ctx, target, method, path, body)
	if errors.Is(err, errForeign) { // a gateway's word, which may have asked the server
		return fmt.Errorf("%w: %w", opscenter.ErrOutcomeUnknown, err)
	}
	if status, word := api.StatusErrorMatch(err); word && status >= http.StatusInternalServerError {
		return fmt.Errorf("%w: %w", system.ErrFailed, err)
	}
	return unlessRefused(err)
}

// exchange sends one request on a connection of its own, and gives the answer time: a server
// whose network is changed answers when that is up.
func (c *Client) exchange(ctx context.Context, target opscenter.Target, method, path string, body []byte) (json.RawMessage, error) {
	p, err := c.fleet.peer(target)
	if err != nil {
		return nil, err
	}
	p.alone, p.patient = true, true
	return (&probe{peer: p, ctx: ctx}).exchange(method, path, body)
}

// Look tells where a server is reached, and what it is and how its network is. The connection
// is a new one: what was open to another address says nothing of this one.
func (c *Client) Look(ctx context.Context, target opscenter.Target) (*system.Sight, error) {
	// The host's public name says nothing of which server it is: only what it registered with does.
	target.PublicConnectionURL = ""
	p, err := c.fleet.peer(target)
	if err != nil {
		return nil, err
	}
	p.alone = true
	sight := &system.Sight{URL: target.ConnectionURL}
	look := &probe{peer: p, o: &lifecycle.Observation{}}
	look.ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(info httptrace.GotConnInfo) {
		if address, err := netip.ParseAddrPort(info.Conn.RemoteAddr().String()); err == nil {
			sight.Remote = address.Addr().Unmap()
		}
	}})
	var root osRoot
	if err := look.get("/os/1.0", &root); err != nil {
		if isStatus(err, http.StatusNotFound) && target.OSVersion == "" { // as older Incus daemons say
			return nil, fmt.Errorf("the server is not on IncusOS: %w: %w", opscenter.ErrNotApplicable, err)
		}
		return nil, reached(err)
	}
	sight.MachineID = limited(root.Environment.MachineID.value, maxText)
	if sight.MachineID == "" && target.MemberName != "" {
		// The release does not tell its machine ID, and all members present one certificate.
		incus, err := look.incus()
		if err != nil {
			return nil, reached(err)
		}
		if incus.Environment.ServerName != target.MemberName {
			return nil, fmt.Errorf("at %s is member %.100q: %w", target.ConnectionURL, incus.Environment.ServerName, opscenter.ErrUnreachable)
		}
	}
	sight.Network = &network.Network{}
	if err := look.get("/os/1.0/system/network", sight.Network); err != nil {
		return nil, reached(err)
	}
	if target.MemberName != "" {
		// The OS is there even where Incus is not.
		if sight.Member, err = memberStatus(look, target.MemberName); err != nil {
			sight.Member = limited(fmt.Sprintf("not known (%v)", err), maxMessage)
		}
	}
	return sight, nil
}

// Forward sends a request to the server's own API, with the method, path, query, header and
// body of req, and returns its answer as it comes; the caller closes its body. An answer is
// bounded by Options.MaxList, and the wait for it to begin by ctx. Errors: opscenter.ErrUnreachable;
// opscenter.ErrOutcomeUnknown, if the request may change something and its answer was lost.
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
		return nil, reached(err)
	}
	return nil, fmt.Errorf("%w: %w", opscenter.ErrOutcomeUnknown, err)
}

// request makes a request for a path of the server.
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
