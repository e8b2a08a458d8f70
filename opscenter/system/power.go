package system

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/opscenter-go/sdk/internal/jsonsecret"
	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/audit"
	"github.com/opscenter-go/sdk/opscenter/internal/facts"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
	"github.com/opscenter-go/sdk/opscenter/seed"
	"github.com/opscenter-go/sdk/storage"
)

// PowerOptions are the options of Reboot, PowerOff and Suspend.
type PowerOptions struct {
	// Force allows the action although the server is not ready, or another operation is under way on the server
	// or its cluster.
	Force bool
}

// Reboot reboots a server. It returns when the server has accepted the request; polls find the end of the reboot.
// Package rollout reboots servers under the rules of a rolling update.
//
// Errors: opscenter.ErrNotFound; opscenter.ErrNotReady and opscenter.ErrBusy while another operation is under way, unless
// forced; opscenter.ErrBusy, even if forced, while a network change is not confirmed; opscenter.ErrNotApplicable if
// the server does not run IncusOS; opscenter.ErrRefused; opscenter.ErrOutcomeUnknown, after which polls find the outcome.
func (m *Manager) Reboot(ctx context.Context, name string, options PowerOptions) error {
	return m.power(ctx, name, lifecycle.ActionReboot, options)
}

// PowerOff shuts a server down. Errors are those of Reboot.
func (m *Manager) PowerOff(ctx context.Context, name string, options PowerOptions) error {
	return m.power(ctx, name, lifecycle.ActionPowerOff, options)
}

// Suspend suspends a server to memory. Errors are those of Reboot.
func (m *Manager) Suspend(ctx context.Context, name string, options PowerOptions) error {
	return m.power(ctx, name, lifecycle.ActionSuspend, options)
}

// power carries out an action within an audit entry.
func (m *Manager) power(ctx context.Context, name string, action lifecycle.Action, options PowerOptions) error {
	return m.options.Audit.Do(ctx, audit.Entry{Action: "system." + string(action), Server: name}, func(ctx context.Context) error {
		if err := m.refuseWhilePending(ctx, name); err != nil {
			return err
		}
		return m.planner.ActOn(ctx, opscenter.Intent{Server: name, Action: action, Force: options.Force})
	})
}

// refuseWhilePending returns opscenter.ErrBusy while a network change of the server is open. A boot makes an
// unconfirmed change final: the server keeps the configuration it has. So even a forced action must not boot it.
func (m *Manager) refuseWhilePending(ctx context.Context, name string) error {
	return m.registry.Read(ctx, func(s *opscenter.Snapshot) error {
		info, err := s.Server(name)
		if err != nil {
			return err
		}
		for row, err := range changesByEnd.Scan(s, storage.Range{Prefix: storage.UintKey(0)}) {
			if err != nil {
				return err
			}
			if row.Change.ServerID == info.ID && row.Change.Section == "network" {
				return fmt.Errorf("server %q: a network change is not confirmed, and a boot would make it final: %w", name, opscenter.ErrBusy)
			}
		}
		return nil
	})
}

// ResetOptions are the options of FactoryReset. The zero value brings the server back with the network it has.
type ResetOptions struct {
	// Token is the UUID of the token that admits the server again. Default: a new token for one use, which
	// expires after Options.ResetTimeout.
	Token string
	// TokenSeed is the name of a seed of Token. Its files are sent.
	TokenSeed string
	// Seeds are seed files by their names, see package seed. They replace files of TokenSeed. An install seed would make
	// the server boot as an installer: here it is ErrInvalid, and in TokenSeed it is left out.
	//
	// FactoryReset adds the files that bring the server back as it was, where neither gives them: its applications,
	// incus without defaults, its update settings and its network. It always sets the provider.
	Seeds map[string]json.RawMessage
	// ForgetNetwork leaves out the seed with the current network configuration. The server then uses DHCP.
	ForgetNetwork bool
	// WipeExistingSeeds removes the seeds of the server's installation.
	WipeExistingSeeds bool
	// AllowTPMResetFailure lets the reset go on if the TPM can't be reset.
	AllowTPMResetFailure bool
	// Force allows the reset although the server is a member of a cluster, is not ready, or another
	// operation is under way.
	Force bool
}

// reset is a factory reset under way.
type reset struct {
	ServerID  string
	Operation string
	// Token is the UUID of the token, a secret. Own: FactoryReset created the token.
	Token    string
	Own      bool
	Deadline time.Time
	Audit    string
	// Fingerprint of the server's certificate before the reset.
	Fingerprint string
	// Allowed: the operator had allowed a reinstallation before the reset.
	Allowed bool
}

// FactoryReset resets a server to the state after its installation: all its data is lost. The server comes back, and
// registers with a token for this purpose. Its record stays the same, with the new certificate.
//
// FactoryReset returns when the server was asked, because the server does not answer. Run ends the reset. The
// reset fails if the server does not register in time, or comes back with its old certificate. Then Run revokes the
// token, and the permission to register with another certificate.
//
// Errors, after which all is as before: opscenter.ErrNotSetUp without a Provider; ErrInvalid for a seed that a server
// can't read; opscenter.ErrNotFound if the server or TokenSeed does not exist; opscenter.ErrBlocked, unless
// forced, if the update feed lacks an application for which the server would wait; opscenter.ErrNotApplicable if the
// server does not run IncusOS; opscenter.ErrClustered; opscenter.ErrNotReady and opscenter.ErrBusy; opscenter.ErrRefused;
// ErrFailed; opscenter.ErrUnreachable.
func (m *Manager) FactoryReset(ctx context.Context, name string, options ResetOptions) error {
	return m.options.Audit.Do(ctx, audit.Entry{Action: "system.factory-reset", Server: name}, func(ctx context.Context) error {
		return m.reset(ctx, name, options)
	})
}

func (m *Manager) reset(ctx context.Context, name string, options ResetOptions) error {
	if m.options.Provider.ServerURL == "" {
		return fmt.Errorf("Provider.ServerURL is missing: the server could not register again: %w: %w", opscenter.ErrNotSetUp, opscenter.ErrInvalidOptions)
	}
	info, err := m.registry.Server(ctx, name)
	if err != nil {
		return err
	}
	if err := info.OnIncusOS(); err != nil {
		return err
	}
	if info.Cluster != "" && !options.Force {
		return fmt.Errorf("server %q: %w (%s)", name, opscenter.ErrClustered, info.Cluster)
	}
	seeds, err := m.resetSeeds(ctx, info, options)
	if err != nil {
		return err
	}
	if err := m.refuseWhilePending(ctx, name); err != nil {
		return err
	}
	if _, given := seeds["network"]; !given && !options.ForgetNetwork {
		current, err := m.readNetwork(ctx, info)
		if err != nil {
			return err
		}
		if seeds["network"], err = versioned(current.raw); err != nil {
			return err
		}
	}
	r := reset{ServerID: info.ID, Operation: uuid.NewString(), Fingerprint: info.Fingerprint, Audit: audit.ID(ctx)}
	target := info.Target()
	err = m.registry.Write(ctx, func(tx *opscenter.Tx) error {
		_, info, err := tx.Begin(opscenter.Intent{ServerID: info.ID, ID: r.Operation, Action: lifecycle.ActionFactoryReset, Force: options.Force, Timeout: m.options.ResetTimeout})
		if err != nil {
			return err
		}
		r.Deadline = tx.Now().Add(m.options.ResetTimeout)
		if r.Token = options.Token; r.Token == "" {
			token, err := tx.CreateToken(opscenter.TokenSpec{Description: "factory reset of " + info.Name, Uses: 1, ExpireAt: r.Deadline, Channel: info.Channel})
			if err != nil {
				return err
			}
			r.Token, r.Own = token.UUID, true
		} else if err := tx.Snapshot().UsableUntil(r.Token, r.Deadline); err != nil {
			return fmt.Errorf("the given token must be usable until %s: %w", r.Deadline.Format(time.RFC3339), err)
		}
		r.Allowed = info.ReinstallAllowed
		old, err := resets.Find(tx, storage.StringKey(info.ID))
		if err != nil {
			return err
		}
		if old != nil { // forced: the new reset replaces the old one
			r.Allowed = old.Allowed
			if err := m.forgetReset(tx, old, errNotBack); err != nil {
				return err
			}
		}
		if err := tx.AllowReinstall(info, true, "for its factory reset"); err != nil {
			return err
		}
		row := r
		return resets.Put(tx, &row)
	})
	if err != nil {
		return err
	}
	defer m.registry.Observer().Acted(info.ID)
	body, err := m.resetBody(seeds, r.Token, options)
	if err == nil {
		err = m.os.FactoryReset(ctx, target, body)
	}
	if err == nil || errors.Is(err, opscenter.ErrOutcomeUnknown) {
		audit.Later(ctx)
		return nil // the server resets before it answers; its registration ends the reset
	}
	// A server may repeat the request, with its secrets, in an error.
	err = &scrubbedError{err, scrubbed(err.Error(), append(jsonsecret.Values(body, facts.IsSecretName), r.Token))}
	failure := err
	return errors.Join(err, m.endReset(context.WithoutCancel(ctx), &r, func(*opscenter.ServerInfo, *reset, time.Time) (bool, error) { return true, failure }))
}

// scrubbedError is an error whose text holds no secrets.
type scrubbedError struct {
	kind error
	text string
}

func (e *scrubbedError) Error() string { return e.text }

// Is matches the original error. There is no Unwrap, because the original text has secrets.
func (e *scrubbedError) Is(target error) bool { return errors.Is(e.kind, target) }

// versioned turns a configuration into a seed: it adds the version.
func versioned(object json.RawMessage) (json.RawMessage, error) {
	var all map[string]json.RawMessage
	if err := json.Unmarshal(object, &all); err != nil {
		return nil, err
	}
	delete(all, "confirmation_timeout")
	all["version"] = json.RawMessage(`"1"`)
	return json.Marshal(all)
}

// resetBody returns the body of the request, with the provider seed.
func (m *Manager) resetBody(seeds map[string]json.RawMessage, token string, options ResetOptions) ([]byte, error) {
	provider, err := json.Marshal(seed.OperationsCenterProvider(m.options.Provider.ServerURL, token, m.options.Provider.Certificate))
	if err != nil {
		return nil, err
	}
	seeds["provider"] = provider
	return json.Marshal(map[string]any{"allow_tpm_reset_failure": options.AllowTPMResetFailure, "wipe_existing_seeds": options.WipeExistingSeeds, "seeds": seeds})
}

// endReset ends a factory reset if judge, called with the stored rows and the time, returns over. A nil failure: the server is back.
func (m *Manager) endReset(ctx context.Context, r *reset, judge func(*opscenter.ServerInfo, *reset, time.Time) (over bool, failure error)) error {
	return m.registry.Write(ctx, func(tx *opscenter.Tx) error {
		row, err := resets.Find(tx, storage.StringKey(r.ServerID))
		if err != nil || row == nil || row.Operation != r.Operation {
			return err // another reset has replaced it
		}
		server, err := tx.Snapshot().ServerByID(r.ServerID)
		if errors.Is(err, opscenter.ErrNotFound) {
			return m.forgetReset(tx, row, err)
		}
		if err != nil {
			return err
		}
		over, failure := judge(server, row, tx.Now())
		if !over {
			return nil
		}
		if err := m.forgetReset(tx, row, failure); err != nil || failure == nil {
			return err
		}
		if err := tx.AllowReinstall(server, row.Allowed, "its factory reset has failed"); err != nil {
			return err
		}
		return tx.End(server, row.Operation, failure)
	})
}

// forgetReset removes the row of a factory reset and its token, and ends its audit entry.
func (m *Manager) forgetReset(tx *opscenter.Tx, r *reset, failure error) error {
	if err := resets.Delete(tx, storage.StringKey(r.ServerID)); err != nil {
		return err
	}
	if r.Own {
		if err := tx.RevokeToken(r.Token); err != nil {
			return err
		}
	}
	return m.options.Audit.EndIn(tx, r.Audit, failure)
}

// errNotBack is the failure of a factory reset whose server did not come back in time.
var errNotBack = errors.New("the server has not registered again")

// judgeReset reports whether a factory reset is over. failure is the reason if the reset failed.
func judgeReset(info *opscenter.ServerInfo, r *reset, at time.Time) (over bool, failure error) {
	switch {
	case info.Fingerprint != r.Fingerprint: // the server has registered with its new certificate
		return true, nil
	case info.State.Operation == nil || info.State.Operation.ID != r.Operation:
		if last := info.State.LastOperation; last != nil && last.ID == r.Operation && last.Failed != "" {
			return true, fmt.Errorf("%w: %s", errNotBack, last.Failed)
		}
		return true, errNotBack
	}
	return !at.Before(r.Deadline), errNotBack
}

// checkResets ends the factory resets that are over.
func (m *Manager) checkResets(ctx context.Context) error {
	var list []*reset
	err := m.registry.Read(ctx, func(s *opscenter.Snapshot) error {
		list = nil
		for r, err := range resets.Scan(s, storage.Range{}) {
			if err != nil {
				return err
			}
			info, err := s.ServerByID(r.ServerID)
			if err != nil && !errors.Is(err, opscenter.ErrNotFound) {
				return err
			}
			if err == nil {
				if over, _ := judgeReset(info, r, m.now()); !over {
					continue
				}
			}
			list = append(list, r)
		}
		return nil
	})
	for _, r := range list {
		err = errors.Join(err, m.endReset(ctx, r, judgeReset))
	}
	return err
}
