package updates

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"

	"github.com/opscenter-go/sdk/opscenter"
)

// Verify reads the files of all ready updates, and checks their sums. Each that is another than was described, as on a disk
// that fails, is an ErrMismatch, with opscenter.WarningUpdates: its update goes back to pending, and its file is fetched anew by the next
// refresh, or is uploaded anew. Run does so at each Options.VerifyInterval.
func (m *Manager) Verify(ctx context.Context) error {
	err := m.verifyAll(ctx)
	if err != nil && ctx.Err() == nil {
		err = errors.Join(err, m.warn(ctx, opscenter.WarningUpdates, cut(err.Error())))
	}
	return err
}

func (m *Manager) verifyAll(ctx context.Context) error {
	var problems []error
	seen := map[string]error{}
	for _, u := range m.Snapshot().Updates() {
		if u.Status != StatusReady {
			continue
		}
		for i := range u.Files {
			f := &u.Files[i]
			err, ok := seen[f.SHA256]
			if !ok {
				err = m.verify(ctx, f)
				seen[f.SHA256] = err
			}
			if ctx.Err() != nil {
				return errors.Join(append(problems, ctx.Err())...)
			}
			if err == nil {
				continue
			}
			problem := fmt.Errorf("update %s, file %s: %w", u.Version, f.Filename, err)
			problems = append(problems, problem, m.spoilt(ctx, f.SHA256, problem.Error()))
			break
		}
	}
	return errors.Join(problems...)
}

func (m *Manager) verify(ctx context.Context, f *File) error {
	file, err := m.files.Open(ctx, f.SHA256)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrMismatch, err)
	}
	defer file.Close()
	sum := sha256.New()
	n, err := m.copy(ctx, io.Discard, sum, file, f.Size)
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case err != nil:
		return fmt.Errorf("after %d of %d bytes: %w: %w", n, f.Size, ErrMismatch, err)
	case hex.EncodeToString(sum.Sum(nil)) != f.SHA256:
		return ErrMismatch
	}
	return nil
}

// spoilt takes an update back to pending, and removes its file.
func (m *Manager) spoilt(ctx context.Context, sum, problem string) error {
	defer m.hold(sum)() // no refresh takes it for whole meanwhile
	err := m.change(ctx, "a file of an update is damaged", func(c *changing) error {
		for _, u := range c.list() { // all that have it
			for i := range u.Files {
				if u.Status == StatusReady && u.Files[i].SHA256 == sum {
					back := *u
					back.Status, back.Problem = StatusPending, cut(problem)
					c.put(back)
					break
				}
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	return m.files.Remove(ctx, sum)
}
