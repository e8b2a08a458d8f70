package opscenter

import (
	"fmt"
	"net/netip"
	"net/url"
)

// AddressRules say where servers may be. A server chooses its own connection URL. Without rules, a server that registers
// can make the control plane connect to any address that it reaches.
//
//	rules := opscenter.AddressRules{Allow: opscenter.PrivateRanges, Deny: opscenter.MetadataAddresses}
//	opscenter.Options{AllowURL: rules.CheckURL}
//	incusos.Options{AllowAddress: rules.CheckAddress}
//
// AllowURL refuses the addresses in URLs. AllowAddress refuses the addresses that host names resolve to, when the client
// dials them.
type AddressRules struct {
	// Allow are the ranges in which servers may be. Default: all.
	Allow []netip.Prefix
	// Deny are ranges in which no server may be, even if Allow contains them.
	Deny []netip.Prefix
}

// PrivateRanges are the addresses of private networks: RFC 1918, RFC 6598 and RFC 4193.
var PrivateRanges = prefixes("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7")

// LoopbackAddresses are the addresses of the control plane's own machine.
var LoopbackAddresses = prefixes("127.0.0.0/8", "::1/128")

// MetadataAddresses are the addresses at which clouds give machines their credentials.
var MetadataAddresses = prefixes("169.254.0.0/16", "fd00:ec2::254/128", "fd20:ce::254/128", "100.100.100.200/32", "192.0.0.192/32", "168.63.129.16/32")

func prefixes(list ...string) []netip.Prefix {
	out := make([]netip.Prefix, len(list))
	for i, one := range list {
		out[i] = netip.MustParsePrefix(one)
	}
	return out
}

func within(list []netip.Prefix, address netip.Addr) bool {
	for _, prefix := range list {
		if prefix.Contains(address) {
			return true
		}
	}
	return false
}

// CheckAddress returns an error unless a server may be at an address. Errors: ErrInvalidURL.
func (a AddressRules) CheckAddress(address netip.Addr) error {
	address = address.WithZone("").Unmap()
	if within(a.Deny, address) || len(a.Allow) > 0 && !within(a.Allow, address) {
		return fmt.Errorf("no server may be at %s: %w", address, ErrInvalidURL)
	}
	return nil
}

// CheckURL returns an error unless a server may be at the address in a URL. It resolves no host names, and allows all of
// them. Errors: ErrInvalidURL.
func (a AddressRules) CheckURL(u *url.URL) error {
	address, err := netip.ParseAddr(u.Hostname())
	if err != nil {
		return nil
	}
	return a.CheckAddress(address)
}

// allowURL asks Options.AllowURL about a valid URL. An empty URL is allowed.
func (r *Registry) allowURL(what, raw string) error {
	if r.options.AllowURL == nil || raw == "" {
		return nil
	}
	u, err := url.Parse(raw)
	if err == nil {
		err = r.options.AllowURL(u)
	}
	if err != nil {
		return fmt.Errorf("%s: %w: %w", what, ErrInvalidURL, err)
	}
	return nil
}
