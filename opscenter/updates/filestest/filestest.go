// Package filestest tests implementations of updates.Files. A custom backend calls Run in a test:
//
//	func TestFiles(t *testing.T) {
//		filestest.Run(t, func(t *testing.T) filestest.Open {
//			bucket := newBucket(t)
//			return func() (updates.Files, error) { return NewFiles(bucket), nil }
//		})
//	}
package filestest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"io/fs"
	"iter"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/opscenter/updates"
)

// Open opens the same place each time, as after a restart of the process. If only one process can use the place at a time,
// Open first closes its previous result.
type Open func() (updates.Files, error)

// Run runs all tests. fresh returns the Open of a new, empty place for each test.
func Run(t *testing.T, fresh func(t *testing.T) Open) {
	for name, test := range map[string]func(t *testing.T, open Open){
		"WriteAndRead": writeAndRead, "Absent": absent, "Resume": resume, "Reset": reset, "NotCommitted": notCommitted, "Remove": remove,
		"ReadAfterRemove": readAfterRemove, "Lists": lists, "InvalidSum": invalidSum, "Parallel": parallel, "WriteAfterRemove": writeAfterRemove, "Large": large,
	} {
		t.Run(name, func(t *testing.T) { test(t, fresh(t)) })
	}
}

// opened returns the opened Files.
func opened(t *testing.T, open Open) updates.Files {
	t.Helper()
	files, err := open()
	require.NoError(t, err)
	return files
}

func sumOf(content []byte) string {
	sum := sha256.Sum256(content)
	return hex.EncodeToString(sum[:])
}

// write writes and commits a file. It returns its sum.
func write(t *testing.T, files updates.Files, content []byte) string {
	t.Helper()
	sum := sumOf(content)
	partial, err := files.Create(t.Context(), sum)
	require.NoError(t, err)
	_, err = partial.Existing(io.Discard)
	require.NoError(t, err)
	_, err = partial.Write(content)
	require.NoError(t, err)
	require.NoError(t, partial.Commit())
	require.NoError(t, partial.Close())
	return sum
}

// read returns the content of a file.
func read(t *testing.T, files updates.Files, sum string) []byte {
	t.Helper()
	file, err := files.Open(t.Context(), sum)
	require.NoError(t, err)
	defer file.Close()
	content, err := io.ReadAll(file)
	require.NoError(t, err)
	return content
}

// collect returns the listed sizes, by sum.
func collect(t *testing.T, list func(context.Context) iter.Seq2[updates.FileInfo, error]) map[string]int64 {
	t.Helper()
	out := map[string]int64{}
	for info, err := range list(t.Context()) {
		require.NoError(t, err)
		out[info.SHA256] = info.Size
	}
	return out
}

func writeAndRead(t *testing.T, open Open) {
	files := opened(t, open)
	content := []byte("a file of an update")
	sum := write(t, files, content)
	for range 2 {
		require.Equal(t, content, read(t, files, sum))
		file, err := files.Open(t.Context(), sum)
		require.NoError(t, err)
		size, err := file.Seek(0, io.SeekEnd)
		require.NoError(t, err)
		require.EqualValues(t, len(content), size)
		_, err = file.Seek(2, io.SeekStart)
		require.NoError(t, err)
		rest, err := io.ReadAll(file)
		require.NoError(t, err)
		require.Equal(t, content[2:], rest)
		require.NoError(t, file.Close())
		files = opened(t, open) // read again after a restart
	}
}

func absent(t *testing.T, open Open) {
	_, err := opened(t, open).Open(t.Context(), sumOf(nil))
	require.ErrorIs(t, err, fs.ErrNotExist)
}

func resume(t *testing.T, open Open) {
	content := []byte("the first half and the other half")
	sum := sumOf(content)
	partial, err := opened(t, open).Create(t.Context(), sum)
	require.NoError(t, err)
	_, err = partial.Existing(io.Discard)
	require.NoError(t, err)
	_, err = partial.Write(content[:15])
	require.NoError(t, err)
	require.NoError(t, partial.Close())
	partial, err = opened(t, open).Create(t.Context(), sum)
	require.NoError(t, err)
	var have bytes.Buffer
	n, err := partial.Existing(&have)
	require.NoError(t, err)
	require.EqualValues(t, have.Len(), n)
	require.Equal(t, string(content[:n]), have.String(), "Existing copies the bytes of the earlier Partial, or none")
	_, err = partial.Write(content[n:])
	require.NoError(t, err)
	require.NoError(t, partial.Commit())
	require.NoError(t, partial.Close())
	require.Equal(t, content, read(t, opened(t, open), sum))
}

func reset(t *testing.T, open Open) {
	files := opened(t, open)
	content := []byte("right content")
	partial, err := files.Create(t.Context(), sumOf(content))
	require.NoError(t, err)
	_, err = partial.Existing(io.Discard)
	require.NoError(t, err)
	_, err = partial.Write([]byte("wrong content, which is longer than the right one"))
	require.NoError(t, err)
	require.NoError(t, partial.Reset())
	_, err = partial.Write(content)
	require.NoError(t, err)
	require.NoError(t, partial.Commit())
	require.NoError(t, partial.Close())
	require.Equal(t, content, read(t, files, sumOf(content)))
}

func notCommitted(t *testing.T, open Open) {
	files := opened(t, open)
	sum := sumOf([]byte("whole"))
	partial, err := files.Create(t.Context(), sum)
	require.NoError(t, err)
	_, err = partial.Existing(io.Discard)
	require.NoError(t, err)
	_, err = partial.Write([]byte("who"))
	require.NoError(t, err)
	_, err = files.Open(t.Context(), sum)
	require.ErrorIs(t, err, fs.ErrNotExist)
	require.Empty(t, collect(t, files.List))
	require.NoError(t, partial.Close())
	for _, f := range []updates.Files{files, opened(t, open)} {
		_, err = f.Open(t.Context(), sum)
		require.ErrorIs(t, err, fs.ErrNotExist)
		require.Empty(t, collect(t, f.List))
	}
	require.NoError(t, files.Remove(t.Context(), sum))
	require.Empty(t, collect(t, files.Unfinished))
}

func remove(t *testing.T, open Open) {
	files := opened(t, open)
	sum, other := write(t, files, []byte("one")), write(t, files, []byte("two"))
	require.NoError(t, files.Remove(t.Context(), sum))
	require.NoError(t, files.Remove(t.Context(), sum), "removing a missing file is no error")
	for _, f := range []updates.Files{files, opened(t, open)} {
		_, err := f.Open(t.Context(), sum)
		require.ErrorIs(t, err, fs.ErrNotExist)
		require.Equal(t, map[string]int64{other: 3}, collect(t, f.List))
	}
}

func readAfterRemove(t *testing.T, open Open) {
	files := opened(t, open)
	content := bytes.Repeat([]byte("a server fetches this"), 10_000)
	sum := write(t, files, content)
	file, err := files.Open(t.Context(), sum)
	require.NoError(t, err)
	defer file.Close()
	first := make([]byte, 100)
	_, err = io.ReadFull(file, first)
	require.NoError(t, err)
	require.NoError(t, files.Remove(t.Context(), sum))
	rest, err := io.ReadAll(file)
	require.NoError(t, err)
	require.True(t, bytes.Equal(content, append(first, rest...)))
}

func lists(t *testing.T, open Open) {
	files := opened(t, open)
	want := map[string]int64{}
	for i := range 50 {
		content := bytes.Repeat([]byte{byte(i)}, i)
		want[write(t, files, content)] = int64(i)
	}
	require.Equal(t, want, collect(t, files.List))
	require.Equal(t, want, collect(t, opened(t, open).List))
	for range files.List(t.Context()) {
		break // the caller may stop early
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	var failed error
	for _, err := range files.List(ended) {
		failed = errors.Join(failed, err)
	}
	require.ErrorIs(t, failed, context.Canceled)
}

func invalidSum(t *testing.T, open Open) {
	files := opened(t, open)
	for _, bad := range []string{"", "..", "../../etc/passwd", "x", "zz" + sumOf(nil)[2:], sumOf(nil) + "/..", "/" + sumOf(nil)[1:]} {
		_, err := files.Open(t.Context(), bad)
		require.Error(t, err, "%q", bad)
		_, err = files.Create(t.Context(), bad)
		require.Error(t, err, "%q", bad)
	}
}

func parallel(t *testing.T, open Open) {
	files := opened(t, open)
	var wait sync.WaitGroup
	for i := range 8 {
		wait.Go(func() {
			for j := range 10 {
				content := bytes.Repeat([]byte{byte(i), byte(j)}, 1000)
				sum := sumOf(content)
				partial, err := files.Create(t.Context(), sum)
				if err == nil {
					_, err = partial.Existing(io.Discard)
				}
				if err == nil {
					_, err = partial.Write(content)
				}
				if err == nil {
					err = errors.Join(partial.Commit(), partial.Close())
				}
				if err == nil && j%2 == 0 {
					err = files.Remove(t.Context(), sum)
				}
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	wait.Wait()
	require.Len(t, collect(t, files.List), 40)
}

func writeAfterRemove(t *testing.T, open Open) {
	files := opened(t, open)
	content := []byte("written, removed, and written again")
	sum := write(t, files, content)
	require.NoError(t, files.Remove(t.Context(), sum))
	require.Equal(t, sum, write(t, files, content))
	require.Equal(t, content, read(t, files, sum))
}

func large(t *testing.T, open Open) {
	files := opened(t, open)
	piece := bytes.Repeat([]byte("0123456789abcdef"), 4096)
	sum := sha256.New()
	for range 64 {
		_, _ = sum.Write(piece)
	}
	name := hex.EncodeToString(sum.Sum(nil))
	partial, err := files.Create(t.Context(), name)
	require.NoError(t, err)
	_, err = partial.Existing(io.Discard)
	require.NoError(t, err)
	for range 64 {
		_, err = partial.Write(piece)
		require.NoError(t, err)
	}
	require.NoError(t, partial.Commit())
	require.NoError(t, partial.Close())
	require.EqualValues(t, 64*len(piece), collect(t, files.List)[name])
	require.Equal(t, name, sumOf(read(t, files, name)))
}
