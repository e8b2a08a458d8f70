package updates

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"

	"github.com/opscenter-go/sdk/internal/truncate"
	"github.com/opscenter-go/sdk/opscenter/warning"
)

// Verify reads all files of ready updates and checks their sums. A missing or different file, as on a failing disk, is an
// ErrMismatch. Verify removes that file and makes its updates pending; the next refresh or an upload restores the file.
// A file that can't be read for another reason is reported but kept. Verify names each problem in
// warning.Updates. Run calls Verify every Options.VerifyInterval.
func (m *Manager) Verify(ctx context.Context) error {
	err := m.verifyAll(ctx)
	if err != nil && ctx.Err() == nil {
		err = errors.Join(err, m.warn(ctx, warning.Updates, truncate.Text(err.Error(), maxProblem)))
	}
	return err
}

func (m *Manager) verifyAll(ctx context.Context) error {
	var problems []error
	seen := map[string]bool{}
	for _, u := range m.Snapshot().Updates() {
		if u.Status != StatusReady {
			continue
		}
		for i := range u.Files {
			f := &u.Files[i]
			if seen[f.SHA256] {
				continue
			}
			seen[f.SHA256] = true
			err := m.verify(ctx, f)
			if ctx.Err() != nil {
				return errors.Join(append(problems, ctx.Err())...)
			}
			if err == nil {
				continue
			}
			problem := fmt.Errorf("update %s, file %s: %w", u.Version, f.Filename, err)
			problems = append(problems, problem)
			if errors.Is(err, ErrMismatch) {
				problems = append(problems, m.discardDamaged(ctx, f.SHA256, problem.Error()))
			}
		}
	}
	return errors.Join(problems...)
}

// verify reads a file and checks its sum. It returns ErrMismatch only if the file is missing or differs. Other errors,
// such as too many open files, say nothing about the file.
func (m *Manager) verify(ctx context.Context, f *File) error {
	file, err := m.files.Open(ctx, f.SHA256)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: %w", ErrMismatch, err)
	}
	if err != nil {
		return err
	}
	defer file.Close()
	sum := sha256.New()
	n, err := io.CopyBuffer(sum, interruptible{ctx, file}, make([]byte, copyBuffer))
	switch {
	case err != nil:
		return fmt.Errorf("after %d of %d bytes: %w", n, f.Size, err)
	case n != f.Size || hex.EncodeToString(sum.Sum(nil)) != f.SHA256:
		return ErrMismatch
	}
	return nil
}

// interruptible is a reader that fails once its context ends.
type interruptible struct {
	ctx context.Context
	io.Reader
}

// Read implements io.Reader.
func (r interruptible) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.Reader.Read(p)
}

// discardDamaged removes a file and makes all updates that contain it pending. It removes the file first, so that after a
// crash between the two steps the next start finds it missing.
func (m *Manager) discardDamaged(ctx context.Context, sum, problem string) error {
	defer m.lockFile(sum)() // a concurrent refresh must not use the damaged file
	if err := m.files.Remove(ctx, sum); err != nil {
		return err
	}
	return m.change(ctx, "a file of an update is damaged", func(c *changeSet) error {
		for _, u := range c.list() {
			for i := range u.Files {
				if u.Status == StatusReady && u.Files[i].SHA256 == sum {
					back := *u
					back.Status, back.Problem = StatusPending, truncate.Text(problem, maxProblem)
					c.put(back)
					break
				}
			}
		}
		return nil
	})
}
