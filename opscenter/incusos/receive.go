package incusos

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"sync"

	"github.com/lxc/incus/v6/shared/api"

	"github.com/opscenter-go/sdk/internal/jsonfilter"
	"github.com/opscenter-go/sdk/internal/truncate"
)

const (
	// maxAhead bounds the bytes allocated for an answer before it arrives: a server can announce any size.
	maxAhead = 256 << 10
	// maxBuffer bounds the buffers that are kept for further answers, in bytes.
	maxBuffer = 512 << 10
)

// buffers keeps the buffers of answers for later polls.
var buffers = sync.Pool{New: func() any { return new(bytes.Buffer) }}

// answer is an answer of a server.
type answer struct {
	status int
	body   *bytes.Buffer // valid until release
}

func (a *answer) release() {
	if a.body.Cap() <= maxBuffer {
		a.body.Reset()
		buffers.Put(a.body)
	}
	a.body = nil
}

// receive sends a request, and reads the answer. The caller releases it.
func (p *probe) receive(method, path string, body []byte) (*answer, error) {
	req, err := p.peer.request(p.ctx, method, path, body)
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", method, path, err)
	}
	resp, err := p.peer.RoundTrip(req)
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", method, path, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode >= http.StatusMultipleChoices && resp.StatusCode < http.StatusBadRequest {
		return nil, fmt.Errorf("%s %s: %w", method, path, ErrRedirect)
	}
	a := &answer{status: resp.StatusCode, body: buffers.Get().(*bytes.Buffer)}
	a.body.Grow(int(min(max(resp.ContentLength, 0), maxAhead)) + bytes.MinRead)
	if _, err := a.body.ReadFrom(resp.Body); err != nil {
		a.release()
		return nil, fmt.Errorf("%s %s: %w", method, path, err)
	}
	return a, nil
}

// open has members read the members of the answer, and returns the error that they tell. Error answers of the server are
// api.StatusErrors.
func (a *answer) open(members func(use func(key, value []byte)) error) error {
	var kind, message string
	var code int
	err := members(func(key, value []byte) {
		switch string(key) {
		case "type":
			_ = json.Unmarshal(value, &kind)
		case "error":
			_ = json.Unmarshal(value, &message)
		case "error_code":
			_ = json.Unmarshal(value, &code)
		}
	})
	switch {
	case err == nil && kind == string(api.ErrorResponse):
		if code == 0 {
			code = a.status
		}
		return api.StatusErrorf(code, "%s", truncate.Text(message, maxMessage))
	case err != nil && a.status >= http.StatusBadRequest: // the answer of a proxy
		return fmt.Errorf("%w%w", errForeign, api.StatusErrorf(a.status, "%s", http.StatusText(a.status)))
	case err != nil:
		return fmt.Errorf("%w: %w", errAnswer, err)
	case kind != string(api.SyncResponse):
		return fmt.Errorf("%w: type %q", errAnswer, truncate.Text(kind, maxText))
	}
	return nil
}

// metadata returns the metadata of the answer, as long as the answer is valid.
func (a *answer) metadata() (out json.RawMessage, err error) {
	err = a.open(func(use func(key, value []byte)) error {
		return jsonfilter.Members(a.body.Bytes(), func(key, value []byte) {
			if string(key) == "metadata" {
				out = value
			}
			use(key, value)
		})
	})
	return out, err
}

// exchange sends a request, and returns the metadata of the answer.
func (p *probe) exchange(method, path string, body []byte) (json.RawMessage, error) {
	a, err := p.receive(method, path, body)
	if err != nil {
		return nil, err
	}
	defer a.release()
	metadata, err := a.metadata()
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", method, path, err)
	}
	return bytes.Clone(metadata), nil
}

// object returns the raw metadata of an answer, which must be a JSON object.
func (p *probe) object(path string) (json.RawMessage, error) {
	metadata, err := p.exchange(http.MethodGet, path, nil)
	if err == nil && !bytes.HasPrefix(metadata, []byte("{")) {
		return nil, fmt.Errorf("GET %s: %w: not an object", path, errAnswer)
	}
	return metadata, err
}
