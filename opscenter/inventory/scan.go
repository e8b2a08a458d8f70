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

	"github.com/opscenter-go/sdk/internal/truncate"
	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/storage"
)

// scanRetry is the first pause after an incomplete scan. It doubles with each.
const scanRetry = 5 * time.Second

// minScanGap is the least pause between two scans that events cause.
const minScanGap = time.Second

// refreshTimeout bounds the reading of one object, and that of the members.
const refreshTimeout = time.Minute

// lister reads lists into a batch.
type lister struct {
	w     *worker
	batch *batch
	// unread is the first error of an object or list that could not be read, and missed counts them. Nothing is removed
	// from a list with such an error.
	unread error
	missed int
	// doubtful: an instance is in error, which may mean that its member does not answer.
	doubtful bool
	// shallow leaves the snapshots of volumes as they are, where the daemon lists them apart. An event about a volume
	// causes a reading of its snapshots anyway.
	shallow bool
	// unreachable tells for each member whether the snapshots of its volumes can't be read. partial counts the volumes
	// whose snapshots failed for another reason.
	unreachable map[string]bool
	partial     int
	// budget is that of the unit, read counts the entries and bytes, and cut counts the lists that were not read to their end.
	budget budget
	read   reading
	cut    int
	// patience is the time for which the lister may still wait for events.
	patience time.Duration

	scratch scratch
}

// noteUnread notes an object or list that could not be read.
func (l *lister) noteUnread(err error) {
	if l.missed++; l.missed == 1 {
		l.unread = err
	}
}

func (w *worker) lister(o origin) *lister {
	b := w.batch(o)
	return &lister{w: w, batch: b, budget: b.budget, patience: eventDelay}
}

// status returns the HTTP status of a Refusal. 0: the daemon was not reached.
func status(err error) int {
	var refusal Refusal
	if errors.As(err, &refusal) {
		return refusal.Status()
	}
	return 0
}

// unsupported reports whether a daemon answered that it does not have such objects. A 404 does not mean that: Incus
// answers a list with 404 if one of its entries is removed meanwhile.
func unsupported(err error) bool {
	code := status(err)
	return code == http.StatusNotImplemented || code == http.StatusBadRequest && strings.Contains(err.Error(), "not support")
}

// scan lists all objects of the unit, and writes the changes. An error ends the session. Objects and lists that
// could not be read are no error: another scan is due for them.
func (w *worker) scan(ctx context.Context, why string) error {
	release, err := w.m.scans.acquire(ctx, w.m.options.SlowAfter)
	if err != nil {
		return err
	}
	defer release()
	w.m.log.DebugContext(ctx, "a unit is scanned", "unit", w.id, "reason", why)
	at, waited := time.Now(), w.waited
	bounded, cancel := context.WithTimeout(ctx, w.m.options.ScanTimeout)
	defer cancel()
	begun, err := w.loadUnread(ctx)
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
		why := w.skipReason(info)
		if why == "" {
			missed := l.missed + l.partial
			err = l.listScope(bounded, scope{kind: info.kind})
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
			why = truncate.Text(err.Error(), maxText)
		}
		skipped[info.kind] = why
		if err := l.removeKind(bounded, info.kind); err != nil {
			return err
		}
	}
	if err := w.storeScanned(ctx, begun, unread); err != nil {
		return err
	}
	if err := w.judgeExcess(ctx, l.unread == nil); err != nil {
		return err
	}
	took := time.Since(at) - (w.waited - waited)
	rest := w.m.options.rest(took)
	w.scanNext, w.excessNext = time.Now().Add(max(minScanGap, rest)), time.Time{}
	if w.excess != (excess{}) {
		w.excessNext = time.Now().Add(max(minScanGap, rest, w.m.options.MaxBackoff))
	}
	w.set(func(s *Status) {
		s.Skipped, s.Scans = skipped, s.Scans+1
		if l.unread == nil {
			s.ScannedAt, s.ScanTook, s.ScanReason = w.m.now(), took, why
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
			s.FailedAt = w.m.now()
		}
		s.Following, s.Failure, s.NextRetry = false, truncate.Text(fmt.Sprintf("%d objects or lists could not be read, the first: %v", l.missed+l.partial, l.unread), maxText), w.scanRetry.UTC().Round(0)
	})
	w.m.log.WarnContext(ctx, "a scan of the inventory was incomplete, and is tried again", "unit", w.id, "missed", l.missed+l.partial, "error", truncate.Text(l.unread.Error(), maxText))
	return nil
}

// loadUnread loads the kinds never fully scanned; their first results are no changes. It returns the stored row of the
// unit. Nil: there is none.
func (w *worker) loadUnread(ctx context.Context) (u *unitRow, err error) {
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

// storeScanned stores the kinds that were never fully scanned, and the name of the unit. It records a change if kinds were
// fully scanned for the first time.
func (w *worker) storeScanned(ctx context.Context, before *unitRow, unread map[Kind]bool) error {
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
			next.ScannedAt = tx.Now()
		}
		if first || len(next.Unread) < len(before.Unread) {
			if err := w.m.record(tx, w.budget().servers, []changeRow{next.change(ChangeClusterAdded, tx.Now())}); err != nil {
				return err
			}
		}
		return units.Put(tx, &next)
	})
}

// skipReason returns the reason why the daemon has no objects of a kind. Empty: it may have some.
func (w *worker) skipReason(info *kindInfo) string {
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

// removeKind removes all objects of a kind that the daemon does not offer.
func (l *lister) removeKind(ctx context.Context, kind Kind) error {
	have, err := l.known(ctx, scope{kind: kind})
	if err != nil {
		return err
	}
	return l.remove(ctx, have)
}

// known returns the stored objects of a scope.
func (l *lister) known(ctx context.Context, s scope) (known, error) {
	return l.w.m.known(ctx, l.w.id, storage.StringKey(l.w.id).Str(string(s.kind)), func(r *row) bool { return s.holds(r) && !(l.shallow && r.isSnapshot()) })
}

// listScope lists a scope, and writes the changes. It returns an error if the daemon was not reached, or does not offer
// the kind. It notes a refused list, and leaves the objects of that list as they are.
func (l *lister) listScope(ctx context.Context, s scope) error {
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
			have, err = l.listSingly(ctx, s)
		}
		if err != nil {
			return l.noteRefusal(err, "")
		}
	} else {
		parents, err := l.w.parents(ctx, info, s.parent)
		if err != nil {
			return err
		}
		for _, p := range parents {
			of := ref{kind: s.kind, parent: p.Name, project: p.Project}
			if err := l.w.looks.Wait(ctx); err != nil {
				return err
			}
			var err error
			if s.kind == KindStorageVolume && l.w.listsSnapshotsApart() {
				err = l.volumes(ctx, have, of, childPath(info, p))
			} else {
				err = l.list(ctx, have, of, childPath(info, p), nil)
			}
			if err != nil && !unsupported(err) {
				if err := l.noteRefusal(err, p.Name); err != nil {
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

// noteRefusal notes a refusal, after which the scan goes on. It returns other errors, and refusals that say that the
// daemon does not offer the kind.
func (l *lister) noteRefusal(err error, parent string) error {
	if status(err) == 0 || parent == "" && unsupported(err) {
		return err
	}
	if parent != "" {
		err = fmt.Errorf("in %s: %w", truncate.Text(parent, maxText), err)
	}
	l.noteUnread(err)
	return nil
}

// row turns an object of Incus into a row. Nil: the object is not kept, or it was not understood, which row notes.
func (l *lister) row(of ref, data []byte) *row {
	found, err := normalize(of, data, l.w.m.options.KeepSecrets, &l.scratch)
	if err == nil {
		return found
	}
	switch {
	case errors.Is(err, errNames):
		l.w.excess.names++
	case !errors.Is(err, errUnmanaged):
		l.noteUnread(err)
	}
	return nil
}

// list reads a list, writes the changed objects, and removes each found object from have. It calls seen, unless nil,
// with each row.
func (l *lister) list(ctx context.Context, have known, of ref, path string, seen func(*row)) error {
	return l.readList(ctx, path, func(entry json.RawMessage) error {
		found := l.row(of, entry)
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

// inError reports whether the status of an instance is Error. Either the instance has failed, or its member does not
// answer. No event reports when the member answers again.
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

// parent identifies the parent of objects.
type parent struct{ Name, Project string }

func childPath(info *kindInfo, p parent) string {
	path := "/1.0/" + info.parent.info().collection + "/" + url.PathEscape(p.Name) + "/" + info.collection + "?recursion=" + info.recursion
	if info.parent == KindNetwork {
		return path + "&project=" + url.QueryEscape(p.Project)
	}
	return path + "&all-projects=true"
}

// parents returns the networks or storage pools that may have objects of a kind. An empty name selects all.
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

// relist reads the lists of scopes again.
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
			if s.kind != kinds[i].kind || w.skipReason(&kinds[i]) != "" {
				continue
			}
			if _, whole := scopes[scope{kind: s.kind}]; whole && s.parent != "" {
				continue
			}
			l := w.lister(origin{source: SourceEvent, cause: why, silent: w.unread[s.kind]})
			l.shallow = w.listsSnapshotsApart()
			err := l.listScope(ctx, s)
			if err != nil && status(err) == 0 {
				return err
			}
			if err = errors.Join(err, l.unread); err != nil {
				w.demandScan("a list could not be read: " + truncate.Text(err.Error(), maxText))
				return nil
			}
			if l.cut > 0 { // a list that is too long is not read after each event
				w.demandScan("a list is too long to be read as a whole")
				return w.judgeExcess(ctx, false)
			}
		}
	}
	return w.judgeExcess(ctx, false)
}

// checkMembers reads the members of the cluster. If one has died or come back, it asks for a scan, because events may be
// lost. It also has instances in error read again.
func (w *worker) checkMembers(ctx context.Context) error {
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
		return nil // the lost stream, or the poller, shows that a single server is gone
	}
	l := w.lister(origin{source: SourceScan})
	err := l.listScope(ctx, scope{kind: KindClusterMember})
	if err != nil && status(err) == 0 {
		return err
	}
	if l.batch.wrote > 0 {
		w.demandScan("a member of the cluster has changed")
	}
	return nil
}
