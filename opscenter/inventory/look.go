package inventory

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/storage"
)

// do does what an event about an object has made necessary.
func (w *worker) do(ctx context.Context, t *task) error {
	if t.renamed != nil {
		err := w.batch(origin{source: SourceEvent, cause: t.cause}).rename(ctx, *t.renamed, t.ref, t.at)
		if errors.Is(err, errManyRows) || errors.Is(err, storage.ErrTooLarge) {
			w.demand(limited(err.Error()))
			return nil
		}
		return err
	}
	err := w.refresh(ctx, t.ref, t.cause)
	if err != nil && (status(err) != 0 || errors.Is(err, errUnread)) {
		// It could not say, as when the member that has it is away.
		w.demand("an object could not be read: " + limited(err.Error()))
		return nil
	}
	return err
}

// refresh looks at one object, and writes what has changed of it.
func (w *worker) refresh(ctx context.Context, r ref, why cause) error {
	info := r.kind.info()
	if w.missing(info) != "" {
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
		// A whole list is answered so if one of its entries goes meanwhile.
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

// parentIsThere asks for what an object is in.
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

// confirmAfter are the pauses before an instance that was not found is looked for again.
var confirmAfter = []time.Duration{100 * time.Millisecond, 400 * time.Millisecond}

// confirm looks once more for instances of a cluster that were not found: while one moves from
// a member to another, neither may own up to it, and it would come back as another object.
// Where an event has said that it is gone, it is.
func (l *lister) confirm(ctx context.Context, have known) error {
	if len(have) == 0 || !l.w.daemon.Clustered || l.batch.origin.cause.action == "instance-deleted" {
		return nil
	}
	var lost []ref
	err := l.w.m.registry.Read(ctx, func(s *opscenter.Snapshot) error {
		lost = nil
		for key := range have {
			r, err := objects.Find(s, storage.Key(key))
			if err != nil {
				return err
			}
			if r != nil && r.Kind == KindInstance {
				lost = append(lost, r.ref())
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	for i := 0; i < len(confirmAfter) && len(lost) > 0; i++ {
		select {
		case <-time.After(confirmAfter[i]):
		case <-ctx.Done():
			return ctx.Err()
		}
		var still []ref
		for _, r := range lost {
			err := l.get(ctx, have, r)
			switch {
			case status(err) == http.StatusNotFound:
				still = append(still, r)
			case err != nil && status(err) == 0 && !errors.Is(err, errCut):
				return err
			default: // found, or it could not say: then what was known of it stays
				if err != nil {
					l.miss(err)
				}
				delete(have, string(r.prefix(l.w.id)))
			}
		}
		lost = still
	}
	return nil
}

// errUnread: the daemon has answered, and not what could be understood.
var errUnread = errors.New("not understood")

// add adds what is stored of an object to what is known.
func (w *worker) add(ctx context.Context, have known, r ref) error {
	more, err := w.m.known(ctx, w.id, r.prefix(w.id), func(*row) bool { return true })
	for key, sum := range more {
		have[key] = sum
	}
	return err
}

// get asks for an object by its path.
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
		return l.getSome(ctx, have, r, path, query)
	}
	if err != nil {
		return err
	}
	return l.found(ctx, have, r, data, nil)
}

// getSome keeps of an object that is too large what there is of it without its parts, or that
// it is there.
func (l *lister) getSome(ctx context.Context, have known, r ref, path string, query url.Values) error {
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

// singly reads what is listed object by object, where one is too large for the list.
func (l *lister) singly(ctx context.Context, s scope) (known, error) {
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
			return fmt.Errorf("%w: %s", errUnread, limited(source))
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
			l.miss(err)
		default:
			return nil, err
		}
	}
	return have, nil
}

// search looks for an object where there may be several of its name, one a member.
func (l *lister) search(ctx context.Context, have known, r ref) error {
	if r.kind == KindStorageVolume && r.typ == "custom" && l.w.apart() {
		return l.volume(ctx, have, r)
	}
	return l.readList(ctx, searchPath(r), func(entry json.RawMessage) error { return l.found(ctx, have, r, entry, nil) })
}

// searchPath is where an object is listed, with as few others as may be.
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
	if r.kind == KindStorageVolume && plain(r.name) {
		path += "&filter=" + url.QueryEscape("name eq "+r.name)
	}
	return path
}

// plain reports whether a name means itself in a filter of Incus's, or more, and never less.
func plain(name string) bool {
	return !strings.ContainsFunc(name, func(r rune) bool {
		return r != '-' && r != '_' && r != '.' && r != '/' && (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z')
	})
}

// found takes in an object, if it is the one that is looked for. missing are members that were not asked for.
func (l *lister) found(ctx context.Context, have known, r ref, data json.RawMessage, missing []string) error {
	found := l.row(r, data)
	if found == nil || found.Name != r.name || found.Type != r.typ {
		return nil
	}
	found.Truncated = append(found.Truncated, missing...)
	if found.Project != r.project { // the project has none of its own, and this is the default one's
		if err := l.w.add(ctx, have, found.ref()); err != nil {
			return err
		}
	}
	l.w.doubtful = l.w.doubtful || inError(found)
	return l.batch.compare(ctx, have, found)
}
