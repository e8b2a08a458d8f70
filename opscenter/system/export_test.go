package system

import (
	"context"
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

// PutBackWithin returns the options with another time limit for the settings of one server.
func (o Options) PutBackWithin(d time.Duration) Options {
	o.putBackTimeout = d
	return o
}
