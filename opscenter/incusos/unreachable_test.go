package incusos_test

import (
	"context"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/cluster"
	"github.com/opscenter-go/sdk/opscenter/incusos"
	"github.com/opscenter-go/sdk/opscenter/incusostest"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
)

// Each method returns ErrUnreachable if the server is down, or if another server answers. Its callers can then tell
// such a failure from their own errors.
func TestErrUnreachable(t *testing.T) {
	s, identity := boot(t, incusostest.Options{Name: "sim"})
	c := newClient(t, incusos.Options{Certificate: identity, Timeout: 2 * time.Second})
	at := target(s)
	instance := lifecycle.Instance{Project: "default", Name: "c1"}
	for _, fault := range []incusostest.FaultKind{incusostest.FaultDown, incusostest.FaultWrongCertificate} {
		require.NoError(t, s.SetFault(incusostest.Fault{Kind: fault}))
		for name, ask := range map[string]func(context.Context) error{
			"Update":    func(ctx context.Context) error { return c.Update(ctx, at) },
			"Reboot":    func(ctx context.Context) error { return c.Reboot(ctx, at) },
			"PowerOff":  func(ctx context.Context) error { return c.PowerOff(ctx, at) },
			"Suspend":   func(ctx context.Context) error { return c.Suspend(ctx, at) },
			"Evacuate":  func(ctx context.Context) error { return c.Evacuate(ctx, at, "auto") },
			"Restore":   func(ctx context.Context) error { return c.Restore(ctx, at, "") },
			"Cluster":   func(ctx context.Context) error { _, err := c.ClusterState(ctx, at); return err },
			"Address":   func(ctx context.Context) error { return c.SetClusterAddress(ctx, at, "127.0.0.1:8443") },
			"Bootstrap": func(ctx context.Context) error { _, err := c.Bootstrap(ctx, at, "m"); return err },
			"JoinToken": func(ctx context.Context) error { _, err := c.JoinToken(ctx, at, "m"); return err },
			"Join": func(ctx context.Context) error {
				return c.Join(ctx, at, cluster.Join{Name: "m", Certificate: s.Certificate()})
			},
			"Contents":  func(ctx context.Context) error { _, err := c.Contents(ctx, at); return err },
			"Member":    func(ctx context.Context) error { _, err := c.MemberConfig(ctx, at); return err },
			"Instances": func(ctx context.Context) error { _, err := c.InstancesOn(ctx, at, "m"); return err },
			"Remove":    func(ctx context.Context) error { return c.RemoveMember(ctx, at, "m", false) },
			"Running":   func(ctx context.Context) error { _, err := c.RunningInstances(ctx, at); return err },
			"Stop":      func(ctx context.Context) error { return c.StopInstance(ctx, at, instance) },
			"Start":     func(ctx context.Context) error { return c.StartInstance(ctx, at, instance) },
			"Read":      func(ctx context.Context) error { _, err := c.ReadSystem(ctx, at, "network"); return err },
			"Write":     func(ctx context.Context) error { return c.WriteSystem(ctx, at, "network", []byte("{}")) },
			"Confirm":   func(ctx context.Context) error { return c.ConfirmNetwork(ctx, at) },
			"Can":       func(ctx context.Context) error { _, err := c.CanConfirmNetwork(ctx, at); return err },
			"Reset":     func(ctx context.Context) error { return c.FactoryReset(ctx, at, []byte("{}")) },
			"Look":      func(ctx context.Context) error { _, err := c.Look(ctx, at); return err },
			"Forward": func(ctx context.Context) error {
				req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://x/os/1.0", nil)
				require.NoError(t, err)
				resp, err := c.Forward(ctx, at, req)
				if err == nil {
					resp.Body.Close()
				}
				return err
			},
		} {
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			err := ask(ctx)
			cancel()
			require.ErrorIs(t, err, opscenter.ErrUnreachable, "%s, %s", name, fault)
		}
	}
}
