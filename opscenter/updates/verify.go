package updates

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"

	"github.com/opscenter-go/sdk/opscenter/warning"
)

// Verify reads the files of all ready updates, and checks their sums. A file that is missing, or is another than was described, as on a disk
// that fails, is an ErrMismatch: its update goes back to pending, and the file is fetched anew by the next refresh, or is
// uploaded anew. A file that can't be read for another reason is an error alone. Each is named in opscenter.WarningUpdates. Run calls
// Verify at each Options.VerifyInterval.
func (m *Manager) Verify(ctx context.Context) error {
	err := m.verifyAll(ctx)
	if err != nil && ctx.Err() == nil {
		err = errors.Join(err, m.warn(ctx, warning.Updates, cut(err.Error())))
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
				problems = append(problems, m.spoilt(ctx, f.SHA256, problem.Error()))
			}
		}
	}
	return errors.Join(problems...)
}

// verify reads a file. It is an ErrMismatch only if the file is known to be another, or missing: what keeps this process from
// reading says nothing of the file.
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

// interruptible reads until a context ends.
type interruptible struct {
	ctx context.Context
	io.Reader
}

func (r interruptible) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.Reader.Read(p)
}

// spoilt removes a file, and takes all updates that have it back to pending. The file goes first: a crash between the two is found at the
// next start.
func (m *Manager) spoilt(ctx context.Context, sum, problem string) error {
	defer m.hold(sum)() // no refresh takes it for whole meanwhile
	if err := m.files.Remove(ctx, sum); err != nil {
		return err
	}
	return m.change(ctx, "a file of an update is damaged", func(c *changing) error {
		for _, u := range c.list() {
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
}
