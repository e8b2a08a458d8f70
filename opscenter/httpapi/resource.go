package httpapi

import (
	"cmp"
	"context"
	"fmt"
	"net/http"

	"github.com/opscenter-go/sdk/opscenter"
)

// resource says how the API shows objects of one kind: one by itself, lists, and a new one.
type resource[T any] struct {
	h *Handler
	// path returns the path of an object. nil: lists show objects whole, with and without recursion.
	path func(T) string
	// show returns the document that GET answers with.
	show func(context.Context, T) (any, error)
	// covers returns the part of an object that its ETag covers. nil: objects have no ETags.
	covers func(T) any
	// step is how many objects of a list are read, and held, at a time. Default pageStep.
	step int
}

// always makes resource.show of a function that cannot fail.
func always[T, S any](show func(T) S) func(context.Context, T) (any, error) {
	return func(_ context.Context, one T) (any, error) { return show(one), nil }
}

// answer answers with an object, or with the error of reading it.
func (o resource[T]) answer(w http.ResponseWriter, r *http.Request, found T, err error) {
	var shown any
	if err == nil {
		shown, err = o.show(r.Context(), found)
	}
	if err == nil && o.covers != nil {
		w.Header().Set("ETag", etag(o.covers(found)))
	}
	o.h.answer(w, r, shown, err)
}

// get answers with the object that the path names, by {name} or {uuid}.
func (o resource[T]) get(read func(context.Context, string) (T, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		found, err := read(r.Context(), cmp.Or(r.PathValue("name"), r.PathValue("uuid")))
		o.answer(w, r, found, err)
	}
}

// created answers with an object that was made, and with its path, or with the error of making it.
func (o resource[T]) created(w http.ResponseWriter, r *http.Request, made T, err error) {
	var shown any
	if err == nil {
		shown, err = o.show(r.Context(), made)
	}
	if err != nil {
		o.h.fail(w, r, err)
		return
	}
	respondCreated(w, o.path(made), shown)
}

// list answers with a list of objects, or with the error of reading the query. read returns a page and the cursor of the
// next one.
func (o resource[T]) list(w http.ResponseWriter, r *http.Request, q *query, err error, read func(opscenter.Page) ([]T, string, error)) {
	if err != nil {
		o.h.fail(w, r, err)
		return
	}
	out := newList(w, o.h)
	err = q.pages(cmp.Or(o.step, pageStep), func(page opscenter.Page) (int, string, error) {
		found, next, err := read(page)
		for _, one := range found {
			if !q.recursion && o.path != nil {
				out.add(o.path(one))
				continue
			}
			shown, err := o.show(r.Context(), one)
			if err != nil {
				return 0, "", err
			}
			out.add(shown)
		}
		return len(found), next, err
	})
	out.end(r, q.next, err)
}

// pointers returns pointers to the elements of a list.
func pointers[T any](list []T) []*T {
	out := make([]*T, len(list))
	for i := range list {
		out[i] = &list[i]
	}
	return out
}

// behind returns the cursor of the page behind one that was read with a limit: that of its last object. Empty: the page is not
// full, and so the last.
func behind[T any](page []T, limit int, cursor func(T) string) string {
	if len(page) == 0 || len(page) < limit {
		return ""
	}
	return cursor(page[len(page)-1])
}

// matches returns opscenter.ErrPrecondition unless the request's If-Match, if it has one, names the object's ETag.
func (o resource[T]) matches(r *http.Request, one T) error { return matches(r, etag(o.covers(one))) }

// renamed is the new name of an object.
type renamed struct {
	Name string `json:"name"`
}

// rename gives the object that the path names the name in the body. Shown is the document that GET answers with. path
// returns where the object is from then on.
func rename[Shown, T any](o resource[T], path func(name string) string, do func(ctx context.Context, name, to string, check func(T) error) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var body renamed
		err := decode(r, &body, renaming[Shown]())
		if err == nil && body.Name == "" {
			err = fmt.Errorf("%w: field name: the new name is wanted", errBody)
		}
		if err == nil {
			err = do(r.Context(), r.PathValue("name"), body.Name, func(one T) error { return o.matches(r, one) })
		}
		if err != nil {
			o.h.fail(w, r, err)
			return
		}
		respondCreated(w, path(body.Name), nil)
	}
}
