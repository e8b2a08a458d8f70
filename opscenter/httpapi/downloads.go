package httpapi

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"
	"golang.org/x/time/rate"
)

// errTooManyDownloads: no place for a download became free in time.
var errTooManyDownloads = errors.New("too many files are being sent, try again later")

// downloadChunk is the part of a file that is sent within Options.WriteTimeout, and between two looks at the rate, in bytes.
const downloadChunk = 256 << 10

// downloads bounds the number of files that are sent at a time, in all and to each address, and their rate. A request without a
// place waits for one, because a server would not ask a second time.
type downloads struct {
	places     *semaphore.Weighted
	queue      *semaphore.Weighted // requests that hold a place or wait for one
	perAddress int
	patience   time.Duration
	rate       *rate.Limiter // nil: no limit

	mu        sync.Mutex
	addresses map[netip.Prefix]*addressPlaces
}

// addressPlaces bounds the downloads to one address. It exists while a request from there holds or awaits a place.
type addressPlaces struct {
	places *semaphore.Weighted
	used   int // requests that hold one or wait for one
}

func newDownloads(o *Options) *downloads {
	d := &downloads{places: semaphore.NewWeighted(int64(o.MaxDownloads)), queue: semaphore.NewWeighted(int64(2 * o.MaxDownloads)), perAddress: o.MaxDownloadsPerAddress,
		patience: o.DownloadPatience, addresses: map[netip.Prefix]*addressPlaces{}}
	if o.DownloadRate > 0 {
		d.rate = rate.NewLimiter(rate.Limit(o.DownloadRate), int(max(min(o.DownloadRate, 4<<20), downloadChunk)))
	}
	return d
}

// begin waits for a place. Errors: errTooManyDownloads, that of the context.
func (d *downloads) begin(ctx context.Context, remote string) (end func(), err error) {
	key := networkOf(remote)
	d.mu.Lock()
	address := d.addresses[key]
	if address == nil {
		address = &addressPlaces{places: semaphore.NewWeighted(int64(d.perAddress))}
	}
	if address.used >= 2*d.perAddress || !d.queue.TryAcquire(1) { // no address takes all places in the queue
		d.mu.Unlock()
		return nil, errTooManyDownloads
	}
	d.addresses[key] = address
	address.used++
	d.mu.Unlock()
	leave := func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.queue.Release(1)
		if address.used--; address.used == 0 {
			delete(d.addresses, key)
		}
	}
	waiting, cancel := context.WithTimeout(ctx, d.patience)
	defer cancel()
	if err = address.places.Acquire(waiting, 1); err == nil {
		if err = d.places.Acquire(waiting, 1); err != nil {
			address.places.Release(1)
		}
	}
	if err != nil {
		leave()
		if ctx.Err() == nil {
			err = errTooManyDownloads
		}
		return nil, err
	}
	return func() {
		d.places.Release(1)
		address.places.Release(1)
		leave()
	}, nil
}

// pacedWriter sends a file in chunks. Each chunk has its time, and all chunks together have a rate. Where the connection allows it,
// the operating system sends a file on disk without a copy in memory.
type pacedWriter struct {
	http.ResponseWriter
	ctx     context.Context
	rate    *rate.Limiter
	timeout time.Duration
}

// Unwrap is for http.ResponseController.
func (w *pacedWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// ReadFrom implements io.ReaderFrom, which http.ServeContent uses.
func (w *pacedWriter) ReadFrom(from io.Reader) (written int64, err error) {
	left := int64(-1) // all
	if limited, ok := from.(*io.LimitedReader); ok {
		from, left = limited.R, limited.N
		defer func() { limited.N -= written }()
	}
	control := http.NewResponseController(w.ResponseWriter)
	for left != 0 {
		chunk := int64(downloadChunk)
		if left > 0 {
			chunk = min(chunk, left)
		}
		if w.rate != nil {
			if err := w.rate.WaitN(w.ctx, int(chunk)); err != nil {
				return written, err
			}
		}
		_ = control.SetWriteDeadline(time.Now().Add(w.timeout))
		n, err := io.Copy(w.ResponseWriter, &io.LimitedReader{R: from, N: chunk})
		written += n
		switch {
		case err != nil:
			return written, err
		case n < chunk:
			return written, nil
		case left > 0:
			left -= n
		}
	}
	return written, nil
}
