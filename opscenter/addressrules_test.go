package opscenter_test

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/storage/memstore"
)

func TestAddressRules(t *testing.T) {
	rules := opscenter.AddressRules{Allow: opscenter.PrivateRanges, Deny: append(opscenter.MetadataAddresses, netip.MustParsePrefix("10.9.0.0/16"))}
	for address, allowed := range map[string]bool{"10.0.0.1": true, "10.9.0.1": false, "172.31.0.1": true, "172.32.0.1": false, "192.168.1.1": true, "8.8.8.8": false,
		"127.0.0.1": false, "::1": false, "::ffff:127.0.0.1": false, "::ffff:10.0.0.1": true, "169.254.169.254": false, "::ffff:169.254.169.254": false,
		"fd12::1": true, "fd00:ec2::254": false, "100.100.100.200": false, "100.64.0.1": true, "fe80::1%eth0": false, "2001:db8::1": false} {
		err := rules.CheckAddress(netip.MustParseAddr(address))
		require.Equal(t, allowed, err == nil, address)
		if err != nil {
			require.ErrorIs(t, err, opscenter.ErrInvalidURL)
		}
	}
	require.NoError(t, opscenter.AddressRules{}.CheckAddress(netip.MustParseAddr("127.0.0.1")))
}

// TestAllowURL: each call that takes a URL refuses one that AllowURL forbids, and changes nothing.
func TestAllowURL(t *testing.T) {
	rules := opscenter.AddressRules{Allow: opscenter.PrivateRanges}
	w := newWorld(t, memstore.New(memstore.Options{DetectMutation: true}), opscenter.Options{AllowURL: rules.CheckURL})
	w.ready(t, 0)
	const forbidden = "https://127.0.0.1:8443"
	edit := func(change func(*opscenter.ServerSpec)) error {
		return w.EditServer(t.Context(), "server00", func(_ *opscenter.ServerInfo, spec *opscenter.ServerSpec) error {
			change(spec)
			return nil
		})
	}
	revision := w.revision(t)
	token := w.token(t, 1)
	before := w.get(t, "server00").Server
	for name, say := range map[string]func() error{
		"register": func() error {
			reg := registration(1, token)
			reg.ConnectionURL = forbidden
			_, err := w.Register(t.Context(), reg)
			return err
		},
		"register again": func() error {
			reg := registration(0, token)
			reg.ConnectionURL = forbidden
			_, err := w.Register(t.Context(), reg)
			return err
		},
		"public URL": func() error {
			reg := registration(1, token)
			reg.PublicConnectionURL = forbidden
			_, err := w.Register(t.Context(), reg)
			return err
		},
		"self update": func() error {
			return w.SelfUpdate(t.Context(), certificate(0), opscenter.SelfUpdate{ConnectionURL: forbidden})
		},
		"edit":        func() error { return edit(func(s *opscenter.ServerSpec) { s.ConnectionURL = forbidden }) },
		"edit public": func() error { return edit(func(s *opscenter.ServerSpec) { s.PublicConnectionURL = forbidden }) },
		"announce": func() error {
			_, err := w.PreRegister(t.Context(), opscenter.PreRegistration{Name: "x", ServerSpec: opscenter.ServerSpec{ConnectionURL: forbidden}})
			return err
		},
		"adopt": func() error {
			return w.Adopt(t.Context(), opscenter.Adoption{Servers: []opscenter.AdoptedServer{{Name: "x", ConnectionURL: forbidden, Certificate: certificate(5)}}})
		},
		"check adoption": func() error {
			return w.CheckAdoption(t.Context(), opscenter.AdoptionCheck{URLs: []string{forbidden}})
		},
	} {
		err := say()
		require.ErrorIs(t, err, opscenter.ErrInvalidURL, name)
		require.ErrorContains(t, err, "no server may be at 127.0.0.1", name)
	}
	require.Equal(t, before, w.get(t, "server00").Server)
	require.EqualValues(t, revision+1, w.revision(t), "the token alone")
}
