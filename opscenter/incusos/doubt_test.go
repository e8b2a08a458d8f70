package incusos_test

import (
	"crypto/tls"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/internal/selfsigned"
	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/incusos"
	"github.com/opscenter-go/sdk/opscenter/incusostest"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
)

// TestOwnAPIOutOfOrder: an IncusOS server whose own API is not there tells no versions, and is no plain Incus server.
func TestOwnAPIOutOfOrder(t *testing.T) {
	server, identity := boot(t, incusostest.Options{})
	client := newClient(t, incusos.Options{Certificate: identity})
	require.NoError(t, server.SetFault(incusostest.Fault{Kind: incusostest.FaultNotFound, Path: "/os/"}))
	o := probe(t, client, target(server))
	require.Nil(t, o.Failure)
	require.Nil(t, o.Versions, "what it told before stays")
	require.Equal(t, lifecycle.TypeIncus, *o.Type)
	require.Contains(t, o.Unread[0], "GET /os/1.0")
}

// TestWhichMember: where the release tells no machine ID, a member that does not say who it is is not
// taken for the one that was looked for: all present one certificate.
func TestWhichMember(t *testing.T) {
	server, identity := boot(t, incusostest.Options{Release: "202510010000", Version: "202510010000"})
	client := newClient(t, incusos.Options{Certificate: identity})
	where := target(server)
	_, err := client.Look(t.Context(), where)
	require.NoError(t, err)
	other := where
	other.MemberName = "another"
	_, err = client.Look(t.Context(), other)
	require.ErrorIs(t, err, opscenter.ErrUnreachable)
	require.NoError(t, server.SetFault(incusostest.Fault{Kind: incusostest.FaultGarbage, Path: "/1.0", Times: 1}))
	_, err = client.Look(t.Context(), other)
	require.Error(t, err)
}

// TestUnreadInstanceMayRun: an instance that Incus lists, and can't tell more of, may run on a member.
func TestUnreadInstanceMayRun(t *testing.T) {
	identity, err := selfsigned.New("member", "127.0.0.1")
	require.NoError(t, err)
	list := ""
	web := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		metadata := `{"auth":"trusted","api_extensions":[],"environment":{"server_clustered":true}}`
		if r.URL.Path == "/1.0/instances" {
			metadata = list
		}
		_, _ = w.Write([]byte(`{"type":"sync","status":"Success","status_code":200,"metadata":` + metadata + `}`))
	}))
	web.TLS = &tls.Config{Certificates: []tls.Certificate{identity}}
	web.StartTLS()
	defer web.Close()
	client := newClient(t, incusos.Options{})
	where := opscenter.Target{Name: "a", ID: "a", ConnectionURL: web.URL, Fingerprint: opscenter.Fingerprint(identity.Leaf), Type: lifecycle.TypeIncus, MemberName: "a"}
	const madeUp = `"status":"Error","status_code":112,"config":null,"created_at":"0001-01-01T00:00:00Z"`
	for what, c := range map[string]struct {
		list, left string
		err        error
	}{
		"none":                  {`[]`, "", nil},
		"one that runs":         {`[{"name":"i1","location":"a","status":"Running","status_code":103,"config":{}}]`, "i1", nil},
		"one that does not":     {`[{"name":"i1","location":"a","status":"Stopped","status_code":102,"config":{}}]`, "", nil},
		"one in error":          {`[{"name":"i1","location":"a","status":"Error","status_code":112,"config":{}}]`, "", nil},
		"one that is not read":  {`[{"name":"i1","location":"a",` + madeUp + `}]`, "", opscenter.ErrOutcomeUnknown},
		"one of another member": {`[{"name":"i1","location":"b",` + madeUp + `},{"name":"i2","location":"b","status":"Running","config":{}}]`, "", nil},
	} {
		t.Run(what, func(t *testing.T) {
			list = c.list
			left, err := client.Left(t.Context(), where)
			require.ErrorIs(t, err, c.err)
			require.Equal(t, c.left, left)
		})
	}
}
