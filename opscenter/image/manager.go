package image

import (
	"cmp"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/opscenter-go/sdk/internal/defaults"
	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/audit"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
	"github.com/opscenter-go/sdk/opscenter/seed"
	"github.com/opscenter-go/sdk/opscenter/updates"
)

// Kinds of images, as Operations Center names them.
const (
	// Raw is for USB sticks, disks and virtual machines.
	Raw = "raw"
	// ISO is for CD-ROM drives and virtual media alone.
	ISO = "iso"
)

var (
	// ErrKind: there is no such kind of image, or architecture.
	ErrKind = errors.New("no kind of image")
	// ErrPublic: public seeds are switched off.
	ErrPublic = errors.New("public seeds are switched off (image.Options.Public)")
)

// Defaults of Options.
const (
	DefaultPrepared = time.Hour
	// rememberMade is for how long the same image, for the same principal, is one entry of the audit log: it is fetched in parts.
	rememberMade = time.Hour
	maxMade      = 10_000
)

// Options of New.
type Options struct {
	// ServerURL is where servers reach the control plane. It is needed.
	ServerURL string
	// Certificate of the control plane, which servers pin; nil: their system trusts it.
	Certificate *x509.Certificate
	// Prepared is for how long an image can be fetched that was prepared. Default 1 hour.
	Prepared time.Duration
	// Public allows seeds whose images are fetched without authentication.
	Public bool
	// Audit has an entry for each image that is made. Default: none is written.
	Audit *audit.Log
}

// Manager makes images of what the update feed has. All methods may be called concurrently.
type Manager struct {
	registry *opscenter.Registry
	feed     *updates.Manager
	store    *Store
	options  Options
	made     *lru.Cache[string, time.Time] // what the audit log has
}

// New returns a Manager. Errors: opscenter.ErrInvalidOptions.
func New(registry *opscenter.Registry, feed *updates.Manager, store *Store, options Options) (*Manager, error) {
	if registry == nil || feed == nil || store == nil || options.ServerURL == "" {
		return nil, fmt.Errorf("a registry, a feed, a store and ServerURL are needed: %w", opscenter.ErrInvalidOptions)
	}
	if err := defaults.Fill(opscenter.ErrInvalidOptions, defaults.Of("Prepared", &options.Prepared, DefaultPrepared)); err != nil {
		return nil, err
	}
	check := &seed.Seed{Provider: seed.OperationsCenterProvider(options.ServerURL, "token", options.Certificate)}
	if err := check.Validate(seed.Rules{}); err != nil {
		return nil, fmt.Errorf("ServerURL %.200q: %w: %w", options.ServerURL, opscenter.ErrInvalidOptions, err)
	}
	made, err := lru.New[string, time.Time](maxMade)
	if err != nil {
		return nil, err
	}
	return &Manager{registry: registry, feed: feed, store: store, options: options, made: made}, nil
}

// Request says which image is wanted.
type Request struct {
	// Kind is Raw or ISO.
	Kind string
	// Architecture is updates.ArchitectureX8664, the default, or updates.ArchitectureAArch64.
	Architecture string
	// Channel whose newest release it is. Default: that of the token.
	Channel string
}

func (r *Request) check() error {
	if r.Kind != Raw && r.Kind != ISO {
		return fmt.Errorf("type %.40q is %w: %s or %s is wanted", r.Kind, ErrKind, ISO, Raw)
	}
	r.Architecture = cmp.Or(r.Architecture, updates.ArchitectureX8664)
	if r.Architecture != updates.ArchitectureX8664 && r.Architecture != updates.ArchitectureAArch64 {
		return fmt.Errorf("architecture %.40q is %w: %s or %s is wanted", r.Architecture, ErrKind, updates.ArchitectureX8664, updates.ArchitectureAArch64)
	}
	return nil
}

// seedOf returns what servers that a token admits are installed with: the files, and what they need to come to this control plane. Errors:
// seed.ErrInvalid.
func (m *Manager) seedOf(token *opscenter.Token, files map[string]json.RawMessage) (*seed.Seed, error) {
	out, err := filesOf(files)
	if err != nil {
		return nil, err
	}
	if out.Applications == nil && len(token.Applications) > 0 {
		out.Applications = seed.ApplicationsOf(token.Applications...)
	}
	out.Manage(m.ProviderConfig(token), token.Channel)
	return out, out.Validate(seed.Rules{})
}

// ProviderConfig is what leads a server to this control plane, and admits it.
func (m *Manager) ProviderConfig(token *opscenter.Token) *seed.Provider {
	return seed.OperationsCenterProvider(m.options.ServerURL, token.UUID, m.options.Certificate)
}

// filesOf reads the files of a seed, strictly. The control plane sets the provider. Errors: seed.ErrInvalid.
func filesOf(files map[string]json.RawMessage) (*seed.Seed, error) {
	out, err := seed.FromFiles(files)
	if err == nil && out.Provider != nil {
		err = fmt.Errorf("%s: the control plane sets it: %w", seed.FileProvider, seed.ErrInvalid)
	}
	return out, err
}

// Check checks what an operator says of a seed; wasPublic: it was public before. Errors: seed.ErrInvalid, ErrPublic.
func (m *Manager) Check(spec opscenter.TokenSeedSpec, wasPublic bool) error {
	if spec.Public && !wasPublic && !m.options.Public {
		return ErrPublic
	}
	s, err := filesOf(spec.Files)
	if err != nil {
		return err
	}
	return s.Validate(seed.Rules{})
}

// Made is an image. Close it when nothing is read of it any more.
type Made struct {
	*Image
	kept *Kept
	// Name of its file, and Version of its release.
	Name, Version string
	// ETag changes with each byte of it.
	ETag string
}

// Close ends reading.
func (m *Made) Close() error { return m.kept.Close() }

// Prepare keeps what an image is to be made of, to be fetched until Options.Prepared has passed. Errors: those of Make.
func (m *Manager) Prepare(ctx context.Context, token string, files map[string]json.RawMessage, request Request) (*opscenter.PreparedImage, error) {
	if err := request.check(); err != nil {
		return nil, err
	}
	usable, err := m.registry.UsableToken(ctx, token)
	if err != nil {
		return nil, err
	}
	s, err := m.seedOf(usable, files)
	if err != nil {
		return nil, err
	}
	u, file, err := m.choose(ctx, usable, s, request)
	if err != nil {
		return nil, err
	}
	return m.registry.PrepareImage(ctx, opscenter.PreparedImage{Token: token, Kind: request.Kind, Architecture: request.Architecture, Files: files, Update: u.UUID, SHA256: file.SHA256, ExpireAt: time.Now().Add(m.options.Prepared)})
}

// wanted is an image that is to be made.
type wanted struct {
	Request
	token, name string
	files       map[string]json.RawMessage
	// update and sum pin the release, and its file; empty: the newest.
	update, sum string
	// remote is who asks without authentication; empty: the principal does.
	remote string
}

// MakePrepared makes an image that was prepared, of the release that was the newest then. Errors: those of Make.
func (m *Manager) MakePrepared(ctx context.Context, token, id string) (*Made, error) {
	p, err := m.registry.PreparedImage(ctx, token, id)
	if err != nil {
		return nil, err
	}
	return m.make(ctx, wanted{Request: Request{Kind: p.Kind, Architecture: p.Architecture}, token: p.Token, name: p.UUID, files: p.Files, update: p.Update, sum: p.SHA256})
}

// Make makes an image of a named seed of a token. Errors: opscenter.ErrNotFound for the token, the seed, the channel, and where its release has no
// such image; those of a token that admits no more servers; opscenter.ErrBlocked where the release lacks an application; ErrKind,
// seed.ErrInvalid, those of Store.Base.
func (m *Manager) Make(ctx context.Context, token, name string, request Request) (*Made, error) {
	s, err := m.registry.TokenSeed(ctx, token, name)
	if err != nil {
		return nil, err
	}
	return m.make(ctx, wanted{Request: request, token: s.Token, name: s.Name, files: s.Files})
}

// MakePublic makes an image of the seed with a public name, for a stranger at an address. Errors: those of Make, ErrPublic.
func (m *Manager) MakePublic(ctx context.Context, public string, request Request, remote string) (*Made, error) {
	if !m.options.Public {
		return nil, ErrPublic
	}
	s, err := m.registry.PublicTokenSeed(ctx, public)
	if err != nil {
		return nil, err
	}
	return m.make(ctx, wanted{Request: request, token: s.Token, name: s.Name, files: s.Files, remote: remote})
}

func (m *Manager) make(ctx context.Context, w wanted) (*Made, error) {
	if err := w.check(); err != nil {
		return nil, err
	}
	usable, err := m.registry.UsableToken(ctx, w.token)
	if err != nil {
		return nil, err
	}
	s, err := m.seedOf(usable, w.files)
	if err != nil {
		return nil, err
	}
	u, file, err := m.chosen(ctx, usable, s, &w)
	if err != nil {
		return nil, err
	}
	archive, err := s.Tar()
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(slices.Concat([]byte(file.SHA256), archive))
	extension := map[string]string{Raw: ".img", ISO: ".iso"}[w.Kind]
	made := &Made{Name: "pre-seed-" + w.name + extension, Version: u.Version, ETag: `"` + hex.EncodeToString(sum[:16]) + `"`}
	what := "seed " + w.name
	if w.update != "" {
		what = "prepared as " + w.name
	}
	detail := fmt.Sprintf("%s image of %s for %s, %s of %s", w.Kind, u.Version, w.Architecture, what, usable.Label())
	if host, _, err := net.SplitHostPort(w.remote); err == nil {
		detail += ", public, to " + host
	}
	err = m.recorded(ctx, made.ETag, detail, func(ctx context.Context) error {
		made.kept, err = m.store.Base(ctx, Source{Name: file.Filename, SHA256: file.SHA256, Open: func() (io.ReadCloser, error) {
			_, _, content, err := m.feed.Open(context.WithoutCancel(ctx), u.UUID, file.Filename) // others may wait for it, too
			return content, err
		}})
		if err != nil {
			return err
		}
		made.Image, err = made.kept.With(archive)
		if err == nil && made.kept.ISO() != (w.Kind == ISO) {
			err = fmt.Errorf("%s: %w of that kind", file.Filename, ErrNoImage)
		}
		if err != nil {
			err = errors.Join(err, made.kept.Close())
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return made, nil
}

// chosen returns the release that is pinned, or chooses one.
func (m *Manager) chosen(ctx context.Context, token *opscenter.Token, s *seed.Seed, w *wanted) (*updates.Update, *updates.File, error) {
	if w.update == "" {
		return m.choose(ctx, token, s, w.Request)
	}
	u, err := m.feed.Snapshot().Update(w.update)
	if err != nil {
		return nil, nil, fmt.Errorf("the release that the image was prepared of: %w", err)
	}
	for i := range u.Files {
		if u.Files[i].SHA256 == w.sum && u.Status == updates.StatusReady {
			return u, &u.Files[i], nil
		}
	}
	return nil, nil, fmt.Errorf("the file of release %s that the image was prepared of: %w", u.Version, opscenter.ErrNotFound)
}

// choose returns the release, and the file of it, that an image is made of.
func (m *Manager) choose(ctx context.Context, token *opscenter.Token, s *seed.Seed, request Request) (*updates.Update, *updates.File, error) {
	channel := cmp.Or(request.Channel, token.Channel)
	if _, err := m.registry.Channel(ctx, channel); err != nil {
		return nil, nil, err
	}
	u := updates.Offered(m.feed.Snapshot().Updates(), channel)
	if u == nil {
		return nil, nil, fmt.Errorf("channel %s offers no release to make an image of: %w", channel, opscenter.ErrNotFound)
	}
	kind := map[string]updates.FileType{Raw: updates.TypeImageRaw, ISO: updates.TypeImageISO}[request.Kind]
	for i := range u.Files {
		f := &u.Files[i]
		if f.Type != kind || f.Architecture != request.Architecture || f.Component != lifecycle.ComponentOS {
			continue
		}
		return u, f, m.feeds(ctx, s, request.Architecture)
	}
	return nil, nil, fmt.Errorf("release %s of channel %s has no %s image for %s (%s): %w", u.Version, channel, request.Kind, request.Architecture, kind, opscenter.ErrNotFound)
}

// feeds returns opscenter.ErrBlocked unless the channel that the server will follow offers what its seed names: it takes its applications from there,
// whatever release its image is of.
func (m *Manager) feeds(ctx context.Context, s *seed.Seed, architecture string) error {
	channel := s.Update.Channel
	if _, err := m.registry.Channel(ctx, channel); err != nil {
		return fmt.Errorf("%s: %w", seed.FileUpdate, err)
	}
	offered := updates.Offered(m.feed.Snapshot().Updates(), channel)
	if offered == nil {
		return fmt.Errorf("channel %s offers no release that the server could fetch its applications of: %w", channel, opscenter.ErrNotFound)
	}
	need := []updates.Need{{By: "the seed", Architecture: architecture, Components: s.Applications.Names()}}
	if lacks := updates.Lacking(offered, need); len(lacks) > 0 {
		var missing []string
		for _, l := range lacks {
			missing = append(missing, l.Component)
		}
		return fmt.Errorf("release %s of channel %s has no %s for %s, which the seed names: the server would wait for it: %w", offered.Version, channel, strings.Join(missing, ", "), architecture, opscenter.ErrBlocked)
	}
	return nil
}

// recorded makes an image with an entry in the audit log, one for all parts in which it is fetched.
func (m *Manager) recorded(ctx context.Context, tag, detail string, do func(context.Context) error) error {
	key := opscenter.Principal(ctx) + " " + tag + " " + detail
	if at, ok := m.made.Peek(key); ok && time.Since(at) < rememberMade {
		return do(ctx)
	}
	err := m.options.Audit.Do(ctx, audit.Entry{Action: "image.make", Detail: detail}, do)
	if err == nil {
		m.made.Add(key, time.Now())
	}
	return err
}
