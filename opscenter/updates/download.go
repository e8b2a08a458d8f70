package updates

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"time"
)

// maxRetryDelay bounds the time between two attempts.
const maxRetryDelay = time.Minute

// maxMismatches is how often a whole file that turns out to be another one is fetched anew.
const maxMismatches = 2

// copyBuffer is how much of a file is read at a time, and spaceStep how much is written between two looks at the disk.
const (
	copyBuffer = 256 << 10
	spaceStep  = 64 << 20
	// minProgress is how much an attempt must bring, or half of what is missing, to count as progress.
	minProgress = 1 << 20
)

// fetch gets a file from the source, unless it is here. It goes on where an earlier attempt ended, also that of another
// process. What it leaves here is whole, and has the sum that was described. It tells whether it was fetched.
func (m *Manager) fetch(ctx context.Context, source Source, u *Update, f *File) (bool, error) {
	defer m.hold(f.SHA256)()
	if m.has(ctx, f) {
		return false, nil
	}
	delay, fruitless, mismatches := m.options.RetryDelay, 0, 0
	for {
		progress, err := m.attempt(ctx, source, u, f)
		if err == nil {
			return true, nil
		}
		if progress {
			fruitless, delay = 0, m.options.RetryDelay
		}
		fruitless++
		if errors.Is(err, ErrMismatch) {
			mismatches++
		}
		if ctx.Err() != nil || fruitless >= m.options.MaxAttempts || mismatches > maxMismatches || errors.Is(err, ErrGone) || errors.Is(err, ErrDiskFull) || errors.Is(err, ErrRedirect) || errors.Is(err, errLocal) {
			return false, fmt.Errorf("file %s: %w", f.Filename, err)
		}
		m.log.InfoContext(ctx, "a file is tried again", "version", u.Version, "file", f.Filename, "after", delay, "error", err)
		timer := time.NewTimer(delay)
		select {
		case <-timer.C:
		case <-ctx.Done():
		}
		timer.Stop()
		delay = min(2*delay, maxRetryDelay)
	}
}

// errLocal: it is the control plane's own disk that fails.
var errLocal = errors.New("the file can't be kept")

// has reports whether a file is here, whole.
func (m *Manager) has(ctx context.Context, f *File) bool {
	file, err := m.files.Open(ctx, f.SHA256)
	if err != nil {
		return false // it is written anew, which tells what is wrong
	}
	defer file.Close()
	size, err := file.Seek(0, io.SeekEnd)
	return err == nil && size == f.Size
}

// attempt fetches what is missing of a file. It tells whether that was any.
func (m *Manager) attempt(ctx context.Context, source Source, u *Update, f *File) (progress bool, err error) {
	partial, err := m.files.Create(ctx, f.SHA256)
	if err != nil {
		return false, fmt.Errorf("%w: %w", errLocal, err)
	}
	defer func() { err = errors.Join(err, partial.Close()) }()
	sum := sha256.New()
	have, err := partial.Existing(sum)
	if err != nil {
		return false, fmt.Errorf("%w: %w", errLocal, err)
	}
	begin := func() error {
		sum.Reset()
		have = 0
		if err := partial.Reset(); err != nil {
			return fmt.Errorf("%w: %w", errLocal, err)
		}
		return nil
	}
	if have > f.Size {
		if err := begin(); err != nil {
			return false, err
		}
	}
	if have < f.Size {
		if err := m.checkSpace(ctx, f.Size-have); err != nil {
			return false, err
		}
		body, begins, err := source.Open(ctx, u, f, have)
		if err != nil {
			return false, err
		}
		defer body.Close()
		if begins != have {
			if begins != 0 {
				return false, fmt.Errorf("it goes on at %d, and %d was asked for: %w", begins, have, ErrMismatch)
			}
			if err := begin(); err != nil {
				return false, err
			}
		}
		left := f.Size - have
		written, err := m.copy(ctx, partial, sum, body, left)
		have += written
		enough := written >= minProgress || written >= left/2 // a byte at a time is no progress
		m.progress.change(func(p *Progress) { p.BytesDone += written })
		switch {
		case err == io.EOF:
			return enough, fmt.Errorf("it ends after %d of %d bytes: %w", have, f.Size, io.ErrUnexpectedEOF)
		case err != nil:
			return enough, err
		}
	}
	if got := hex.EncodeToString(sum.Sum(nil)); got != f.SHA256 {
		return false, errors.Join(fmt.Errorf("its sha256 is %s, %s was described: %w", got, f.SHA256, ErrMismatch), begin())
	}
	if err := partial.Commit(); err != nil {
		return false, fmt.Errorf("%w: %w", errLocal, err)
	}
	return true, nil
}

// copy copies n bytes to a file, and to its sum. It returns io.EOF if there are fewer.
func (m *Manager) copy(ctx context.Context, to io.Writer, sum hash.Hash, from io.Reader, n int64) (written int64, err error) {
	buffer := make([]byte, min(copyBuffer, n))
	for unchecked := int64(0); written < n; {
		if err := ctx.Err(); err != nil {
			return written, err
		}
		got, err := from.Read(buffer[:min(int64(len(buffer)), n-written)])
		if got > 0 {
			if _, failure := to.Write(buffer[:got]); failure != nil {
				return written, fmt.Errorf("%w: %w", errLocal, failure)
			}
			_, _ = sum.Write(buffer[:got])
			written += int64(got)
			if unchecked += int64(got); unchecked >= spaceStep {
				unchecked = 0
				if err := m.checkSpace(ctx, n-written); err != nil {
					return written, err
				}
			}
		}
		if err != nil && written < n {
			return written, err
		}
	}
	return written, nil
}

// checkSpace returns ErrDiskFull unless there is room for so many bytes, and Options.Reserve besides.
func (m *Manager) checkSpace(ctx context.Context, need int64) error {
	space, ok := m.files.(Space)
	if !ok {
		return nil
	}
	free, total, err := space.Space(ctx)
	if errors.Is(err, errors.ErrUnsupported) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("the free space: %w", err)
	}
	if reserve := int64(float64(total) * m.options.Reserve); free-reserve < need {
		return fmt.Errorf("%d MiB are wanted, %d MiB are free of which %d MiB are to stay so: %w", need>>20, free>>20, reserve>>20, ErrDiskFull)
	}
	return nil
}
