package opscenter_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
	"github.com/opscenter-go/sdk/opscenter/warning"
	"github.com/opscenter-go/sdk/storage"
	"github.com/opscenter-go/sdk/storage/badgerstore"
	"github.com/opscenter-go/sdk/storage/memstore"
)

// impossibleHosts are hosts of URLs at which no server can be.
var impossibleHosts = []string{"[::]", "0.0.0.0", "0.1.2.3", "[::ffff:0.0.0.0]", "[fe80::1]", "[ff02::1]", "224.0.0.1", "[::ffff:224.0.0.1]", "255.255.255.255", "169.254.1.1", "0", "0x0", "127.1", "1.2.3.4.", "a.0x1f"}

// Cheap boards give every machine one system UUID: machine IDs tell them apart.
func TestBoardsThatShareAUUID(t *testing.T) {
	shared := systemUUID(0)
	type said struct{ name, uuid, machine string }
	for what, test := range map[string]struct {
		before  func(t *testing.T, w *world) // server00 is registered with the shared UUID and machine ID 0
		says    said
		want    error
		name    string // of the record it gets
		warning bool
	}{
		"another machine": {says: said{"b", shared, machineID(1)}, name: "b", warning: true},
		"named by its UUID, which is no other server's name": {says: said{shared, shared, machineID(1)}, name: machineID(1), warning: true},
		"named by its UUID, in upper case":                   {says: said{strings.ToUpper(shared), shared, machineID(1)}, name: machineID(1), warning: true},
		"a name that is taken":                               {says: said{"server00", shared, machineID(1)}, want: opscenter.ErrNameTaken},
		"the same machine":                                   {says: said{"b", shared, machineID(0)}, want: opscenter.ErrIdentityTaken},
		"the same machine, without a UUID":                   {says: said{"b", "", machineID(0)}, want: opscenter.ErrIdentityTaken},
		"without a machine ID":                               {says: said{"b", shared, ""}, want: opscenter.ErrIdentityTaken},
		"the record has no machine ID": {before: func(t *testing.T, w *world) {
			reg := registration(5, w.token(t, 1))
			reg.SystemUUID, reg.MachineID = systemUUID(5), ""
			_, err := w.Register(t.Context(), reg)
			require.NoError(t, err)
		}, says: said{"b", systemUUID(5), machineID(1)}, want: opscenter.ErrIdentityTaken},
		"installed anew by leave": {before: func(t *testing.T, w *world) {
			require.NoError(t, w.AllowReinstall(t.Context(), "server00", true))
		}, says: said{"b", shared, machineID(1)}, name: "server00"},
		"two that may be installed anew": {before: func(t *testing.T, w *world) {
			reg := registration(5, w.token(t, 1))
			reg.SystemUUID = shared
			_, err := w.Register(t.Context(), reg)
			require.NoError(t, err)
			for _, name := range []string{"server00", "server05"} {
				require.NoError(t, w.AllowReinstall(t.Context(), name, true))
			}
		}, says: said{"b", shared, machineID(1)}, want: opscenter.ErrIdentityTaken},
		"two that may be installed anew, and its name": {before: func(t *testing.T, w *world) {
			reg := registration(5, w.token(t, 1))
			reg.SystemUUID = shared
			_, err := w.Register(t.Context(), reg)
			require.NoError(t, err)
			for _, name := range []string{"server00", "server05"} {
				require.NoError(t, w.AllowReinstall(t.Context(), name, true))
			}
		}, says: said{"Server05", shared, machineID(1)}, name: "server05", warning: true},
		"leave for another one, without a machine ID": {before: func(t *testing.T, w *world) {
			reg := registration(5, w.token(t, 1))
			reg.SystemUUID = shared
			_, err := w.Register(t.Context(), reg)
			require.NoError(t, err)
			require.NoError(t, w.AllowReinstall(t.Context(), "server05", true))
		}, says: said{"server00", shared, ""}, want: opscenter.ErrIdentityTaken},
		"leave for it, without a machine ID": {before: func(t *testing.T, w *world) {
			reg := registration(5, w.token(t, 1))
			reg.SystemUUID = shared
			_, err := w.Register(t.Context(), reg)
			require.NoError(t, err)
			require.NoError(t, w.AllowReinstall(t.Context(), "server05", true))
		}, says: said{"server05", shared, ""}, name: "server05", warning: true},
		"announced by that UUID and another machine ID": {before: func(t *testing.T, w *world) {
			_, err := w.PreRegister(t.Context(), opscenter.PreRegistration{Name: "expected", SystemUUID: shared, MachineID: machineID(9)})
			require.NoError(t, err)
		}, says: said{"b", shared, machineID(1)}, name: "b", warning: true},
		"announced by that UUID and its machine ID": {before: func(t *testing.T, w *world) {
			_, err := w.PreRegister(t.Context(), opscenter.PreRegistration{Name: "expected", SystemUUID: shared, MachineID: machineID(1)})
			require.NoError(t, err)
		}, says: said{"b", shared, machineID(1)}, name: "expected", warning: true},
		"a release that tells a UUID by now, with leave": {before: func(t *testing.T, w *world) {
			reg := registration(5, w.token(t, 1))
			reg.SystemUUID = ""
			_, err := w.Register(t.Context(), reg)
			require.NoError(t, err)
			require.NoError(t, w.AllowReinstall(t.Context(), "server05", true))
		}, says: said{"server05", systemUUID(6), machineID(6)}, name: "server05"},
	} {
		t.Run(what, func(t *testing.T) {
			onBoth(t, func(t *testing.T, w *world) {
				first := w.ready(t, 0)
				if test.before != nil {
					test.before(t, w)
				}
				first = w.get(t, first.Name)
				token := w.token(t, 1)
				reg := registration(1, token)
				reg.Name, reg.SystemUUID, reg.MachineID = test.says.name, test.says.uuid, test.says.machine
				registered, err := w.Register(t.Context(), reg)
				list, listErr := w.Warnings().List(t.Context(), opscenter.WarningFilter{Kind: warning.SharedUUID}, opscenter.Page{})
				require.NoError(t, listErr)
				if test.want != nil {
					require.ErrorIs(t, err, test.want)
					require.EqualValues(t, 1, w.uses(t, token), "a refusal spends nothing")
					require.Equal(t, first.Server, w.get(t, "server00").Server)
					return
				}
				require.NoError(t, err)
				require.Equal(t, test.name, registered.Name)
				if test.name != "server00" {
					require.Equal(t, first.Server, w.get(t, "server00").Server, "no other record is touched")
					require.Equal(t, first.State, w.get(t, "server00").State)
				}
				if !test.warning {
					require.Empty(t, list.Warnings)
					return
				}
				var ours *warning.Warning
				for _, one := range list.Warnings {
					if one.Server == test.name {
						ours = one
					}
				}
				require.NotNil(t, ours)
				require.Contains(t, ours.Message, "acknowledge")
				require.Contains(t, ours.Message, "server00")
				require.NoError(t, w.Warnings().Acknowledge(t.Context(), ours.UUID, true, nil))
				again, err := w.Register(t.Context(), reg)
				require.NoError(t, err)
				require.True(t, again.Repeat)
				kept, err := w.Warnings().Get(t.Context(), ours.UUID)
				require.NoError(t, err)
				require.True(t, kept.Acknowledged, "it stays, and stays acknowledged")
			})
		})
	}
	w := memoryWorld(t)
	for n := range 3 {
		reg := registration(n, w.token(t, 1))
		reg.SystemUUID = shared
		_, err := w.Register(t.Context(), reg)
		require.NoError(t, err)
	}
	count := func() int {
		page, err := w.Warnings().List(t.Context(), opscenter.WarningFilter{Kind: warning.SharedUUID}, opscenter.Page{})
		require.NoError(t, err)
		return len(page.Warnings)
	}
	require.Equal(t, 2, count(), "each that comes later has its own")
	require.NoError(t, w.DeleteServer(t.Context(), "server00", false))
	require.Equal(t, 2, count())
	require.NoError(t, w.DeleteServer(t.Context(), "server01", false))
	require.Zero(t, count(), "no other server has the UUID of the last one")
}

// A registered server that tells more of itself than before does not become another.
func TestServerLearnsItsMachineID(t *testing.T) {
	w := memoryWorld(t)
	bare := registration(0, w.token(t, 1))
	bare.MachineID = ""
	_, err := w.Register(t.Context(), bare)
	require.NoError(t, err)
	w.add(t, 1)
	bare.MachineID = machineID(1)
	_, err = w.Register(t.Context(), bare)
	require.ErrorIs(t, err, opscenter.ErrIdentityTaken)
	require.ErrorContains(t, err, "server01")
	bare.MachineID = machineID(2)
	_, err = w.Register(t.Context(), bare)
	require.NoError(t, err)
	require.Equal(t, machineID(2), w.get(t, "server00").MachineID)
}

// Whatever machines say of themselves: no record is taken over without leave, machine IDs are
// unique, and each refusal is of a known kind.
func TestIdentityProperties(t *testing.T) {
	for n := range 4 {
		certificate(n)
	}
	rapid.Check(t, func(rt *rapid.T) {
		r, err := opscenter.NewRegistry(memstore.New(), opscenter.Options{})
		if err != nil {
			rt.Fatal(err)
		}
		token, err := r.CreateToken(t.Context(), opscenter.TokenSpec{Uses: 1000})
		if err != nil {
			rt.Fatal(err)
		}
		pick := rapid.IntRange(0, 3)
		all := func() map[string]opscenter.Server {
			out := map[string]opscenter.Server{}
			for info, err := range r.Servers(t.Context(), opscenter.ServerFilter{}) {
				if err != nil {
					rt.Fatal(err)
				}
				out[info.ID] = info.Server
			}
			return out
		}
		rt.Repeat(map[string]func(*rapid.T){
			"register": func(rt *rapid.T) {
				before := all()
				reg := registration(pick.Draw(rt, "certificate"), token.UUID)
				reg.Name = fmt.Sprint("n", pick.Draw(rt, "name"))
				reg.SystemUUID, reg.MachineID = "", ""
				if n := pick.Draw(rt, "uuid"); n > 1 {
					reg.SystemUUID = systemUUID(n)
				}
				if n := pick.Draw(rt, "machine"); n > 0 {
					reg.MachineID = machineID(n)
				}
				_, err := r.Register(t.Context(), reg)
				switch {
				case err == nil, isOneOf(err, opscenter.ErrIdentityTaken, opscenter.ErrIdentityChanged, opscenter.ErrNameTaken):
				default:
					rt.Fatalf("%v", err)
				}
				machines := map[string]bool{}
				for id, s := range all() {
					if s.MachineID != "" && machines[s.MachineID] {
						rt.Fatalf("two records of machine %s", s.MachineID)
					}
					machines[s.MachineID] = true
					if was, known := before[id]; known && was.Certificate != "" && was.Fingerprint != s.Fingerprint && !was.ReinstallAllowed {
						rt.Fatalf("record %s was taken over", s.Name)
					}
				}
			},
			"leave": func(rt *rapid.T) {
				_ = r.AllowReinstall(t.Context(), fmt.Sprint("n", pick.Draw(rt, "name")), rapid.Bool().Draw(rt, "allowed"))
			},
			"announce": func(rt *rapid.T) {
				a := opscenter.PreRegistration{Name: fmt.Sprint("n", pick.Draw(rt, "name"))}
				if n := pick.Draw(rt, "uuid"); n > 1 {
					a.SystemUUID = systemUUID(n)
				}
				if n := pick.Draw(rt, "machine"); n > 1 {
					a.MachineID = machineID(n)
				}
				if _, err := r.PreRegister(t.Context(), a); err != nil && !isOneOf(err, opscenter.ErrIdentityTaken, opscenter.ErrNameTaken) {
					rt.Fatalf("%v", err)
				}
			},
			"remove": func(rt *rapid.T) { _ = r.DeleteServer(t.Context(), fmt.Sprint("n", pick.Draw(rt, "name")), false) },
		})
	})
}

// A store of a release in which system UUIDs were unique opens, and takes machines that share one.
func TestUniqueSystemUUIDsOpen(t *testing.T) {
	dir := t.TempDir()
	store, err := badgerstore.Open(dir)
	require.NoError(t, err)
	one := func(value string) []storage.Key {
		if value == "" {
			return nil
		}
		return []storage.Key{storage.StringKey(value)}
	}
	old := storage.NewTable("servers", func(s *opscenter.Server) storage.Key { return storage.StringKey(s.Name) })
	old.Unique("id", func(s *opscenter.Server) []storage.Key { return one(s.ID) })
	old.Unique("fingerprint", func(s *opscenter.Server) []storage.Key { return one(s.Fingerprint) })
	old.Unique("system_uuid", func(s *opscenter.Server) []storage.Key { return one(s.SystemUUID) })
	old.Unique("machine_id", func(s *opscenter.Server) []storage.Key { return one(s.MachineID) })
	old.Unique("folded_name", func(s *opscenter.Server) []storage.Key { return one(strings.ToLower(s.Name)) })
	old.Index("cluster", func(s *opscenter.Server) []storage.Key { return one(s.Cluster) })
	old.Index("channel", func(s *opscenter.Server) []storage.Key { return one(s.Channel) })
	states := storage.NewTable("states", func(s *lifecycle.ServerState) storage.Key { return storage.StringKey(s.Name) })
	states.Index("status", func(s *lifecycle.ServerState) []storage.Key { return one(string(s.Status)) })
	require.NoError(t, store.Attach(t.Context(), old.Schema(), states.Schema()))
	first := &opscenter.Server{ID: "1", Name: "server00", ConnectionURL: "https://10.0.0.1:8443", Certificate: opscenter.EncodeCertificate(certificate(0)),
		Fingerprint: opscenter.Fingerprint(certificate(0)), SystemUUID: systemUUID(0), MachineID: machineID(0)}
	require.NoError(t, store.Update(t.Context(), func(tx storage.WriteTx) error {
		if err := old.Put(tx, first); err != nil {
			return err
		}
		return states.Put(tx, &lifecycle.ServerState{Name: "server00", ID: "1", Status: lifecycle.StatusReady})
	}))
	require.NoError(t, store.Close())
	store, err = badgerstore.Open(dir)
	require.NoError(t, err)
	w := newWorld(t, store, opscenter.Options{})
	twin := registration(1, w.token(t, 1))
	twin.SystemUUID = systemUUID(0)
	_, err = w.Register(t.Context(), twin)
	require.NoError(t, err)
	require.Equal(t, *first, w.get(t, "server00").Server)
}

// A URL at which no server can be is refused everywhere.
func TestAddressesOfNoServer(t *testing.T) {
	w := memoryWorld(t)
	w.ready(t, 0)
	for _, host := range impossibleHosts {
		url := "https://" + host + ":8443"
		before := w.revision(t)
		_, err := w.Register(t.Context(), opscenter.Registration{Token: w.token(t, 1), Certificate: certificate(1), Name: "b", ConnectionURL: url})
		require.ErrorIs(t, err, opscenter.ErrInvalidURL, host)
		require.ErrorIs(t, w.SelfUpdate(t.Context(), certificate(0), opscenter.SelfUpdate{ConnectionURL: url}), opscenter.ErrInvalidURL)
		_, err = w.PreRegister(t.Context(), opscenter.PreRegistration{Name: "c", SystemUUID: systemUUID(3), ServerSpec: opscenter.ServerSpec{ConnectionURL: url}})
		require.ErrorIs(t, err, opscenter.ErrInvalidURL)
		err = w.UpdateServer(t.Context(), "server00", opscenter.ServerSpec{ConnectionURL: url}, nil)
		require.ErrorIs(t, err, opscenter.ErrInvalidURL)
		err = w.Adopt(t.Context(), opscenter.Adoption{Servers: []opscenter.AdoptedServer{{Name: "d", ConnectionURL: url, Certificate: certificate(4)}}})
		require.ErrorIs(t, err, opscenter.ErrInvalidURL)
		require.ErrorIs(t, w.UpdateServer(t.Context(), "server00", opscenter.ServerSpec{PublicConnectionURL: url}, nil), opscenter.ErrInvalidURL)
		require.Equal(t, before+1, w.revision(t), "the token alone")
	}
	require.Equal(t, "https://10.0.0.1:8443", w.get(t, "server00").ConnectionURL)
}

// TestTakeOver: while one record may be installed anew, no other machine comes into its place: neither one
// that shares its system UUID, nor one that says nothing of itself but its name.
func TestTakeOver(t *testing.T) {
	w := memoryWorld(t)
	token := w.token(t, 10)
	a, b := registration(0, token), registration(1, token)
	b.SystemUUID = a.SystemUUID
	for _, r := range []opscenter.Registration{a, b} {
		_, err := w.Register(t.Context(), r)
		require.NoError(t, err)
	}
	require.NoError(t, w.AllowReinstall(t.Context(), a.Name, true))
	before, err := w.Server(t.Context(), a.Name)
	require.NoError(t, err)
	other := registration(2, token)
	other.SystemUUID = a.SystemUUID
	got, err := w.Register(t.Context(), other)
	require.NoError(t, err)
	require.Equal(t, other.Name, got.Name, "a new server, with the warning")
	silent := registration(3, token)
	silent.SystemUUID, silent.MachineID, silent.Name = "", "", a.Name
	_, err = w.Register(t.Context(), silent)
	require.ErrorIs(t, err, opscenter.ErrNameTaken)
	after, err := w.Server(t.Context(), a.Name)
	require.NoError(t, err)
	require.Equal(t, before.Fingerprint, after.Fingerprint)
	require.True(t, after.ReinstallAllowed)
	// The machine itself comes under its name.
	again := registration(4, token)
	again.SystemUUID, again.Name = a.SystemUUID, a.Name
	got, err = w.Register(t.Context(), again)
	require.NoError(t, err)
	require.Equal(t, a.Name, got.Name)
	after, err = w.Server(t.Context(), a.Name)
	require.NoError(t, err)
	require.Equal(t, before.ID, after.ID)
	require.Equal(t, opscenter.Fingerprint(again.Certificate), after.Fingerprint)
}

func TestReinstallWithoutASystemUUID(t *testing.T) {
	w := memoryWorld(t)
	reg := registration(0, w.token(t, 3))
	reg.SystemUUID = ""
	_, err := w.Register(t.Context(), reg)
	require.NoError(t, err)
	before := w.get(t, "server00")
	reg.Certificate, reg.MachineID = certificate(1), machineID(70)
	_, err = w.Register(t.Context(), reg)
	require.ErrorIs(t, err, opscenter.ErrNameTaken)
	require.NoError(t, w.AllowReinstall(t.Context(), "server00", true))
	_, err = w.Register(t.Context(), reg)
	require.NoError(t, err)
	after := w.get(t, "server00")
	require.Equal(t, before.ID, after.ID)
	require.Equal(t, machineID(70), after.MachineID)
}
