package incusos_test

import (
	"crypto/tls"
	"encoding/json"
	"net/http"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/internal/incustest"
	"github.com/opscenter-go/sdk/internal/selfsigned"
	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/incusos"
	"github.com/opscenter-go/sdk/opscenter/incusostest"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
	"github.com/opscenter-go/sdk/poller"
	"github.com/opscenter-go/sdk/storage/memstore"
)

// hardware is the part of a server's hardware that the test compares.
type hardware struct {
	CPU struct {
		Total uint64 `json:"total"`
	} `json:"cpu"`
	Memory struct {
		Total uint64 `json:"total"`
	} `json:"memory"`
}

// TestRealIncus registers and polls a real Incus daemon, and then a simulated IncusOS in front of it.
func TestRealIncus(t *testing.T) {
	daemon := incustest.Start(t)
	identity, err := selfsigned.New("control-plane")
	require.NoError(t, err)
	var truth hardware
	require.NoError(t, daemon.Call(http.MethodGet, "/1.0/resources", nil, &truth))
	require.NotZero(t, truth.CPU.Total)

	registry, err := opscenter.NewRegistry(memstore.New(memstore.Options{DetectMutation: true}), opscenter.Options{})
	require.NoError(t, err)
	client := newClient(t, incusos.Options{Certificate: &identity})
	polls, err := poller.New(registry, client, poller.Options{Timeout: 20 * time.Second})
	require.NoError(t, err)
	token, err := registry.CreateToken(t.Context(), opscenter.TokenSpec{Uses: 2})
	require.NoError(t, err)
	stored := func(name string) hardware {
		facts, err := registry.ServerFacts(t.Context(), name)
		require.NoError(t, err)
		var out hardware
		require.NoError(t, json.Unmarshal(facts.Hardware, &out))
		return out
	}

	t.Run("plain", func(t *testing.T) {
		_, err = registry.Register(t.Context(), opscenter.Registration{Token: token.UUID, Certificate: daemon.Certificate, Name: "real", ConnectionURL: daemon.URL})
		require.NoError(t, err)
		o, err := polls.Poll(t.Context(), "real")
		require.NoError(t, err)
		require.NotNil(t, o.Failure, "the daemon does not trust the control plane yet")
		require.Equal(t, lifecycle.FailureUntrusted, o.Failure.Kind, o.Failure.Message)
		daemon.Trust(identity.Leaf)
		o, err = polls.Poll(t.Context(), "real")
		require.NoError(t, err)
		require.Nil(t, o.Failure, "%+v", o.Failure)
		require.Empty(t, o.Unread)
		info, err := registry.Server(t.Context(), "real")
		require.NoError(t, err)
		require.Equal(t, lifecycle.StatusReady, info.State.Status)
		require.Equal(t, lifecycle.TypeIncus, info.State.Type)
		require.Equal(t, daemon.Version, info.State.Versions.Applications[0].Version)
		require.Equal(t, truth, stored("real"))
		require.NoError(t, registry.Channels().Publish(t.Context(), "stable", "202610150000", "os", "incus"))
		require.Equal(t, lifecycle.ActionNone, info.Recommendation().Action, "no update without IncusOS")
	})

	t.Run("behind a simulated IncusOS", func(t *testing.T) {
		server, err := incusostest.New(incusostest.Options{Name: "fronted", Backend: daemon.Socket, Version: "202610010000"})
		require.NoError(t, err)
		defer server.Close()
		server.Trust(identity.Leaf)
		_, err = registry.Register(t.Context(), opscenter.Registration{Token: token.UUID, Certificate: server.Certificate(), Name: "fronted", ConnectionURL: server.URL(), MachineID: server.MachineID()})
		require.NoError(t, err)
		o, err := polls.Poll(t.Context(), "fronted")
		require.NoError(t, err)
		require.Nil(t, o.Failure, "%+v", o.Failure)
		require.Empty(t, o.Unread)
		info, err := registry.Server(t.Context(), "fronted")
		require.NoError(t, err)
		require.Equal(t, lifecycle.StatusReady, info.State.Status)
		require.Equal(t, lifecycle.TypeIncus, info.State.Type)
		require.Equal(t, lifecycle.OSVersion{Name: lifecycle.OSName, Version: "202610010000", VersionNext: "202610010000"}, info.State.Versions.OS)
		require.Equal(t, truth, func() hardware {
			connection, err := client.Connect(t.Context(), info.Target())
			require.NoError(t, err)
			resources, err := connection.GetServerResources()
			require.NoError(t, err)
			return hardware{CPU: struct {
				Total uint64 `json:"total"`
			}{resources.CPU.Total}, Memory: struct {
				Total uint64 `json:"total"`
			}{resources.Memory.Total}}
		}(), "the real daemon answers other paths than /os/")

		// The websocket of events reaches the real daemon, too.
		dialer := websocket.Dialer{HandshakeTimeout: 10 * time.Second, TLSClientConfig: &tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{identity}}}
		events, _, err := dialer.Dial("wss"+server.URL()[len("https"):]+"/1.0/events?type=lifecycle&all-projects=true", nil)
		require.NoError(t, err)
		defer events.Close()
		require.NoError(t, daemon.Call(http.MethodPost, "/1.0/projects", map[string]any{"name": "made-by-the-test"}, nil))
		require.NoError(t, events.SetReadDeadline(time.Now().Add(10*time.Second)))
		for {
			var event struct {
				Metadata struct {
					Action string `json:"action"`
					Source string `json:"source"`
				} `json:"metadata"`
			}
			require.NoError(t, events.ReadJSON(&event))
			if event.Metadata.Action == "project-created" {
				require.Equal(t, "/1.0/projects/made-by-the-test", event.Metadata.Source)
				break
			}
		}
	})
}

// TestRealEvacuation evacuates and restores the only member of a real cluster.
func TestRealEvacuation(t *testing.T) {
	daemon := incustest.Start(t)
	identity, err := selfsigned.New("control-plane")
	require.NoError(t, err)
	daemon.Trust(identity.Leaf)
	daemon.Cluster("one")
	client := newClient(t, incusos.Options{Certificate: &identity})
	where := opscenter.Target{Name: "one", ID: "one", ConnectionURL: daemon.URL, Fingerprint: opscenter.Fingerprint(daemon.Certificate), MemberName: "one"}
	look := func() lifecycle.MaintenanceState {
		o := probe(t, client, where)
		require.Nil(t, o.Failure, "%+v", o.Failure)
		require.Empty(t, o.Unread)
		require.Equal(t, "one", *o.MemberName)
		return *o.Maintenance
	}
	require.Equal(t, lifecycle.NotInMaintenance, look())
	for range 2 { // the second time changes nothing
		require.NoError(t, client.Evacuate(t.Context(), where, "auto"))
		require.Equal(t, lifecycle.MaintenanceEvacuated, look())
	}
	for range 2 {
		require.NoError(t, client.Restore(t.Context(), where, ""))
		require.Equal(t, lifecycle.NotInMaintenance, look())
	}
	where.MemberName = "missing"
	require.Error(t, client.Evacuate(t.Context(), where, "auto"))
}

// TestRealConnections resumes TLS sessions of real daemons. It accepts the certificate that a daemon presents after
// it joined a cluster only once that is registered.
func TestRealConnections(t *testing.T) {
	identity, err := selfsigned.New("control-plane")
	require.NoError(t, err)
	var daemons []*incustest.Daemon
	var targets []opscenter.Target
	for _, name := range []string{"one", "two"} {
		daemon := incustest.Start(t)
		daemon.Trust(identity.Leaf)
		daemons = append(daemons, daemon)
		targets = append(targets, opscenter.Target{Name: name, ID: name, ConnectionURL: daemon.URL, Fingerprint: opscenter.Fingerprint(daemon.Certificate)})
	}
	// With one idle connection in total, each probe closes the connection to the other daemon.
	client := newClient(t, incusos.Options{Certificate: &identity, MaxIdleConns: 1})
	for range 3 {
		for _, where := range targets {
			o := probe(t, client, where)
			require.Nil(t, o.Failure, "%+v", o.Failure)
			require.Empty(t, o.Unread)
			require.Equal(t, where.Fingerprint, o.Presented)
			require.NotEmpty(t, o.Facts.Hardware)
		}
	}
	stats := client.Stats()
	require.EqualValues(t, 2, stats.FullHandshakes)
	require.EqualValues(t, 4, stats.ResumedHandshakes)

	own := targets[0]
	daemons[0].Cluster("one")
	o := probe(t, client, own)
	t.Logf("registered with %.12s, presents %.12s once clustered: %+v", own.Fingerprint, o.Presented, o.Failure)
	if o.Failure != nil {
		require.Equal(t, lifecycle.FailureCertificate, o.Failure.Kind)
		require.NotEqual(t, own.Fingerprint, o.Presented)
		own.ServedFingerprint = o.Presented
		o = probe(t, client, own)
	}
	require.Nil(t, o.Failure, "%+v", o.Failure)
	require.Equal(t, "one", *o.MemberName)
	require.Equal(t, lifecycle.NotInMaintenance, *o.Maintenance)
}
