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

// maxRetryDelay bounds the delay between two attempts.
const maxRetryDelay = time.Minute

// maxMismatches bounds how often a file with a wrong sum is fetched again from the start.
const maxMismatches = 2

const (
	// copyBuffer is the number of bytes that are copied at a time.
	copyBuffer = 256 << 10
	// spaceStep is the number of bytes that are written between two checks of the free space.
	spaceStep = 64 << 20
	// minProgress is the number of bytes that an attempt must fetch to count as progress. Half of the missing bytes
	// also count.
	minProgress = 1 << 20
)

// fetch fetches a file from the source unless it is stored. It resumes an earlier attempt, also one of another process. It
// stores only a complete file with the described sum. It reports whether it fetched the file.
func (m *Manager) fetch(ctx context.Context, source Source, u *Update, f *File) (bool, error) {
	defer m.lockFile(f.SHA256)()
	if m.has(ctx, f) {
		return false, nil
	}
	delay, fruitless, mismatches := m.options.RetryDelay, 0, 0
	for {
		progress, err := m.fetchOnce(ctx, source, u, f)
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
		m.log.InfoContext(ctx, "fetching a file failed and is retried", "version", u.Version, "file", f.Filename, "after", delay, "error", err)
		timer := time.NewTimer(delay)
		select {
		case <-timer.C:
		case <-ctx.Done():
		}
		timer.Stop()
		delay = min(2*delay, maxRetryDelay)
	}
}

// errLocal: writing to the control plane's own Files failed, so that a retry of the source is useless.
var errLocal = errors.New("the file can't be stored")

// has reports whether the complete file is stored, by its size.
func (m *Manager) has(ctx context.Context, f *File) bool {
	file, err := m.files.Open(ctx, f.SHA256)
	if err != nil {
		return false // writing the file again reports the cause
	}
	defer file.Close()
	size, err := file.Seek(0, io.SeekEnd)
	return err == nil && size == f.Size
}

// fetchOnce fetches the missing rest of a file. It reports whether it made progress.
func (m *Manager) fetchOnce(ctx context.Context, source Source, u *Update, f *File) (progress bool, err error) {
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
	restart := func() error {
		sum.Reset()
		have = 0
		if err := partial.Reset(); err != nil {
			return fmt.Errorf("%w: %w", errLocal, err)
		}
		return nil
	}
	if have > f.Size {
		if err := restart(); err != nil {
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
				return false, fmt.Errorf("the source resumed at byte %d instead of %d: %w", begins, have, ErrMismatch)
			}
			if err := restart(); err != nil {
				return false, err
			}
		}
		left := f.Size - have
		written, err := m.copyHashed(ctx, partial, sum, body, left)
		have += written
		enough := written >= minProgress || written >= left/2 // single bytes are no progress
		m.progress.change(func(p *Progress) { p.BytesDone += written })
		switch {
		case err == io.EOF:
			return enough, fmt.Errorf("the file ended after %d of %d bytes: %w", have, f.Size, io.ErrUnexpectedEOF)
		case err != nil:
			return enough, err
		}
	}
	if got := hex.EncodeToString(sum.Sum(nil)); got != f.SHA256 {
		return false, errors.Join(fmt.Errorf("its sha256 is %s, the description says %s: %w", got, f.SHA256, ErrMismatch), restart())
	}
	if err := partial.Commit(); err != nil {
		return false, fmt.Errorf("%w: %w", errLocal, err)
	}
	return true, nil
}

// copyHashed copies n bytes to a writer and to its sum. It returns io.EOF if from has fewer bytes.
func (m *Manager) copyHashed(ctx context.Context, to io.Writer, sum hash.Hash, from io.Reader, n int64) (written int64, err error) {
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

// checkSpace returns ErrDiskFull unless the disk has room for need bytes and for Options.Reserve.
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
		return fmt.Errorf("%d MiB are needed, %d MiB are free, %d MiB of these are reserved: %w", need>>20, free>>20, reserve>>20, ErrDiskFull)
	}
	return nil
}
