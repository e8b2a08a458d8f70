package inventory

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/storage"
)

// scanRetry is before the second try of a scan that could not read all; it doubles.
const scanRetry = 5 * time.Second

// minScanGap is the least time between two scans that events have caused.
const minScanGap = time.Second

// refreshTimeout bounds a look at one object, and one at the members.
const refreshTimeout = time.Minute

// lister reads lists into a batch.
type lister struct {
	w     *worker
	batch *batch
	// unread is why the first of what could not be read could not be: nothing is removed for it.
	// missed is how many there are.
	unread error
	missed int
	// doubtful: an instance is in error, as those are whose member does not answer.
	doubtful bool
	// shallow leaves the snapshots of volumes as they are, where they are listed apart: who does something to a volume
	// has it, and them, looked at.
	shallow bool
	// deaf are the members whose volumes' snapshots can't be told, and partial how many volumes that are, if
	// nobody knows why.
	deaf    map[string]bool
	partial int
	// budget is the unit's, read what was read within it, and cut how many lists were not read to their end.
	budget budget
	read   reading
	cut    int

	scratch scratch
}

func (l *lister) miss(err error) {
	if l.missed++; l.missed == 1 {
		l.unread = err
	}
}

func (w *worker) lister(o origin) *lister {
	b := w.batch(o)
	return &lister{w: w, batch: b, budget: b.budget}
}

// status returns the HTTP status a daemon answered with; 0: it was not reached.
func status(err error) int {
	var refusal Refusal
	if errors.As(err, &refusal) {
		return refusal.Status()
	}
	return 0
}

// unsupported reports whether a daemon says that it has no such thing. "Not found" does not say
// that: Incus answers a whole list so if one of its entries goes meanwhile.
func unsupported(err error) bool {
	code := status(err)
	return code == http.StatusNotImplemented || code == http.StatusBadRequest && strings.Contains(err.Error(), "not support")
}

// scan lists all of the unit, and writes what has changed. An error is the end of the
// connection; what could not be read of it else is tried again later.
func (w *worker) scan(ctx context.Context, why string) error {
	release, err := w.m.scans.acquire(ctx, w.m.options.SlowAfter)
	if err != nil {
		return err
	}
	defer release()
	at := time.Now()
	bounded, cancel := context.WithTimeout(ctx, w.m.options.ScanTimeout)
	defer cancel()
	begun, err := w.beginnings(ctx)
	if err != nil {
		return err
	}
	if err = w.describe(bounded); err != nil {
		return err
	}
	w.excess = excess{}
	l := w.lister(origin{source: SourceScan})
	skipped := map[Kind]string{}
	unread := map[Kind]bool{}
	for i := range kinds {
		info := &kinds[i]
		l.batch.origin.silent = w.unread[info.kind]
		why := w.missing(info)
		if why == "" {
			missed := l.missed + l.partial
			err = l.all(bounded, scope{kind: info.kind})
			if err == nil {
				err = w.judgeExcess(ctx, false)
			}
			switch {
			case err == nil:
				unread[info.kind] = w.unread[info.kind] && l.missed+l.partial != missed
				continue
			case !unsupported(err):
				return err
			}
			why = limited(err.Error())
		}
		skipped[info.kind] = why
		if err := l.none(bounded, info.kind); err != nil {
			return err
		}
	}
	if err := w.scanned(ctx, begun, unread); err != nil {
		return err
	}
	if err := w.judgeExcess(ctx, l.unread == nil); err != nil {
		return err
	}
	took := time.Since(at)
	rest := w.m.options.rest(took)
	w.scanNext, w.excessNext = time.Now().Add(max(minScanGap, rest)), time.Time{}
	if w.excess != (excess{}) {
		w.excessNext = time.Now().Add(max(minScanGap, rest, w.m.options.MaxBackoff))
	}
	w.set(func(s *Status) {
		s.Skipped, s.Scans = skipped, s.Scans+1
		if l.unread == nil {
			s.ScannedAt, s.ScanTook, s.ScanReason = now(), took, why
		}
	})
	if l.unread == nil {
		w.failures, w.scanRetry = 0, time.Time{}
		return nil
	}
	w.scanRetry = time.Now().Add(max(rest, min(w.m.options.MaxBackoff, scanRetry<<min(w.failures, 10))))
	w.failures++
	w.set(func(s *Status) {
		if s.Failure == "" {
			s.FailedAt = now()
		}
		s.Following, s.Failure, s.NextRetry = false, limited(fmt.Sprintf("%d could not be read, the first: %v", l.missed+l.partial, l.unread)), w.scanRetry.UTC().Round(0)
	})
	w.m.log.WarnContext(ctx, "a scan of the inventory was incomplete, and is tried again", "unit", w.id, "missed", l.missed+l.partial, "error", limited(l.unread.Error()))
	return nil
}

// beginnings reads of which kinds the unit was never read as a whole: what is found of them is no
// change. It returns what is stored of the unit; nil: nothing is.
func (w *worker) beginnings(ctx context.Context) (u *unitRow, err error) {
	err = w.m.registry.Read(ctx, func(s *opscenter.Snapshot) error {
		u, err = units.Find(s, storage.StringKey(w.id))
		return err
	})
	w.unread = map[Kind]bool{}
	for _, kind := range Kinds {
		w.unread[kind] = err == nil && u != nil && (u.ScannedAt.IsZero() || slices.Contains(u.Unread, kind))
	}
	return u, err
}

// scanned stores of which kinds the unit has been read as a whole by now, and what it is called. The first
// time is a change.
func (w *worker) scanned(ctx context.Context, before *unitRow, unread map[Kind]bool) error {
	w.unread = unread
	return w.m.registry.Write(ctx, func(tx *opscenter.Tx) error {
		u, err := newNames(tx.Snapshot()).unit(w.id)
		if err != nil || u == nil || before == nil {
			return err
		}
		next := *before
		next.Name, next.Unread = u.name, nil
		for _, kind := range Kinds {
			if unread[kind] {
				next.Unread = append(next.Unread, kind)
			}
		}
		if before.Name == next.Name && !before.ScannedAt.IsZero() && slices.Equal(before.Unread, next.Unread) {
			return nil
		}
		first := before.ScannedAt.IsZero()
		if first {
			next.ScannedAt = now()
		}
		if first || len(next.Unread) < len(before.Unread) {
			if err := w.m.record(tx, []changeRow{next.change(ChangeClusterAdded, now())}); err != nil {
				return err
			}
		}
		return units.Put(tx, &next)
	})
}

// missing says why the daemon has no objects of a kind; empty: it may have.
func (w *worker) missing(info *kindInfo) string {
	for _, extension := range info.extensions {
		if !slices.Contains(w.daemon.Extensions, extension) {
			return "the daemon has no API extension " + extension
		}
	}
	if info.kind == KindClusterMember && !w.daemon.Clustered {
		return "the server is in no cluster"
	}
	return ""
}

// none removes what there was of a kind that there is no more.
func (l *lister) none(ctx context.Context, kind Kind) error {
	have, err := l.known(ctx, scope{kind: kind})
	if err != nil {
		return err
	}
	return l.remove(ctx, have)
}

func (l *lister) known(ctx context.Context, s scope) (known, error) {
	return l.w.m.known(ctx, l.w.id, storage.StringKey(l.w.id).Str(string(s.kind)), func(r *row) bool { return s.holds(r) && !(l.shallow && r.isSnapshot()) })
}

// remove removes what was known and not found, and writes what is left to write.
func (l *lister) remove(ctx context.Context, have known) error {
	if err := l.confirm(ctx, have); err != nil {
		return err
	}
	for key := range have {
		if err := l.batch.remove(ctx, storage.Key(key)); err != nil {
			return err
		}
	}
	return l.batch.flush(ctx)
}

// all lists a scope, and writes what has changed. Errors of the daemon's own are for the
// caller where they are about the kind, and noted where they are about one parent.
func (l *lister) all(ctx context.Context, s scope) error {
	info := s.kind.info()
	l.read.entries = 0
	have, err := l.known(ctx, s)
	if err != nil {
		return err
	}
	before, cut := l.missed, l.cut
	if s.kind == KindInstance {
		defer func() { l.w.doubtful = l.doubtful }()
	}
	if info.parent == "" {
		err := l.list(ctx, have, ref{kind: s.kind}, listPath(info), nil)
		if status(err) == http.StatusRequestEntityTooLarge {
			have, err = l.singly(ctx, s)
		}
		if err != nil {
			return l.note(err, "")
		}
	} else {
		parents, err := l.w.parents(ctx, info, s.parent)
		if err != nil {
			return err
		}
		for _, p := range parents {
			what := ref{kind: s.kind, parent: p.Name, project: p.Project}
			if err := l.w.looks.Wait(ctx); err != nil {
				return err
			}
			var err error
			if s.kind == KindStorageVolume && l.w.apart() {
				err = l.volumes(ctx, have, what, childPath(info, p))
			} else {
				err = l.list(ctx, have, what, childPath(info, p), nil)
			}
			if err != nil && !unsupported(err) {
				if err := l.note(err, p.Name); err != nil {
					return err
				}
			}
		}
	}
	if l.missed != before || l.cut != cut {
		return l.batch.flush(ctx)
	}
	return l.remove(ctx, have)
}

// note keeps an error of the daemon's own, which is no reason to give up; others, and those
// that say that there is no such kind, are the caller's.
func (l *lister) note(err error, parent string) error {
	if status(err) == 0 || parent == "" && unsupported(err) {
		return err
	}
	if parent != "" {
		err = fmt.Errorf("in %s: %w", limited(parent), err)
	}
	l.miss(err)
	return nil
}

// row makes a row of what Incus tells of an object; nil: it is none that is kept, or not understood, which is noted.
func (l *lister) row(what ref, data []byte) *row {
	found, err := normalize(what, data, l.w.m.options.KeepSecrets, &l.scratch)
	if err == nil {
		return found
	}
	switch {
	case errors.Is(err, errNames):
		l.w.excess.names++
	case !errors.Is(err, errUnmanaged):
		l.miss(err)
	}
	return nil
}

// list reads a list, and takes what it finds out of what is known. seen, if it is not nil, is told of each.
func (l *lister) list(ctx context.Context, have known, what ref, path string, seen func(*row)) error {
	return l.readList(ctx, path, func(entry json.RawMessage) error {
		found := l.row(what, entry)
		if found == nil {
			return nil
		}
		l.doubtful = l.doubtful || inError(found)
		if seen != nil {
			seen(found)
		}
		return l.batch.compare(ctx, have, found)
	})
}

// inError reports whether an instance's status is Error: its own, or that of a member that
// does not answer, and no event tells when it does again.
func inError(r *row) bool {
	return r.Kind == KindInstance && bytes.Contains(r.Object, []byte(`"status":"Error"`))
}

func listPath(info *kindInfo) string {
	path := "/1.0/" + info.collection + "?recursion=" + info.recursion
	if info.project {
		path += "&all-projects=true"
	}
	return path
}

// parent is what objects are in.
type parent struct{ Name, Project string }

func childPath(info *kindInfo, p parent) string {
	path := "/1.0/" + info.parent.info().collection + "/" + url.PathEscape(p.Name) + "/" + info.collection + "?recursion=" + info.recursion
	if info.parent == KindNetwork {
		return path + "&project=" + url.QueryEscape(p.Project)
	}
	return path + "&all-projects=true"
}

// parents returns the networks, or storage pools, that may have objects of a kind.
func (w *worker) parents(ctx context.Context, info *kindInfo, name string) (out []parent, err error) {
	err = w.m.registry.Read(ctx, func(s *opscenter.Snapshot) error {
		out = nil
		for r, err := range objects.Scan(s, storage.Range{Prefix: storage.StringKey(w.id).Str(string(info.parent))}) {
			if err != nil {
				return err
			}
			if name != "" && r.Name != name {
				continue
			}
			if info.parents != nil {
				var object struct {
					Type string `json:"type"`
				}
				if r, err = r.unpack(); err != nil {
					return err
				}
				if json.Unmarshal(r.Object, &object) != nil || !slices.Contains(info.parents, object.Type) {
					continue
				}
			}
			out = append(out, parent{r.Name, r.Project})
		}
		return nil
	})
	return out, err
}

// relist lists scopes again.
func (w *worker) relist(ctx context.Context, scopes map[scope]cause) error {
	release, err := w.m.lists.acquire(ctx, w.m.options.SlowAfter)
	if err != nil {
		return err
	}
	defer release()
	ctx, cancel := context.WithTimeout(ctx, w.m.options.ScanTimeout)
	defer cancel()
	for i := range kinds { // parents first
		for s, why := range scopes {
			if s.kind != kinds[i].kind || w.missing(&kinds[i]) != "" {
				continue
			}
			if _, whole := scopes[scope{kind: s.kind}]; whole && s.parent != "" {
				continue
			}
			l := w.lister(origin{source: SourceEvent, cause: why, silent: w.unread[s.kind]})
			l.shallow = w.apart()
			err := l.all(ctx, s)
			if err != nil && status(err) == 0 {
				return err
			}
			if err = errors.Join(err, l.unread); err != nil {
				w.demand("a list could not be read: " + limited(err.Error()))
				return nil
			}
			if l.cut > 0 { // what is too long is not read at each event
				w.demand("a list is too long to be read as a whole")
				return w.judgeExcess(ctx, false)
			}
		}
	}
	return w.judgeExcess(ctx, false)
}

// lookAtMembers finds out whether a member has died or come back: there may be events that
// never reached us then, and instances that nobody spoke of.
func (w *worker) lookAtMembers(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, refreshTimeout)
	defer cancel()
	if w.doubtful {
		w.mu.Lock()
		if w.pending.empty() {
			w.since = time.Now()
		}
		w.pending.scopes[scope{kind: KindInstance}] = cause{}
		w.mu.Unlock()
	}
	if !w.daemon.Clustered {
		return nil // the stream of events, or the poller, tells when it is gone
	}
	l := w.lister(origin{source: SourceScan})
	err := l.all(ctx, scope{kind: KindClusterMember})
	if err != nil && status(err) == 0 {
		return err
	}
	if l.batch.wrote > 0 {
		w.demand("a member of the cluster has changed")
	}
	return nil
}
