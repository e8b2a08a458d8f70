package rollout

import (
	"context"
	"fmt"
	"time"

	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/storage"
)

// leaseKey: one controller carries out all rollouts of a store.
const leaseKey = "rollouts"

// acquire takes the lease, unless another Manager holds it, and returns its epoch. Epoch 0: another Manager holds it, at
// least until that time.
func (m *Manager) acquire(ctx context.Context) (epoch uint64, until time.Time, err error) {
	err = m.registry.Write(ctx, func(tx *opscenter.Tx) error {
		epoch, until = 0, time.Time{}
		l, err := leases.Find(tx, storage.StringKey(leaseKey))
		if err != nil {
			return err
		}
		next := lease{Name: leaseKey, Holder: m.holder, Epoch: 1, Expires: tx.Now().Add(m.options.Lease), Term: m.options.Lease}
		if l != nil {
			// A lease with more than its full term left was given by a clock that was ahead. It does not count.
			if held := l.Expires.Sub(tx.Now()); l.Holder != "" && l.Holder != m.holder && held > 0 && held <= l.Term {
				until = l.Expires
				return nil
			}
			next.Epoch = l.Epoch + 1
		}
		epoch = next.Epoch
		return leases.Put(tx, &next)
	})
	return epoch, until, err
}

// held returns errLease unless this Manager holds the lease with that epoch.
func (m *Manager) held(tx storage.ReadTx, epoch uint64) error {
	l, err := leases.Find(tx, storage.StringKey(leaseKey))
	if err != nil {
		return err
	}
	if l == nil || l.Holder != m.holder || l.Epoch != epoch {
		return errLease
	}
	return nil
}

// renew prolongs the lease.
func (m *Manager) renew(ctx context.Context, epoch uint64) error {
	return m.registry.Write(ctx, func(tx *opscenter.Tx) error {
		if err := m.held(tx, epoch); err != nil {
			return err
		}
		return leases.Put(tx, &lease{Name: leaseKey, Holder: m.holder, Epoch: epoch, Expires: tx.Now().Add(m.options.Lease), Term: m.options.Lease})
	})
}

// release gives the lease back.
func (m *Manager) release(ctx context.Context, epoch uint64) error {
	err := m.registry.Write(ctx, func(tx *opscenter.Tx) error {
		if err := m.held(tx, epoch); err != nil {
			return err
		}
		return leases.Put(tx, &lease{Name: leaseKey, Epoch: epoch})
	})
	if err != nil {
		return fmt.Errorf("giving back the lease: %w", err)
	}
	return nil
}
