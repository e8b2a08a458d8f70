package httpapi

import (
	"errors"
	"fmt"
	"mime"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"

	"github.com/opscenter-go/sdk/opscenter"
)

// A browser that holds an operator's certificate, or the session of one, sends it with each request, also for a page of another site. So a request
// is refused unless it comes from a page of Options.Origins, of the same host, or from another client than a
// browser. The rule does not concern servers' own routes, because no browser holds a server's certificate.

var (
	errCrossSite = errors.New("a page of another site has made this request")
	errHost      = errors.New("the API is not known by this name")
	errMedia     = errors.New("the body must be JSON: Content-Type application/json")
	// errArchiveMedia is an errMedia.
	errArchiveMedia = fmt.Errorf("%w, or here an archive: Content-Type application/x-tar", errMedia)
)

// crossSite decides which requests of browsers are admitted.
type crossSite struct {
	origins *http.CrossOriginProtection
	hosts   []string // lower case, without ports; empty: all
}

// newCrossSite reads Options.Origins and Options.Hosts. Errors: opscenter.ErrInvalidOptions.
func newCrossSite(o *Options) (*crossSite, error) {
	c := &crossSite{origins: http.NewCrossOriginProtection()}
	for _, origin := range o.Origins {
		if err := c.origins.AddTrustedOrigin(origin); err != nil {
			return nil, fmt.Errorf("option Origins: %w: %w", opscenter.ErrInvalidOptions, err)
		}
	}
	for _, host := range o.Hosts {
		name := strings.ToLower(strings.TrimSuffix(strings.TrimPrefix(host, "["), "]"))
		_, notAddress := netip.ParseAddr(name)
		if u, err := url.Parse("https://" + name + "/"); notAddress != nil && (err != nil || name == "" || u.Hostname() != name) {
			return nil, fmt.Errorf("option Hosts: %.80q is no host: %w", host, opscenter.ErrInvalidOptions)
		}
		c.hosts = append(c.hosts, name)
	}
	return c, nil
}

// hostname returns the host of a Host header in lower case, without a port, and an IPv6 address without brackets.
func hostname(host string) string {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	return strings.ToLower(strings.TrimSuffix(strings.TrimPrefix(host, "["), "]"))
}

// check refuses a request to the operators' API that may be made by a page of another site.
func (c *crossSite) check(r *http.Request) error {
	if len(c.hosts) > 0 && !overUnixSocket(r) && !slices.Contains(c.hosts, hostname(r.Host)) {
		return errHost
	}
	// A GET, too: some of a server's own API have effects, and no page of another site is to load data of an operator.
	asked := *r
	asked.Method = http.MethodPost
	if err := c.origins.Check(&asked); err != nil {
		return errCrossSite
	}
	if r.ContentLength == 0 {
		return nil
	}
	kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	switch {
	case err == nil && (kind == "application/json" || strings.HasSuffix(kind, "+json")):
		return nil
	case err == nil && r.Pattern == postUpdatePattern && !slices.Contains(simpleTypes, kind):
		return nil // an archive
	case err == nil && r.Pattern == forwardPattern && !slices.Contains(simpleTypes, kind):
		return nil // the server decides on the media types of its own API
	}
	if r.Pattern == postUpdatePattern {
		return errArchiveMedia
	}
	return errMedia
}

// simpleTypes are the media types that a browser sends to another site without asking it first (Fetch standard,
// CORS-safelisted request headers).
var simpleTypes = []string{"text/plain", "application/x-www-form-urlencoded", "multipart/form-data"}
