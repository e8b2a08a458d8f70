package incusos_test

import (
	"crypto/tls"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/internal/selfsigned"
	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/incusos"
	"github.com/opscenter-go/sdk/opscenter/incusostest"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
)

// An instance whose state Incus can't read may run on a member. Then the outcome is unknown.
func TestRunningInstance(t *testing.T) {
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
	const unreadable = `"status":"Error","status_code":112,"config":null,"created_at":"0001-01-01T00:00:00Z"`
	for name, c := range map[string]struct {
		list, running string
		err           error
	}{
		"no instance":       {`[]`, "", nil},
		"running":           {`[{"name":"i1","location":"a","status":"Running","status_code":103,"config":{}}]`, "i1", nil},
		"stopped":           {`[{"name":"i1","location":"a","status":"Stopped","status_code":102,"config":{}}]`, "", nil},
		"in error":          {`[{"name":"i1","location":"a","status":"Error","status_code":112,"config":{}}]`, "", nil},
		"unreadable":        {`[{"name":"i1","location":"a",` + unreadable + `}]`, "", opscenter.ErrOutcomeUnknown},
		"of another member": {`[{"name":"i1","location":"b",` + unreadable + `},{"name":"i2","location":"b","status":"Running","config":{}}]`, "", nil},
	} {
		t.Run(name, func(t *testing.T) {
			list = c.list
			running, err := client.RunningInstance(t.Context(), where)
			require.ErrorIs(t, err, c.err)
			require.Equal(t, c.running, running)
		})
	}
}

func TestActions(t *testing.T) {
	server, identity := boot(t, incusostest.Options{EvacuateDelay: 50 * time.Millisecond, RebootDelay: 50 * time.Millisecond})
	client := newClient(t, incusos.Options{Certificate: identity, Timeout: 2 * time.Second})
	where := target(server)
	server.Offer("202610150000")
	require.NoError(t, client.Update(t.Context(), where))
	eventually(t, func() bool { _, staged := server.Version(); return staged == "202610150000" })
	require.NoError(t, client.Evacuate(t.Context(), where, "auto"))
	require.Equal(t, "Evacuated", server.MemberStatus())
	require.Equal(t, lifecycle.MaintenanceEvacuated, *probe(t, client, where).Maintenance)
	require.NoError(t, client.Evacuate(t.Context(), where, "auto"), "a second evacuation changes nothing")
	require.NoError(t, client.Reboot(t.Context(), where))
	eventually(t, func() bool { running, _ := server.Version(); return running == "202610150000" })
	eventually(t, func() bool { o := probe(t, client, where); return o.Failure == nil && o.Ready })
	require.NoError(t, client.Restore(t.Context(), where, ""))
	require.Equal(t, "Online", server.MemberStatus())
	require.NoError(t, client.Restore(t.Context(), where, ""))

	alone := where
	alone.MemberName = ""
	require.ErrorIs(t, client.Evacuate(t.Context(), alone, ""), opscenter.ErrNotApplicable)
	// If the answer is lost, the outcome is unknown. If the connection fails, the command was not sent.
	require.NoError(t, server.SetFault(incusostest.Fault{Kind: incusostest.FaultTruncated}))
	require.ErrorIs(t, client.Reboot(t.Context(), where), opscenter.ErrOutcomeUnknown)
	eventually(t, func() bool { return server.Requests("/os/1.0/system/:reboot") == 2 })
	require.NoError(t, server.SetFault(incusostest.Fault{Kind: incusostest.FaultDown}))
	err := client.Reboot(t.Context(), where)
	require.Error(t, err)
	require.NotErrorIs(t, err, opscenter.ErrOutcomeUnknown)
}

// For an instance that it can't read, Incus sends a made-up state. The instance may run, so RunningInstances
// returns an error.
func TestUnreadableInstance(t *testing.T) {
	made := `{"name":"i","project":"default","status":"Error","status_code":112,"config":null}`
	answers := map[string]string{
		"/1.0":           `{"auth":"trusted","environment":{"server_clustered":false}}`,
		"/1.0/instances": "[" + made + "]",
	}
	identity, err := selfsigned.New("unreadable")
	require.NoError(t, err)
	web := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = w.Write([]byte(`{"type":"sync","status":"Success","status_code":200,"metadata":` + answers[r.URL.Path] + `}`))
	}))
	web.TLS = &tls.Config{Certificates: []tls.Certificate{identity}}
	web.StartTLS()
	defer web.Close()
	client := newClient(t, incusos.Options{})
	where := opscenter.Target{Name: "a", ID: "a", ConnectionURL: web.URL, Fingerprint: opscenter.Fingerprint(identity.Leaf), Type: lifecycle.TypeIncus}
	_, err = client.RunningInstances(t.Context(), where)
	require.ErrorIs(t, err, opscenter.ErrRefused)
	require.ErrorContains(t, err, "instance i of project default")
	// A readable instance in status Error does not run.
	answers["/1.0/instances"] = `[{"name":"i","project":"default","status":"Error","status_code":112,"config":{"a":"b"}}]`
	running, err := client.RunningInstances(t.Context(), where)
	require.NoError(t, err)
	require.Empty(t, running)
}
