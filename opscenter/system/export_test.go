package system

import (
	"context"
	"fmt"
	"time"

	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/storage"
)

// Told returns the number of stored rows of managed update settings.
func (m *Manager) Told(ctx context.Context) (n int, err error) {
	err = m.registry.Read(ctx, func(s *opscenter.Snapshot) error {
		n = 0
		for _, err := range managed.Scan(s, storage.Range{}) {
			if err != nil {
				return err
			}
			n++
		}
		return nil
	})
	return n, err
}

// Tell stores rows of managed update settings for n servers that do not exist.
func (m *Manager) Tell(ctx context.Context, n int) error {
	for i := range n {
		err := m.registry.Write(ctx, func(tx *opscenter.Tx) error {
			return managed.Put(tx, &managedRow{ServerID: fmt.Sprint("removed ", i)})
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// PutBackWithin returns the options with another time limit for the settings of one server.
func (o Options) PutBackWithin(d time.Duration) Options {
	o.putBackTimeout = d
	return o
}
