package httpapi

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/opscenter-go/sdk/opscenter"
)

// query holds the parameters of a request, and those that all lists understand.
type query struct {
	values    url.Values
	recursion bool
	limit     int // 0: all
	cursor    string
	next      string // the cursor of the page after the listed one
}

type queryKey struct{}

// queryOf returns the parameters of a request, which its route knows.
func queryOf(r *http.Request) *query {
	q, _ := r.Context().Value(queryKey{}).(*query)
	return q
}

// parseQuery reads the parameters of a request. It refuses parameters that its route does not know, because an ignored filter would
// list too much.
func parseQuery(r *http.Request, rt *route) (*query, error) {
	values, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, fmt.Errorf("%w: the query can't be read", errBody)
	}
	for name, given := range values {
		known, repeated := rt.takes(name)
		if !known {
			return nil, fmt.Errorf("%w: parameter %.80q is not known here", errBody, name)
		}
		if len(given) > 1 && !repeated {
			return nil, fmt.Errorf("%w: parameter %s is given %d times", errBody, name, len(given))
		}
	}
	q := &query{values: values, cursor: values.Get("cursor")}
	switch values.Get("recursion") {
	case "", "0":
	case "1":
		q.recursion = true
	default:
		return nil, fmt.Errorf("%w: recursion is 0 or 1", errBody)
	}
	if text := values.Get("limit"); text != "" {
		if q.limit, err = strconv.Atoi(text); err != nil || q.limit < 1 {
			return nil, fmt.Errorf("%w: limit %.20q is not a positive number", errBody, text)
		}
	}
	return q, nil
}

// valueOf returns a parameter, empty if it isn't given.
func (q *query) valueOf(name string) string { return q.values.Get(name) }

// flagOr returns a parameter that is true or false, or otherwise if it isn't given.
func (q *query) flagOr(name string, otherwise bool) (bool, error) {
	value, err := q.flag(name)
	if value == nil {
		return otherwise, err
	}
	return *value, err
}

// flag returns a parameter that is true or false, nil if it isn't given.
func (q *query) flag(name string) (*bool, error) {
	text := q.values.Get(name)
	if text == "" {
		return nil, nil
	}
	value, err := strconv.ParseBool(text)
	if err != nil {
		return nil, fmt.Errorf("%w: %s %.20q is neither true nor false", errBody, name, text)
	}
	return &value, nil
}

// pageStep is how many rows are read, and held, at a time, unless resource.step says otherwise.
const pageStep = 32

// pages reads pages of step rows, until the limit or the end. read returns how many rows it got and the next cursor.
func (q *query) pages(step int, read func(opscenter.Page) (int, string, error)) error {
	page, left := opscenter.Page{Cursor: q.cursor, Limit: step}, q.limit
	for {
		if q.limit > 0 {
			page.Limit = min(step, left)
		}
		n, next, err := read(page)
		if err != nil {
			return err
		}
		left -= n
		page.Cursor = next
		if next == "" || q.limit > 0 && left <= 0 {
			q.next = next
			return nil
		}
	}
}

// list writes an answer whose metadata is a list, entry by entry: a long list is sent while it is read. An error before the first
// entry is answered as an error. An error after it cuts the connection, so that the client does not take half a list for the whole.
type list struct {
	w       http.ResponseWriter
	out     *bufio.Writer
	handler *Handler
	begun   bool
	failed  error
	sent    time.Time
}

func newList(w http.ResponseWriter, h *Handler) *list {
	return &list{w: w, out: bufio.NewWriterSize(w, 32<<10), handler: h}
}

func (l *list) begin() {
	l.begun = true
	l.w.Header().Set("Content-Type", "application/json")
	l.w.WriteHeader(http.StatusOK)
	_, _ = l.out.WriteString(successBegin + "[")
}

func (l *list) add(entry any) {
	if one, ok := entry.(*document); ok {
		l.part(one.before)
		l.frame(one.frame)
		l.write(one.after)
		return
	}
	data, err := json.Marshal(entry)
	if err != nil && l.failed == nil {
		l.failed = err
	}
	l.part(data)
}

// part begins an entry of the list with its first bytes, or with all of them.
func (l *list) part(first ...[]byte) {
	if l.failed != nil {
		return
	}
	begins := !l.begun
	if begins {
		l.begin()
	} else {
		_ = l.out.WriteByte(',')
	}
	l.write(first...)
	if begins && l.failed == nil { // the client can begin with the first entry
		l.failed = l.out.Flush()
		_ = http.NewResponseController(l.w).Flush()
	}
}

// write writes further bytes of an entry.
func (l *list) write(data ...[]byte) {
	if l.failed != nil {
		return
	}
	if at := time.Now(); at.Sub(l.sent) > time.Second {
		l.sent = at
		_ = http.NewResponseController(l.w).SetWriteDeadline(at.Add(l.handler.options.WriteTimeout))
	}
	for _, d := range data {
		if _, err := l.out.Write(d); err != nil {
			l.failed = err
			return
		}
	}
}

// frame writes further bytes of an entry that are compressed already. The list's writer is a zstdWriter.
func (l *list) frame(data []byte) {
	if l.failed != nil || data == nil {
		return
	}
	if l.failed = l.out.Flush(); l.failed == nil {
		l.failed = l.w.(*zstdWriter).frame(data)
	}
}

// end closes the list. next_cursor is the cursor of the next page, if there is one.
func (l *list) end(r *http.Request, next string, err error) {
	if err == nil {
		err = l.failed
	}
	switch {
	case err != nil && !l.begun:
		l.handler.fail(l.w, r, err)
		return
	case err != nil:
		l.handler.options.Logger.ErrorContext(r.Context(), "a list was cut short", "endpoint", r.Pattern, "error", err)
		panic(http.ErrAbortHandler)
	case !l.begun:
		l.begin()
	}
	_ = l.out.WriteByte(']')
	if next != "" {
		_, _ = fmt.Fprintf(l.out, `,"next_cursor":%q`, next)
	}
	_, _ = l.out.WriteString("}\n")
	_ = l.out.Flush()
}
