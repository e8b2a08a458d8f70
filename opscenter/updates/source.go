package updates

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/opscenter-go/sdk/internal/smime"
)

// Source is where updates are fetched from. HTTP and Directory implement it. All methods may be called concurrently.
type Source interface {
	// Index returns the available updates. A Source with signed updates verifies the signature first.
	Index(ctx context.Context) (*Index, error)
	// Open opens a file of an update for reading from offset. It returns the offset of the first byte of body: offset,
	// or 0 if the source can't resume. It returns ErrGone if the source lacks the file; the Manager then does not retry.
	Open(ctx context.Context, u *Update, f *File, offset int64) (body io.ReadCloser, begins int64, err error)
}

// Index is the list of updates of a Source.
type Index struct {
	// Updates are the usable updates, newest first.
	Updates []*Update
	// Unusable explains why other updates were left out; nil: none was left out.
	Unusable error
	// Signature of the index; nil: the index is not signed.
	Signature *Signature
}

// Signature describes the verified signer of an index.
type Signature struct {
	// Name is the common name of the signing certificate.
	Name string
	// Ends is the earliest expiry of a certificate in the chain.
	Ends time.Time
	// Late: the certificate has expired, by less than Trust.Grace.
	Late bool
}

// Errors of sources, of indexes and of files.
var (
	// ErrSignature: the signature does not match the content, or its certificate is not trusted.
	ErrSignature = smime.ErrSignature
	// ErrReplay: the index is older than the one read before.
	ErrReplay = errors.New("is older than the index that was read before")
	// ErrGone: the source has no such file.
	ErrGone = errors.New("the source has no such file")
	// ErrMismatch: the size or the sum of a file differs from its description.
	ErrMismatch = errors.New("is not the file that was described")
	// ErrStalled: the source sent nothing for HTTPOptions.StallTimeout.
	ErrStalled = errors.New("the source sends nothing any more")
	// ErrRedirect: the source redirects to a host that HTTPOptions.Hosts does not list.
	ErrRedirect = errors.New("the source redirects to another host")
	// ErrNoSource: Settings.Source is empty, so updates can only be uploaded.
	ErrNoSource = errors.New("no source of updates is set")
)

// readBounded reads r to its end. It returns ErrInvalid for more than most bytes.
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
