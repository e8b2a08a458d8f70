package updates

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/opscenter-go/sdk/internal/smime"
)

// Source is where updates come from. HTTP and Directory are in the box. All methods may be called concurrently.
type Source interface {
	// Index returns the updates that there are. A Source whose updates are signed has verified them.
	Index(ctx context.Context) (*Index, error)
	// Open begins to read a file of an update, from offset on. It returns where what it reads begins: at offset, or at
	// 0 if the source can't go on. ErrGone if the source has no such file: it is not asked again.
	Open(ctx context.Context, u *Update, f *File, offset int64) (body io.ReadCloser, begins int64, err error)
}

// Index is what a source has.
type Index struct {
	// Updates that can be used, newest first.
	Updates []*Update
	// Unusable says why others can't be; nil: there are none.
	Unusable error
	// Signature of the index; nil: it has none.
	Signature *Signature
}

// Signature describes the verified signer of an index.
type Signature struct {
	// Name of the signing certificate.
	Name string
	// Ends is when the first certificate of its chain ends. Late: it has ended, by less than Trust.Grace.
	Ends time.Time
	Late bool
}

// Errors of sources and uploads.
var (
	// ErrSignature: the signature is not that of the content, or not by a certificate that is trusted.
	ErrSignature = smime.ErrSignature
	// ErrReplay: the index is older than one that was read before.
	ErrReplay = errors.New("is older than the index that was read before")
	// ErrGone: the source has no such file.
	ErrGone = errors.New("the source has no such file")
	// ErrMismatch: a file is not the one that was described: its size or its sum differs.
	ErrMismatch = errors.New("is not the file that was described")
	// ErrStalled: the source sent nothing for HTTPOptions.StallTimeout.
	ErrStalled = errors.New("the source sends nothing any more")
	// ErrRedirect: the source sends to another host.
	ErrRedirect = errors.New("the source redirects to another host")
	// ErrNoSource: there is no source: updates are uploaded.
	ErrNoSource = errors.New("no source of updates is set")
)

// readBounded reads all, which must not be more than that.
func readBounded(r io.Reader, most int64) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, most+1))
	switch {
	case err != nil:
		return nil, err
	case int64(len(data)) > most:
		return nil, fmt.Errorf("more than %d bytes: %w", most, ErrInvalid)
	}
	return data, nil
}
