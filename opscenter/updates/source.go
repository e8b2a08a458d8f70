package updates

import (
	"context"
	"crypto/x509"
	_ "embed"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
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

// DefaultGrace is for how long after its end a signing certificate counts, see Trust.
const DefaultGrace = 30 * 24 * time.Hour

// Trust is whose signatures count. The zero value is that of IncusOS: its root certificate.
//
// The certificates must be valid when a signature is verified: an old signature does not count for ever. So that a
// publisher who is late does not stop the mirror in the night in which its certificate ends, what it has signed before
// counts Grace longer. A warning stands from 90 days before the end (opscenter.WarningSigner). What says that it was signed
// after the end is refused.
type Trust struct {
	// Root under which the signing certificate must be. Default: "Incus OS - Root E1".
	Root *x509.Certificate
	// Through, if any are given, are intermediate certificates of which the chain must hold one, as IncusOS itself
	// wants it.
	Through []*x509.Certificate
	// Grace is for how long after its end a certificate still counts. Default 30 days; below 0: not at all.
	Grace time.Duration
}

//go:embed root-e1.pem
var rootE1 []byte

// IncusOSRoot is the root under which IncusOS and its updates are signed, "Incus OS - Root E1".
var IncusOSRoot = sync.OnceValue(func() *x509.Certificate {
	root, err := parseCertificate(rootE1)
	if err != nil {
		panic(err) // it is in this package
	}
	return root
})

func parseCertificate(text []byte) (*x509.Certificate, error) {
	block, rest := pem.Decode(text)
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, fmt.Errorf("no certificate in PEM form: %w", ErrInvalid)
	}
	if more, _ := pem.Decode(rest); more != nil {
		return nil, fmt.Errorf("more than one certificate: %w", ErrInvalid)
	}
	certificate, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%w: %v", ErrInvalid, err)
	}
	return certificate, nil
}

// verify reads a signed message. Only what was verified is returned.
func (t Trust) verify(message []byte) ([]byte, *Signature, error) {
	if t.Root == nil {
		t.Root = IncusOSRoot()
	}
	switch {
	case t.Grace == 0:
		t.Grace = DefaultGrace
	case t.Grace < 0:
		t.Grace = 0
	}
	signed, err := smime.Verify(message, smime.Trust{Root: t.Root, Through: t.Through, Grace: t.Grace})
	if err != nil {
		return nil, nil, err
	}
	return signed.Content, &Signature{Name: signed.Name, Ends: signed.Ends, Late: signed.Late}, nil
}

// Index verifies a signed index, index.sjson, and reads it: for a Source of your own. Errors: ErrSignature, ErrInvalid.
func (t Trust) Index(message []byte) (*Index, error) {
	content, signature, err := t.verify(message)
	if err != nil {
		return nil, err
	}
	list, err := ParseIndex(content)
	if list == nil && err != nil {
		return nil, err
	}
	return &Index{Updates: list, Unusable: err, Signature: signature}, nil
}

// Directory is a Source in a directory, laid out as by the publisher: index.sjson, and VERSION/FILENAME.
type Directory struct {
	Path  string
	Trust Trust
}

const indexName = "index.sjson"

// Index implements Source.
func (d Directory) Index(context.Context) (*Index, error) {
	file, err := os.Open(filepath.Join(d.Path, indexName))
	if err != nil {
		return nil, err
	}
	defer file.Close()
	message, err := readBounded(file, smime.MaxMessage)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", indexName, err)
	}
	index, err := d.Trust.Index(message)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", indexName, err)
	}
	return index, nil
}

// Open implements Source. A name in the index that leads out of the directory is refused.
func (d Directory) Open(_ context.Context, u *Update, f *File, offset int64) (io.ReadCloser, int64, error) {
	root, err := os.OpenRoot(d.Path)
	if err != nil {
		return nil, 0, err
	}
	defer root.Close()
	path := filepath.Join(".", filepath.FromSlash(u.URL), filepath.FromSlash(f.Filename))
	info, err := root.Stat(path)
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is no file: %w", path, ErrGone)
	}
	var file *os.File
	if err == nil {
		file, err = root.Open(path)
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, 0, fmt.Errorf("%s: %w", path, ErrGone)
	case err != nil:
		return nil, 0, err
	}
	if _, err := file.Seek(offset, io.SeekStart); err != nil {
		file.Close()
		return nil, 0, err
	}
	return file, offset, nil
}

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
