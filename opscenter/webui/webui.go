package webui

import (
	"context"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"html/template"
	"io/fs"
	"log/slog"
	"net/http"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/opscenter-go/sdk/internal/defaults"
	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/access"
	"github.com/opscenter-go/sdk/opscenter/rollout"
)

// Options of New.
type Options struct {
	// API is the operators' API, an httpapi.Handler. Pages show what it answers, and forms send requests to it: so it decides on the rights
	// of a principal. Required.
	API http.Handler
	// Registry is that of the API. The live map of the fleet follows it. Required.
	Registry *opscenter.Registry
	// Authorize is the Authorize option of the API, which must admit the principals of Sessions. Required.
	Authorize func(*http.Request) (access.Principal, error)
	// Rollouts is that of the API. Default: pages do not follow rollouts by themselves.
	Rollouts *rollout.Manager
	// Sessions are those of browsers. Default: there is no log-in, and clients are admitted by their certificates alone.
	Sessions *Sessions
	// LogIn returns the principal of the secret that a person enters to log in: accesstoken.Tokens.Principal. Required with Sessions.
	LogIn func(ctx context.Context, secret string) (access.Principal, error)
	// Origins are further ones that may send forms, as "https://ops.example.com", as for httpapi.Options. Default: the page's own host.
	Origins []string
	// Logger gets internal errors. Default: nothing is logged.
	Logger *slog.Logger
	// MaxStreams bounds the streams of open pages, and half of it those of one principal. A further one is answered 503, and its page does
	// not move. Default 1000.
	MaxStreams int
}

//go:embed templates static
var files embed.FS

// Handler serves the pages. It may be used concurrently.
type Handler struct {
	options   Options
	mux       *http.ServeMux
	origins   *http.CrossOriginProtection
	templates map[string]*template.Template
	static    map[string]asset
	streams   streams
	heartbeat time.Duration // of streams
	fleet     *fleet

	// long are requests that go on without their page, until running ends.
	running context.Context
	stop    context.CancelFunc
	long    sync.WaitGroup
}

// asset is a file that pages use.
type asset struct {
	media, etag string
	data        []byte
}

// New returns the handler of the pages, to be mounted at / of a mux that has the API at /1.0 and /1.0/. Errors: opscenter.ErrInvalidOptions.
func New(options Options) (*Handler, error) {
	switch {
	case options.API == nil || options.Registry == nil || options.Authorize == nil:
		return nil, fmt.Errorf("API, Registry or Authorize is missing: %w", opscenter.ErrInvalidOptions)
	case (options.Sessions == nil) != (options.LogIn == nil):
		return nil, fmt.Errorf("Sessions and LogIn need each other: %w", opscenter.ErrInvalidOptions)
	}
	if options.Logger == nil {
		options.Logger = slog.New(slog.DiscardHandler)
	}
	if err := defaults.Fill(opscenter.ErrInvalidOptions, defaults.Of("MaxStreams", &options.MaxStreams, DefaultMaxStreams)); err != nil {
		return nil, err
	}
	h := &Handler{options: options, origins: http.NewCrossOriginProtection(), heartbeat: liveHeartbeat, streams: streams{max: options.MaxStreams, maxOfOne: (options.MaxStreams + 1) / 2, of: map[string]int{}},
		fleet: &fleet{registry: options.Registry, rollouts: options.Rollouts, logger: options.Logger}}
	for _, origin := range options.Origins {
		if err := h.origins.AddTrustedOrigin(origin); err != nil {
			return nil, fmt.Errorf("option Origins: %w: %w", opscenter.ErrInvalidOptions, err)
		}
	}
	if err := errors.Join(h.readTemplates(), h.readStatic()); err != nil {
		return nil, err
	}
	h.running, h.stop = context.WithCancel(context.Background())
	h.mux = h.newMux()
	return h, nil
}

// Close ends the index of the fleet, all streams, and requests that go on without their page: what they have begun goes on by itself.
func (h *Handler) Close() error {
	h.stop()
	h.fleet.close()
	h.long.Wait()
	return nil
}

// mediaTypes are those of the files that pages use.
var mediaTypes = map[string]string{".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml"}

// readStatic reads the style sheet and the scripts.
func (h *Handler) readStatic() error {
	h.static = map[string]asset{}
	entries, err := files.ReadDir("static")
	for _, entry := range entries {
		data, readErr := files.ReadFile("static/" + entry.Name())
		err = errors.Join(err, readErr)
		sum := sha256.Sum256(data)
		h.static[entry.Name()] = asset{mediaTypes[path.Ext(entry.Name())], `"` + hex.EncodeToString(sum[:8]) + `"`, data}
	}
	return err
}

// readTemplates parses the template of each page, with the layout and the parts that pages share.
func (h *Handler) readTemplates() error {
	h.templates = map[string]*template.Template{}
	names, err := fs.Glob(files, "templates/*.html")
	if err != nil {
		return err
	}
	shared := []string{"templates/layout.html", "templates/parts.html"}
	for _, name := range names {
		if slices.Contains(shared, name) {
			continue
		}
		parsed, err := template.New("layout.html").Funcs(functions).ParseFS(files, append(slices.Clone(shared), name)...)
		if err != nil {
			return err
		}
		h.templates[strings.TrimSuffix(path.Base(name), ".html")] = parsed
	}
	return nil
}

// newMux registers the pages, the actions and the rest.
func (h *Handler) newMux() *http.ServeMux {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /static/{name}", h.getStatic)
	mux.HandleFunc("GET /login", h.getLogIn)
	mux.HandleFunc("POST /login", h.postLogIn)
	mux.HandleFunc("POST /logout", h.postLogOut)
	mux.HandleFunc("GET /live", h.admitted(h.live))
	for i := range pages {
		mux.HandleFunc("GET "+pages[i].path, h.admitted(func(v *visit) { v.showPage(&pages[i]) }))
	}
	for i := range actions {
		mux.HandleFunc("POST "+actions[i].path, h.admitted(func(v *visit) { v.act(&actions[i]) }))
	}
	mux.HandleFunc("/", h.admitted(func(v *visit) { v.fail(http.StatusNotFound, "There is no such page.") }))
	return mux
}

// How long a client may take to send a form, and to take an answer.
const (
	readTimeout  = 15 * time.Second
	writeTimeout = 30 * time.Second
)

// policy is the Content-Security-Policy of all pages: no code and no style within a page, and nothing of another host.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"

// ServeHTTP implements http.Handler.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	header := w.Header()
	header.Set("Content-Security-Policy", policy)
	header.Set("X-Content-Type-Options", "nosniff")
	header.Set("Referrer-Policy", "same-origin")
	header.Set("Cross-Origin-Opener-Policy", "same-origin")
	header.Set("Cross-Origin-Resource-Policy", "same-origin")
	header.Set("Cache-Control", "no-store")
	header.Set("Vary", "Cookie, Authorization")
	control := http.NewResponseController(w)
	if r.ContentLength != 0 {
		_ = control.SetReadDeadline(time.Now().Add(readTimeout)) // not every writer can
	}
	_ = control.SetWriteDeadline(time.Now().Add(writeTimeout))
	r = r.WithContext(context.WithValue(r.Context(), bodyKey{}, r.Body)) // admitted principals may send more
	r.Body = http.MaxBytesReader(w, r.Body, maxLogIn)
	if err := h.origins.Check(r); err != nil {
		http.Error(w, "A page of another site has sent this form.", http.StatusForbidden)
		return
	}
	h.mux.ServeHTTP(w, r)
}

// getStatic sends a file that pages use. It is public.
func (h *Handler) getStatic(w http.ResponseWriter, r *http.Request) {
	file, ok := h.static[r.PathValue("name")]
	if !ok {
		http.NotFound(w, r)
		return
	}
	header := w.Header()
	header.Set("Cache-Control", "no-cache") // it is asked for again, and usually not sent again
	header.Set("ETag", file.etag)
	header.Set("Content-Type", file.media)
	if r.Header.Get("If-None-Match") == file.etag {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	_, _ = w.Write(file.data)
}
