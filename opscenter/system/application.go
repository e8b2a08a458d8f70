package system

import (
	"context"
	"fmt"
	"slices"

	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/audit"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
)

// ApplicationUpdater is an optional capability of an OS: to make a server update one application.
// incusos.Client has it.
type ApplicationUpdater interface {
	// UpdateApplication returns when the server has accepted the request. opscenter.ErrNotApplicable: its release can't.
	UpdateApplication(ctx context.Context, target opscenter.Target, application string) error
}

// UpdateApplication makes a server look for an update of one of its applications, and apply it. The operating system and
// the other applications stay as they are. The server does not reboot. UpdateApplication returns when the server has
// accepted the request; polls find the result.
//
// Errors: opscenter.ErrNotFound; opscenter.ErrNotReady and opscenter.ErrBusy while another operation is under way;
// opscenter.ErrNotApplicable if the server has no such application, or its release can't; opscenter.ErrNotSetUp if the OS
// is no ApplicationUpdater; opscenter.ErrRefused; opscenter.ErrOutcomeUnknown.
func (m *Manager) UpdateApplication(ctx context.Context, server, application string) error {
	return m.options.Audit.Do(ctx, audit.Entry{Action: "system.update-application", Server: server, Object: application}, func(ctx context.Context) error {
		updater, ok := m.os.(ApplicationUpdater)
		if !ok {
			return fmt.Errorf("updates of one application: %w", opscenter.ErrNotSetUp)
		}
		var info *opscenter.ServerInfo
		err := m.registry.Read(ctx, func(s *opscenter.Snapshot) (err error) {
			if info, err = s.Server(server); err != nil {
				return err
			}
			return s.Free(info)
		})
		switch {
		case err != nil:
			return err
		case info.OnIncusOS() != nil:
			return info.OnIncusOS()
		case info.State.Status != lifecycle.StatusReady:
			return fmt.Errorf("server %q is %s: %w", server, info.State.Status, opscenter.ErrNotReady)
		case !slices.ContainsFunc(info.State.Versions.Applications, func(a lifecycle.ApplicationVersion) bool { return a.Name == application }):
			return fmt.Errorf("server %q has no application %.80q: %w", server, application, opscenter.ErrNotApplicable)
		}
		return updater.UpdateApplication(ctx, info.Target(), application)
	})
}
