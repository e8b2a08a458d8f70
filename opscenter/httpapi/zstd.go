package httpapi

import (
	"io"
	"net/http"
	"strconv"
	"strings"

	"github.com/opscenter-go/sdk/opscenter/internal/facts"
)

// document is a JSON document that is encoded already. A part in its middle may be compressed already.
type document struct {
	before []byte
	frame  []byte // a zstd frame, for a zstdWriter alone; nil: none
	after  []byte
}

// send answers with the document as metadata of a success.
func (e *document) send(w http.ResponseWriter, status int) {
	end := append(e.after[:len(e.after):len(e.after)], "}\n"...)
	w.Header().Set("Content-Type", "application/json")
	if _, compressing := w.(*zstdWriter); !compressing {
		w.Header().Set("Content-Length", strconv.Itoa(len(successBegin)+len(e.before)+len(end)))
	}
	w.WriteHeader(status)
	_, _ = io.WriteString(w, successBegin)
	_, _ = w.Write(e.before)
	if e.frame != nil {
		_ = w.(*zstdWriter).frame(e.frame)
	}
	_, _ = w.Write(end)
}

// zstdWriter compresses an answer, except frames that are compressed already. It sends a sequence of frames: RFC 8878 has
// each client decode them as one text.
type zstdWriter struct {
	http.ResponseWriter
	plain  []byte // not compressed yet
	packed []byte // not sent yet
}

// maxHeld bounds the bytes that a zstdWriter holds before it compresses or sends them.
const maxHeld = 64 << 10

// zstdFor returns w, or a writer that compresses for a client that takes zstd. flush must be called at the end. wanted is
// false for an answer that is small.
func zstdFor(w http.ResponseWriter, r *http.Request, wanted bool) (_ http.ResponseWriter, flush func()) {
	if !wanted {
		return w, func() {}
	}
	w.Header().Add("Vary", "Accept-Encoding")
	if !accepts(r, "zstd") {
		return w, func() {}
	}
	w.Header().Set("Content-Encoding", "zstd")
	z := &zstdWriter{ResponseWriter: w}
	return z, func() { _ = z.flush() }
}

// accepts reports whether a request names a content coding as acceptable. "*" does not name it.
func accepts(r *http.Request, coding string) bool {
	for _, value := range r.Header.Values("Accept-Encoding") {
		for one := range strings.SplitSeq(value, ",") {
			name, parameters, _ := strings.Cut(one, ";")
			if !strings.EqualFold(strings.TrimSpace(name), coding) {
				continue
			}
			quality, given := strings.CutPrefix(strings.TrimSpace(parameters), "q=")
			q, err := strconv.ParseFloat(quality, 64)
			return !given || err == nil && q > 0
		}
	}
	return false
}

// Write implements io.Writer.
func (z *zstdWriter) Write(p []byte) (int, error) {
	z.plain = append(z.plain, p...)
	if len(z.plain) < maxHeld {
		return len(p), nil
	}
	return len(p), z.frame(nil)
}

// frame adds a zstd frame as it is.
func (z *zstdWriter) frame(frame []byte) error {
	if len(z.plain) > 0 {
		z.packed = facts.AppendCompressed(z.packed, z.plain)
		z.plain = z.plain[:0]
	}
	if z.packed = append(z.packed, frame...); len(z.packed) < maxHeld {
		return nil
	}
	return z.send()
}

// send sends the frames so far.
func (z *zstdWriter) send() error {
	if len(z.packed) == 0 {
		return nil
	}
	_, err := z.ResponseWriter.Write(z.packed)
	z.packed = z.packed[:0]
	return err
}

// flush sends a frame of the bytes so far, and the frames before it.
func (z *zstdWriter) flush() error {
	if err := z.frame(nil); err != nil {
		return err
	}
	return z.send()
}

// FlushError sends the frame so far. http.ResponseController calls it.
func (z *zstdWriter) FlushError() error {
	if err := z.flush(); err != nil {
		return err
	}
	return http.NewResponseController(z.ResponseWriter).Flush()
}

// Unwrap returns the writer below, for http.ResponseController.
func (z *zstdWriter) Unwrap() http.ResponseWriter { return z.ResponseWriter }
