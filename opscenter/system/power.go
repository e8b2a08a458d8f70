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

// PowerOptions of a reboot, a power off or a suspend.
type PowerOptions struct {
	// Force does it although the server is not ready, or another operation is under way on it
	// or its cluster.
	Force bool
}

// Reboot reboots a server. It returns when the server has accepted that; polls see it through.
// For the rules of a rolling update, see package rollout. Errors: opscenter.ErrNotFound;
// opscenter.ErrNotReady and opscenter.ErrBusy while another operation is under way, unless
// forced; opscenter.ErrNotApplicable if it is not on IncusOS; opscenter.ErrRefused;
// opscenter.ErrOutcomeUnknown: polls find out.
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

func (m *Manager) power(ctx context.Context, name string, action lifecycle.Action, options PowerOptions) error {
	return m.options.Audit.Do(ctx, audit.Entry{Action: "system." + string(action), Server: name}, func(ctx context.Context) error {
		if err := m.unconfirmed(ctx, name); err != nil {
			return err
		}
		return m.planner.ActOn(ctx, opscenter.Intent{Server: name, Action: action, Force: options.Force})
	})
}

// unconfirmed refuses, whoever forces it, what would make a change of the network final that is
// not confirmed: a server that boots keeps the configuration it has.
func (m *Manager) unconfirmed(ctx context.Context, name string) error {
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
				return fmt.Errorf("server %q: a change of its network waits for its confirmation, and would be final: %w", name, opscenter.ErrBusy)
			}
		}
		return nil
	})
}

// ResetOptions of a factory reset. The zero value brings the server back with the network it has.
type ResetOptions struct {
	// Token is the one that admits the server again. Default: one of its own, for one use, that
	// expires after Options.ResetTimeout.
	Token string
	// TokenSeed is the name of a seed of Token whose files are sent.
	TokenSeed string
	// Seeds are files of a seed, by their names (package seed), which go before those of TokenSeed. An install seed, with which the server
	// would boot as an installer, is refused, and left out of TokenSeed. What is needed for the server to come
	// back as what it was is made where neither gives it: its applications, incus without its defaults, its update
	// settings, its network, and the provider always.
	Seeds map[string]json.RawMessage
	// ForgetNetwork leaves out the seed that gives the server the network configuration it has:
	// it asks DHCP then.
	ForgetNetwork bool
	// WipeExistingSeeds removes those of its installation.
	WipeExistingSeeds bool
	// AllowTPMResetFailure goes on if its TPM can't be reset.
	AllowTPMResetFailure bool
	// Force does it although the server is a member of a cluster, is not ready, or another
	// operation is under way.
	Force bool
}

// reset is a factory reset under way.
type reset struct {
	ServerID  string
	Operation string
	// Token is its UUID, a secret; Own: it was made for this.
	Token    string
	Own      bool
	Deadline time.Time
	Audit    string
	// Fingerprint of the server before.
	Fingerprint string
	// Allowed: another certificate was accepted before, too.
	Allowed bool
}

// FactoryReset sends a server back to where its installation left it: all that it holds is
// lost. It comes back, registers with a fresh token that is good for that alone, and is the
// same record with another certificate. FactoryReset returns when the server was asked: it
// does not answer. Run takes the token, and the leave to register anew, back if it does not
// come in time, or comes back as it was.
//
// Errors: opscenter.ErrNotSetUp without a Provider; ErrInvalid for a seed that a server would not read, and
// opscenter.ErrNotFound if TokenSeed does not exist; opscenter.ErrBlocked, unless forced, if the update feed lacks an application that the
// server would wait for;
// opscenter.ErrNotApplicable if it is not on IncusOS; opscenter.ErrClustered;
// opscenter.ErrNotReady and opscenter.ErrBusy; opscenter.ErrRefused, opscenter.ErrUnreachable:
// then all is as it was.
func (m *Manager) FactoryReset(ctx context.Context, name string, options ResetOptions) error {
	return m.options.Audit.Do(ctx, audit.Entry{Action: "system.factory-reset", Server: name}, func(ctx context.Context) error {
		return m.reset(ctx, name, options)
	})
}

func (m *Manager) reset(ctx context.Context, name string, options ResetOptions) error {
	if m.options.Provider.ServerURL == "" {
		return fmt.Errorf("Provider.ServerURL is missing: the server would not find its way back: %w: %w", opscenter.ErrNotSetUp, opscenter.ErrInvalidOptions)
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
	if err := m.unconfirmed(ctx, name); err != nil {
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
	r := reset{ServerID: info.ID, Operation: uuid.NewString(), Fingerprint: info.Fingerprint, Deadline: now().Add(m.options.ResetTimeout), Audit: audit.ID(ctx)}
	target := info.Target()
	err = m.registry.Write(ctx, func(tx *opscenter.Tx) error {
		_, info, err := tx.Begin(opscenter.Intent{ServerID: info.ID, ID: r.Operation, Action: lifecycle.ActionFactoryReset, Force: options.Force, Timeout: m.options.ResetTimeout})
		if err != nil {
			return err
		}
		if r.Token = options.Token; r.Token == "" {
			token, err := tx.CreateToken(opscenter.TokenSpec{Description: "factory reset of " + info.Name, Uses: 1, ExpireAt: r.Deadline, Channel: info.Channel})
			if err != nil {
				return err
			}
			r.Token, r.Own = token.UUID, true
		} else if err := tx.Snapshot().UsableUntil(r.Token, r.Deadline); err != nil {
			return fmt.Errorf("the given token, which is wanted until %s: %w", r.Deadline.Format(time.RFC3339), err)
		}
		r.Allowed = info.ReinstallAllowed
		old, err := resets.Find(tx, storage.StringKey(info.ID))
		if err != nil {
			return err
		}
		if old != nil { // forced: this one takes its place
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
	defer m.registry.Acted(info.ID)
	body, err := m.resetBody(seeds, r.Token, options)
	if err == nil {
		err = m.os.FactoryReset(ctx, target, body)
	}
	if err == nil || errors.Is(err, opscenter.ErrOutcomeUnknown) {
		audit.Later(ctx)
		return nil // gone before it could answer: its registration tells
	}
	// A server may repeat what it was sent.
	err = &scrubbedError{err, scrubbed(err.Error(), append(jsonsecret.Values(body, facts.IsSecretName), r.Token))}
	why := err
	return errors.Join(err, m.endReset(context.WithoutCancel(ctx), &r, func(*opscenter.ServerInfo, *reset) (bool, error) { return true, why }))
}

// scrubbedError is an error whose text holds no secrets.
type scrubbedError struct {
	kind error
	text string
}

func (e *scrubbedError) Error() string { return e.text }

// Is makes it the same as what it is of; its text is not to be had of it.
func (e *scrubbedError) Is(target error) bool { return errors.Is(e.kind, target) }

// versioned adds to an object what each seed has.
func versioned(object json.RawMessage) (json.RawMessage, error) {
	var all map[string]json.RawMessage
	if err := json.Unmarshal(object, &all); err != nil {
		return nil, err
	}
	delete(all, "confirmation_timeout")
	all["version"] = json.RawMessage(`"1"`)
	return json.Marshal(all)
}

func (m *Manager) resetBody(seeds map[string]json.RawMessage, token string, options ResetOptions) ([]byte, error) {
	provider, err := json.Marshal(seed.OperationsCenterProvider(m.options.Provider.ServerURL, token, m.options.Provider.Certificate))
	if err != nil {
		return nil, err
	}
	seeds["provider"] = provider
	return json.Marshal(map[string]any{"allow_tpm_reset_failure": options.AllowTPMResetFailure, "wipe_existing_seeds": options.WipeExistingSeeds, "seeds": seeds})
}

// endReset ends a factory reset, if judge says so of what is stored by then: with a failure, or
// without, if the server is back.
func (m *Manager) endReset(ctx context.Context, r *reset, judge func(*opscenter.ServerInfo, *reset) (over bool, failure error)) error {
	return m.registry.Write(ctx, func(tx *opscenter.Tx) error {
		row, err := resets.Find(tx, storage.StringKey(r.ServerID))
		if err != nil || row == nil || row.Operation != r.Operation {
			return err // another has taken its place
		}
		server, err := tx.Snapshot().ServerByID(r.ServerID)
		if errors.Is(err, opscenter.ErrNotFound) {
			return m.forgetReset(tx, row, err)
		}
		if err != nil {
			return err
		}
		over, failure := judge(server, row)
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

// forgetReset removes a factory reset, and its token.
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

// errNotBack: a factory reset has failed.
var errNotBack = errors.New("the server has not registered again")

// judgeReset says whether a factory reset is over, and why it has failed, if it has.
func judgeReset(info *opscenter.ServerInfo, r *reset) (over bool, failure error) {
	switch {
	case info.Fingerprint != r.Fingerprint: // it has registered
		return true, nil
	case info.State.Operation == nil || info.State.Operation.ID != r.Operation:
		if last := info.State.LastOperation; last != nil && last.ID == r.Operation && last.Failed != "" {
			return true, fmt.Errorf("%w: %s", errNotBack, last.Failed)
		}
		return true, errNotBack
	}
	return !now().Before(r.Deadline), errNotBack
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
				if over, _ := judgeReset(info, r); !over {
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
