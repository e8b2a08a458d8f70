package opscenter_test

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/event"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
)

func TestRegister(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		token := w.token(t, 2)
		reg := registration(0, token)
		reg.Properties, reg.Description, reg.Channel = map[string]string{"rack": "7"}, "first", "no-such-channel"
		registered, err := w.Register(t.Context(), reg)
		require.NoError(t, err)
		require.Equal(t, opscenter.Registered{Name: "server00"}, registered)
		require.EqualValues(t, 1, w.uses(t, token))

		info := w.get(t, "server00")
		require.Equal(t, lifecycle.StatusPending, info.State.Status)
		require.Equal(t, lifecycle.DetailRegistering, info.State.StatusDetail)
		require.Equal(t, lifecycle.TypeUnknown, info.State.Type)
		require.Equal(t, "stable", info.Channel, "the token's channel")
		require.Equal(t, map[string]string{"rack": "7"}, info.Properties)
		require.Equal(t, opscenter.EncodeCertificate(certificate(0)), info.Certificate)
		require.Equal(t, opscenter.Fingerprint(certificate(0)), info.Fingerprint)
		require.False(t, info.State.PollRequested.IsZero(), "it is polled at once")
		require.WithinDuration(t, time.Now(), info.LastSeen, time.Minute)
		require.Len(t, w.events(t, event.ServerRegistered), 1)

		byCertificate, err := w.ServerByFingerprint(t.Context(), strings.ToUpper(info.Fingerprint))
		require.NoError(t, err)
		require.Equal(t, info.ID, byCertificate.ID)
		_, err = w.ServerByFingerprint(t.Context(), "00")
		require.ErrorIs(t, err, opscenter.ErrUnknownCertificate)
		requireNoSecret(t, w.log.String(), token)
	})
}

// A server whose first answer was lost registers again, with a token that has no uses left.
func TestRegisterAgainIsARepeat(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		token := w.token(t, 1)
		_, err := w.Register(t.Context(), registration(0, token))
		require.NoError(t, err)
		for range 3 {
			again, err := w.Register(t.Context(), registration(0, token))
			require.NoError(t, err)
			require.Equal(t, opscenter.Registered{Name: "server00", Repeat: true}, again)
		}
		require.Zero(t, w.uses(t, token))

		w.observe(t, answer(w.get(t, "server00")))
		require.NoError(t, w.RenameServer(t.Context(), "server00", "renamed", nil))
		require.NoError(t, w.RevokeToken(t.Context(), token))
		moved := registration(0, token)
		moved.ConnectionURL = "https://10.9.9.9:8443"
		again, err := w.Register(t.Context(), moved)
		require.NoError(t, err, "at every later start, whatever has become of the token")
		require.Equal(t, "renamed", again.Name, "the name the operator gave it stays")
		info := w.get(t, "renamed")
		require.Equal(t, lifecycle.StatusReady, info.State.Status, "a ready server stays ready")
		require.Equal(t, "https://10.9.9.9:8443", info.ConnectionURL)

		other := registration(0, token)
		other.MachineID = machineID(99)
		_, err = w.Register(t.Context(), other)
		require.ErrorIs(t, err, opscenter.ErrIdentityChanged)
		require.Len(t, w.events(t, event.RegistrationRefused), 1)
	})
}

func TestTakeOverIsRefused(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		victim := w.ready(t, 0)
		token := w.token(t, 5)
		for name, change := range map[string]func(*opscenter.Registration){
			"both":        func(r *opscenter.Registration) {},
			"machine ID":  func(r *opscenter.Registration) { r.SystemUUID = "" },
			"system UUID": func(r *opscenter.Registration) { r.MachineID = "" },
			"upper case": func(r *opscenter.Registration) {
				r.SystemUUID, r.MachineID = strings.ToUpper(r.SystemUUID), strings.ToUpper(r.MachineID)
			},
		} {
			reg := registration(0, token)
			reg.Certificate = certificate(1)
			change(&reg)
			_, err := w.Register(t.Context(), reg)
			require.ErrorIs(t, err, opscenter.ErrIdentityTaken, name)
			require.ErrorContains(t, err, "server00", name)
		}
		require.EqualValues(t, 5, w.uses(t, token), "a refusal spends nothing")
		require.Equal(t, victim.Server, w.get(t, "server00").Server)
		refused := w.events(t, event.RegistrationRefused)
		require.Len(t, refused, 4)
		require.Equal(t, "server00", refused[0].Server)
		require.Contains(t, refused[0].Reason, "10.0.0.1:1234")
		require.Contains(t, w.log.String(), "WARN")
		requireNoSecret(t, w.log.String()+refused[0].Reason, token)

		// The name alone is not an identity, and not to be had either.
		reg := registration(1, token)
		reg.Name = "SERVER00"
		_, err := w.Register(t.Context(), reg)
		require.ErrorIs(t, err, opscenter.ErrNameTaken)
		// A registered server can't become another by naming its machine later.
		bare := registration(1, token)
		bare.MachineID, bare.SystemUUID = "", ""
		_, err = w.Register(t.Context(), bare)
		require.NoError(t, err)
		bare.MachineID = machineID(0)
		_, err = w.Register(t.Context(), bare)
		require.ErrorIs(t, err, opscenter.ErrIdentityTaken)
	})
}

func TestReinstall(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		before := w.ready(t, 0)
		require.NoError(t, w.AllowReinstall(t.Context(), "server00", true))
		token := w.token(t, 2)
		reg := registration(0, token)
		reg.Certificate, reg.MachineID = certificate(1), machineID(50) // an installation makes both anew
		registered, err := w.Register(t.Context(), reg)
		require.NoError(t, err)
		require.False(t, registered.Repeat)
		after := w.get(t, "server00")
		require.Equal(t, before.ID, after.ID)
		require.Equal(t, opscenter.Fingerprint(certificate(1)), after.Fingerprint)
		require.Equal(t, machineID(50), after.MachineID)
		require.Equal(t, lifecycle.StatusPending, after.State.Status)
		require.EqualValues(t, 1, w.uses(t, token))
		require.Len(t, w.events(t, event.ServerReinstalled), 1)

		_, err = w.ServerByFingerprint(t.Context(), before.Fingerprint)
		require.ErrorIs(t, err, opscenter.ErrUnknownCertificate, "no server has the old certificate")
		reg.Certificate = certificate(2)
		_, err = w.Register(t.Context(), reg)
		require.ErrorIs(t, err, opscenter.ErrIdentityTaken, "the leave was for once")

		// Leave for one machine is none to be another.
		w.add(t, 3)
		require.NoError(t, w.AllowReinstall(t.Context(), "server00", true))
		reg = registration(0, token)
		reg.Certificate, reg.MachineID = certificate(4), machineID(3)
		_, err = w.Register(t.Context(), reg)
		require.ErrorIs(t, err, opscenter.ErrIdentityTaken)
	})
}

func TestPreRegister(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		require.NoError(t, w.SetChannel(t.Context(), "testing", ""))
		_, err := w.PreRegister(t.Context(), opscenter.PreRegistration{Name: ""})
		require.ErrorIs(t, err, opscenter.ErrInvalidName)
		spec := opscenter.ServerSpec{Description: "expected", Channel: "testing"}
		info, err := w.PreRegister(t.Context(), opscenter.PreRegistration{ServerSpec: spec, Name: "by-uuid", SystemUUID: strings.ToUpper(systemUUID(0))})
		require.NoError(t, err)
		require.Equal(t, lifecycle.StatusUnregistered, info.State.Status)
		_, err = w.PreRegister(t.Context(), opscenter.PreRegistration{ServerSpec: spec, Name: "by-machine", MachineID: machineID(1)})
		require.NoError(t, err)
		_, err = w.PreRegister(t.Context(), opscenter.PreRegistration{Name: "again", SystemUUID: systemUUID(0)})
		require.ErrorIs(t, err, opscenter.ErrIdentityTaken)
		_, err = w.PreRegister(t.Context(), opscenter.PreRegistration{Name: "By-UUID", SystemUUID: systemUUID(7)})
		require.ErrorIs(t, err, opscenter.ErrNameTaken)

		token := w.token(t, 2)
		for n, name := range []string{"by-uuid", "by-machine"} {
			registered, err := w.Register(t.Context(), registration(n, token))
			require.NoError(t, err)
			require.Equal(t, name, registered.Name, "the operator's name stays")
			got := w.get(t, name)
			require.Equal(t, lifecycle.StatusPending, got.State.Status)
			require.Equal(t, "testing", got.Channel)
			require.Equal(t, "expected", got.Description)
			require.Equal(t, machineID(n), got.MachineID)
			require.Equal(t, systemUUID(n), got.SystemUUID)
		}
		require.Zero(t, w.uses(t, token))
		require.Len(t, w.events(t, event.ServerAnnounced), 2)
	})
}

// A server that is announced by its name alone is the first one that comes with that name.
func TestPreRegisterByName(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		for _, name := range []string{"SERVER00", "other"} {
			_, err := w.PreRegister(t.Context(), opscenter.PreRegistration{ServerSpec: opscenter.ServerSpec{Description: "expected"}, Name: name})
			require.NoError(t, err)
		}
		registered, err := w.Register(t.Context(), registration(0, w.token(t, 1)))
		require.NoError(t, err)
		require.Equal(t, "SERVER00", registered.Name)
		got := w.get(t, "SERVER00")
		require.Equal(t, "expected", got.Description)
		require.Equal(t, machineID(0), got.MachineID)
		second := registration(1, w.token(t, 1))
		second.Name = "server00"
		_, err = w.Register(t.Context(), second)
		require.ErrorIs(t, err, opscenter.ErrNameTaken)
		// One that was announced by its machine is not had by its name.
		_, err = w.PreRegister(t.Context(), opscenter.PreRegistration{Name: "known", MachineID: machineID(5)})
		require.NoError(t, err)
		third := registration(2, w.token(t, 1))
		third.Name = "known"
		_, err = w.Register(t.Context(), third)
		require.ErrorIs(t, err, opscenter.ErrNameTaken)
	})
}

// A hundred goroutines with a token of ten uses give exactly ten servers.
func TestRegisterRace(t *testing.T) {
	for n := range 100 {
		certificate(n)
	}
	onBoth(t, func(t *testing.T, w *world) {
		token := w.token(t, 10)
		var admitted, exhausted atomic.Int32
		var wg sync.WaitGroup
		for n := range 100 {
			wg.Go(func() {
				switch _, err := w.Register(context.Background(), registration(n, token)); {
				case err == nil:
					admitted.Add(1)
				case errors.Is(err, opscenter.ErrTokenExhausted):
					exhausted.Add(1)
				default:
					t.Error(err)
				}
			})
		}
		wg.Wait()
		require.EqualValues(t, 10, admitted.Load())
		require.EqualValues(t, 90, exhausted.Load())
		require.Zero(t, w.uses(t, token))
		page, err := w.ListServers(t.Context(), opscenter.ServerFilter{}, opscenter.Page{Limit: 1000})
		require.NoError(t, err)
		require.Len(t, page.Servers, 10)
	})
}

// One server that sends its registration many times at once is one server, and one use.
func TestRegisterSameServerRace(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		token := w.token(t, 10)
		var first atomic.Int32
		var wg sync.WaitGroup
		for range 30 {
			wg.Go(func() {
				registered, err := w.Register(context.Background(), registration(0, token))
				if err != nil {
					t.Error(err)
				} else if !registered.Repeat {
					first.Add(1)
				}
			})
		}
		wg.Wait()
		require.EqualValues(t, 1, first.Load())
		require.EqualValues(t, 9, w.uses(t, token))
	})
}

func TestRegistrationIsValidated(t *testing.T) {
	w := memoryWorld(t)
	token := w.token(t, 100)
	long := strings.Repeat("x", 100_000)
	for name, test := range map[string]struct {
		change func(*opscenter.Registration)
		want   []error
	}{
		"no certificate":    {func(r *opscenter.Registration) { r.Certificate = nil }, []error{opscenter.ErrNoCertificate}},
		"empty certificate": {func(r *opscenter.Registration) { r.Certificate = &x509.Certificate{} }, []error{opscenter.ErrNoCertificate}},
		"huge certificate": {func(r *opscenter.Registration) {
			r.Certificate = &x509.Certificate{Raw: make([]byte, opscenter.MaxCertificateSize+1)}
		}, []error{opscenter.ErrInvalidCertificate, opscenter.ErrTooLong}},
		"unknown key":          {func(r *opscenter.Registration) { r.Certificate = &x509.Certificate{Raw: []byte("x")} }, []error{opscenter.ErrInvalidCertificate}},
		"no name":              {func(r *opscenter.Registration) { r.Name = "" }, []error{opscenter.ErrInvalidName}},
		"colon":                {func(r *opscenter.Registration) { r.Name = ":self" }, []error{opscenter.ErrInvalidName}},
		"space":                {func(r *opscenter.Registration) { r.Name = "a b" }, []error{opscenter.ErrInvalidName}},
		"slash":                {func(r *opscenter.Registration) { r.Name = "a/b" }, []error{opscenter.ErrInvalidName}},
		"umlaut":               {func(r *opscenter.Registration) { r.Name = "ü" }, []error{opscenter.ErrInvalidName}},
		"dots":                 {func(r *opscenter.Registration) { r.Name = ".." }, []error{opscenter.ErrInvalidName}},
		"long name":            {func(r *opscenter.Registration) { r.Name = long }, []error{opscenter.ErrInvalidName, opscenter.ErrTooLong}},
		"tilde and more":       {func(r *opscenter.Registration) { r.Name = "a*" }, []error{opscenter.ErrInvalidName}},
		"http":                 {func(r *opscenter.Registration) { r.ConnectionURL = "http://a:8443" }, []error{opscenter.ErrInvalidURL}},
		"no host":              {func(r *opscenter.Registration) { r.ConnectionURL = "https://:8443" }, []error{opscenter.ErrInvalidURL}},
		"no URL":               {func(r *opscenter.Registration) { r.ConnectionURL = "" }, []error{opscenter.ErrInvalidURL}},
		"user":                 {func(r *opscenter.Registration) { r.ConnectionURL = "https://root:hunter2@a:8443" }, []error{opscenter.ErrInvalidURL}},
		"port":                 {func(r *opscenter.Registration) { r.ConnectionURL = "https://a:65536" }, []error{opscenter.ErrInvalidURL}},
		"port 0":               {func(r *opscenter.Registration) { r.ConnectionURL = "https://a:0" }, []error{opscenter.ErrInvalidURL}},
		"empty port":           {func(r *opscenter.Registration) { r.ConnectionURL = "https://a:" }, []error{opscenter.ErrInvalidURL}},
		"query":                {func(r *opscenter.Registration) { r.ConnectionURL = "https://a/?x=1" }, []error{opscenter.ErrInvalidURL}},
		"fragment":             {func(r *opscenter.Registration) { r.ConnectionURL = "https://a/#x" }, []error{opscenter.ErrInvalidURL}},
		"control character":    {func(r *opscenter.Registration) { r.ConnectionURL = "https://a\n" }, []error{opscenter.ErrInvalidURL}},
		"long URL":             {func(r *opscenter.Registration) { r.ConnectionURL = "https://" + long }, []error{opscenter.ErrTooLong}},
		"public URL":           {func(r *opscenter.Registration) { r.PublicConnectionURL = "ftp://a" }, []error{opscenter.ErrInvalidURL}},
		"machine ID":           {func(r *opscenter.Registration) { r.MachineID = "xyz" }, []error{opscenter.ErrInvalidMachineID}},
		"machine ID dashes":    {func(r *opscenter.Registration) { r.MachineID = systemUUID(1) }, []error{opscenter.ErrInvalidMachineID}},
		"system UUID":          {func(r *opscenter.Registration) { r.SystemUUID = "xyz" }, []error{opscenter.ErrInvalidSystemUUID}},
		"system UUID braces":   {func(r *opscenter.Registration) { r.SystemUUID = "{" + systemUUID(1) + "}" }, []error{opscenter.ErrInvalidSystemUUID}},
		"long description":     {func(r *opscenter.Registration) { r.Description = long }, []error{opscenter.ErrTooLong}},
		"description not text": {func(r *opscenter.Registration) { r.Description = "\xff" }, []error{opscenter.ErrInvalidName}},
		"long channel":         {func(r *opscenter.Registration) { r.Channel = long }, []error{opscenter.ErrTooLong}},
		"empty property":       {func(r *opscenter.Registration) { r.Properties = map[string]string{"": "x"} }, []error{opscenter.ErrInvalidName}},
		"long property":        {func(r *opscenter.Registration) { r.Properties = map[string]string{"x": long} }, []error{opscenter.ErrTooLong}},
		"long property name":   {func(r *opscenter.Registration) { r.Properties = map[string]string{long: "x"} }, []error{opscenter.ErrTooLong}},
		"many properties": {func(r *opscenter.Registration) {
			r.Properties = map[string]string{}
			for i := range opscenter.MaxProperties + 1 {
				r.Properties[fmt.Sprint(i)] = ""
			}
		}, []error{opscenter.ErrTooLong}},
	} {
		reg := registration(0, token)
		test.change(&reg)
		_, err := w.Register(t.Context(), reg)
		for _, want := range test.want {
			require.ErrorIs(t, err, want, name)
		}
		require.Less(t, len(err.Error()), 400, "%s: an error doesn't repeat all it was given", name)
		requireNoSecret(t, err.Error(), "hunter2")
	}
	require.EqualValues(t, 100, w.uses(t, token), "nothing was spent")
	page, err := w.ListServers(t.Context(), opscenter.ServerFilter{}, opscenter.Page{})
	require.NoError(t, err)
	require.Empty(t, page.Servers)

	for _, host := range impossibleHosts {
		reg := registration(0, token)
		reg.ConnectionURL = "https://" + host + ":8443"
		_, err := w.Register(t.Context(), reg)
		require.ErrorIs(t, err, opscenter.ErrInvalidURL, host)
	}
	for n, change := range []func(*opscenter.Registration){
		func(r *opscenter.Registration) { r.Name = "node_1" },
		func(r *opscenter.Registration) { r.Name = "node_1.lab.example.org" },
		func(r *opscenter.Registration) { r.Name = "_a" },
		func(r *opscenter.Registration) { r.Name = "-a-" },
		func(r *opscenter.Registration) { r.Name = "12" },
		func(r *opscenter.Registration) { r.Name = long[:64] },
		func(r *opscenter.Registration) { r.ConnectionURL = "https://[fe80::1%25eth0]:8443" },
		func(r *opscenter.Registration) { r.ConnectionURL = "https://node1.0x.example:8443" },
		func(r *opscenter.Registration) { r.Name = "af94e64e-1993-41b6-8f10-a8eebb828fce" }, // IncusOS's default host name
		func(r *opscenter.Registration) { r.Name = "node.1.example.net" },
		func(r *opscenter.Registration) { r.ConnectionURL = "https://[fd00::1]:8443" },
		func(r *opscenter.Registration) { r.MachineID, r.SystemUUID = "", "" },
		func(r *opscenter.Registration) { r.SystemUUID = "00000000-0000-0000-0000-000000000000" }, // firmware without one
		func(r *opscenter.Registration) { r.SystemUUID = "00000000-0000-0000-0000-000000000000" },
	} {
		reg := registration(n, token)
		change(&reg)
		_, err := w.Register(t.Context(), reg)
		require.NoError(t, err)
	}
}
