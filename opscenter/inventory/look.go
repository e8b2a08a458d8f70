package inventory

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/opscenter-go/sdk/internal/truncate"
	"github.com/opscenter-go/sdk/storage"
)

// runTask carries out the rename or the reading that an event caused.
func (w *worker) runTask(ctx context.Context, t *task) error {
	if t.renamed != nil {
		err := w.batch(origin{source: SourceEvent, cause: t.cause}).rename(ctx, *t.renamed, t.ref, t.at)
		if errors.Is(err, errManyRows) || errors.Is(err, storage.ErrTooLarge) {
			w.demandScan(truncate.Text(err.Error(), maxText))
			return nil
		}
		return err
	}
	err := w.refresh(ctx, t.ref, t.cause)
	if err != nil && (status(err) != 0 || errors.Is(err, errUnread)) {
		if !t.again { // a daemon may refuse an instance that starts or stops at this moment
			w.settleLater(late{ref: t.ref, again: true, cause: t.cause}, w.m.options.Settle/soonShare)
			return nil
		}
		// The daemon could not answer, as when the object's member is down.
		w.demandScan("an object could not be read: " + truncate.Text(err.Error(), maxText))
		return nil
	}
	return err
}

// refresh reads one object, and writes its changes.
func (w *worker) refresh(ctx context.Context, r ref, why cause) error {
	info := r.kind.info()
	if w.skipReason(info) != "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, refreshTimeout)
	defer cancel()
	l := w.lister(origin{source: SourceEvent, cause: why, silent: w.unread[r.kind]})
	have := known{}
	if err := w.add(ctx, have, r); err != nil {
		return err
	}
	var err error
	if r.kind == KindClusterMember || info.parent != "" {
		err = l.search(ctx, have, r)
	} else {
		err = l.get(ctx, have, r)
	}
	if status(err) == http.StatusNotFound && (info.parent != "" || r.kind == KindClusterMember) {
		// A list is answered with 404, too, if one of its entries is removed meanwhile.
		if there, parentErr := w.parentIsThere(ctx, r); there || parentErr != nil {
			return fmt.Errorf("%w: %w", errUnread, errors.Join(err, parentErr))
		}
	} else if err != nil && status(err) != http.StatusNotFound {
		return err
	}
	if l.unread != nil {
		return fmt.Errorf("%w: %w", errUnread, errors.Join(l.unread, l.batch.flush(ctx)))
	}
	if err := l.remove(ctx, have); err != nil {
		return err
	}
	if l.unread != nil {
		return fmt.Errorf("%w: %w", errUnread, l.unread)
	}
	return nil
}

// parentIsThere reports whether the parent of an object exists.
func (w *worker) parentIsThere(ctx context.Context, r ref) (bool, error) {
	if r.kind == KindClusterMember {
		return true, nil
	}
	parent := r.kind.info().parent.info()
	path := "/1.0/" + parent.collection + "/" + url.PathEscape(r.parent)
	if parent.project {
		path += "?project=" + url.QueryEscape(r.project)
	}
	_, err := w.m.incus.ReadObject(ctx, w.target, path)
	if status(err) == http.StatusNotFound {
		return false, nil
	}
	return err == nil, err
}

// errUnread: the answer of the daemon was not understood.
var errUnread = errors.New("not understood")

// add adds the stored rows of an object to have.
func (w *worker) add(ctx context.Context, have known, r ref) error {
	more, err := w.m.known(ctx, w.id, r.prefix(w.id), func(*row) bool { return true })
	for key, sum := range more {
		have[key] = sum
	}
	return err
}

// get reads an object by its path.
func (l *lister) get(ctx context.Context, have known, r ref) error {
	info := r.kind.info()
	path, query := "/1.0/"+info.collection+"/"+url.PathEscape(r.name), url.Values{}
	if info.project {
		query.Set("project", r.project)
	}
	if r.kind == KindInstance {
		query.Set("recursion", "1")
	}
	data, err := l.readObject(ctx, path+"?"+query.Encode())
	if status(err) == http.StatusRequestEntityTooLarge {
		return l.getPart(ctx, have, r, path, query)
	}
	if err != nil {
		return err
	}
	return l.found(ctx, have, r, data, nil)
}

// getPart reads an object that is too large for one answer. An instance is read without backups, snapshots and state.
// Otherwise, only the name is kept.
func (l *lister) getPart(ctx context.Context, have known, r ref, path string, query url.Values) error {
	var missing []string
	var data json.RawMessage
	var err error
	if r.kind == KindInstance {
		query.Del("recursion")
		missing = []string{"backups", "snapshots", "state"}
		data, err = l.readObject(ctx, path+"?"+query.Encode())
	}
	if r.kind != KindInstance || status(err) == http.StatusRequestEntityTooLarge {
		missing = []string{TruncatedAll}
		member, object := "name", map[string]string{}
		if r.kind == KindImage {
			member = "fingerprint"
		}
		if object[member] = r.name; r.kind.info().project {
			object["project"] = r.project
		}
		data, err = json.Marshal(object)
	}
	if err != nil {
		return err
	}
	return l.found(ctx, have, r, data, missing)
}

// listSingly reads the objects of a scope one by one, because one is too large for a list.
func (l *lister) listSingly(ctx context.Context, s scope) (known, error) {
	if err := l.batch.flush(ctx); err != nil {
		return nil, err
	}
	have, err := l.known(ctx, s)
	if err != nil {
		return nil, err
	}
	info := s.kind.info()
	path := "/1.0/" + info.collection
	if info.project {
		path += "?all-projects=true"
	}
	var refs []ref
	err = l.readList(ctx, path, func(entry json.RawMessage) error {
		var source string
		if err := json.Unmarshal(entry, &source); err != nil {
			return fmt.Errorf("%w: %w", errUnread, err)
		}
		if len(source) > MaxSourceLength {
			l.w.excess.names++
			return nil
		}
		r, ok := parseSource(s.kind, &Event{Source: source})
		if !ok {
			return fmt.Errorf("%w: %s", errUnread, truncate.Text(source, maxText))
		}
		if len(refs) == l.budget.objects {
			return errCut
		}
		refs = append(refs, r)
		return nil
	})
	if err != nil {
		return nil, err
	}
	if err := l.w.judgeExcess(ctx, false); err != nil {
		return nil, err
	}
	for _, r := range refs {
		if err := l.w.looks.Wait(ctx); err != nil {
			return nil, err
		}
		switch err := l.get(ctx, have, r); {
		case errors.Is(err, errCut):
			l.w.excess.cut = true
			l.cut++
			return have, nil
		case err == nil, status(err) == http.StatusNotFound:
		case status(err) != 0:
			l.noteUnread(err)
		default:
			return nil, err
		}
	}
	return have, nil
}

// search reads all objects of a name, where each member may have one.
func (l *lister) search(ctx context.Context, have known, r ref) error {
	if r.kind == KindStorageVolume && r.typ == "custom" && l.w.listsSnapshotsApart() {
		return l.volume(ctx, have, r)
	}
	return l.readList(ctx, searchPath(r), func(entry json.RawMessage) error { return l.found(ctx, have, r, entry, nil) })
}

// searchPath returns the path of the shortest list that has the object.
func searchPath(r ref) string {
	info := r.kind.info()
	if info.parent == "" {
		return listPath(info)
	}
	path := "/1.0/" + info.parent.info().collection + "/" + url.PathEscape(r.parent) + "/" + info.collection
	if r.typ != "" {
		path += "/" + url.PathEscape(r.typ)
	}
	path += "?recursion=" + info.recursion + "&project=" + url.QueryEscape(r.project)
	if r.kind == KindStorageVolume && plainName(r.name) {
		path += "&filter=" + url.QueryEscape("name eq "+r.name)
	}
	return path
}

// plainName reports whether a filter of Incus for this name matches at least that name.
func plainName(name string) bool {
	return !strings.ContainsFunc(name, func(r rune) bool {
		return r != '-' && r != '_' && r != '.' && r != '/' && (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z')
	})
}

// found takes in an entry if it is the wanted object. missing are members that the request left out.
func (l *lister) found(ctx context.Context, have known, r ref, data json.RawMessage, missing []string) error {
	found := l.row(r, data)
	if found == nil || found.Name != r.name || found.Type != r.typ {
		return nil
	}
	found.Truncated = append(found.Truncated, missing...)
	if found.Project != r.project { // the project uses the objects of the default project
		if err := l.w.add(ctx, have, found.ref()); err != nil {
			return err
		}
	}
	l.w.doubtful = l.w.doubtful || inError(found)
	return l.batch.compare(ctx, have, found)
}
