package incusostest

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/opscenter-go/sdk/internal/imagetest"
	"github.com/opscenter-go/sdk/internal/smime"
	"github.com/opscenter-go/sdk/internal/smime/smimetest"
	"github.com/opscenter-go/sdk/opscenter/updates"
)

// Publisher publishes signed releases of a simulated IncusOS, in the layout of the public server. It is an
// http.Handler for updates.HTTP. It can also write directories for updates.Directory, and archives for uploads. Its
// files are small, with random content. All methods may be called concurrently.
type Publisher struct {
	root, signer *smimetest.Authority

	mu       sync.Mutex
	releases map[string]*published
	faults   map[string]PublisherFault // by path
	requests map[string]int
	opaque   bool
	web      *http.Server
	url      string
}

// Start serves the releases on a loopback address until Close. It returns an error if it can't listen.
func (p *Publisher) Start() error {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.web = &http.Server{Handler: p, ReadHeaderTimeout: 10 * time.Second, ErrorLog: log.New(io.Discard, "", 0)}
	p.url = "http://" + listener.Addr().String() + "/"
	go p.web.Serve(listener)
	return nil
}

// URL returns the URL of the served releases. It is empty before Start.
func (p *Publisher) URL() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.url
}

// Close ends the service that Start began. Without Start, it does nothing.
func (p *Publisher) Close() {
	p.mu.Lock()
	web := p.web
	p.mu.Unlock()
	if web != nil {
		_ = web.Close()
	}
}

// published is a release with the content of its files.
type published struct {
	description map[string]any
	files       map[string][]byte // by name
}

// Release describes a release for Publisher.Publish.
type Release struct {
	// Version has the form YYYYMMDDHHMM. Required.
	Version string
	// Channels are the channels of the publisher. Default "stable".
	Channels []string
	// Applications are their names. Default "incus", "incus-lts-7.0", "migration-manager", "operations-center" and "debug".
	Applications []string
	// Architectures are those of the files. Default "x86_64".
	Architectures []string
	// NoOS leaves out the operating system.
	NoOS bool
	// ISO adds an ISO image for each architecture, in addition to the raw image.
	ISO bool
	// SecureBootKeys are the keys in the release, such as "KEK_1", "db_1" or "dbx_1". Default: none.
	SecureBootKeys []string
	// Packages are the packages in the manifest: versions by name. Default: a kernel and systemd.
	Packages map[string]string
	// PublishedAt is the time of publication. Default: the time in Version.
	PublishedAt time.Time
	// Size is the approximate size of each file in bytes. Default 4 KiB.
	Size int
	// Severity is that of the release, such as "high". Default "none".
	Severity string
}

// PublisherFault is a fault of a published file, or of the index.
type PublisherFault string

const (
	// PublishCut closes the connection after nine tenths of the requested bytes. Answers of up to 10 bytes are complete.
	PublishCut PublisherFault = "cut"
	// PublishLie sends other content of the same size.
	PublishLie PublisherFault = "lie"
	// PublishStall sends half of the file, and then nothing.
	PublishStall PublisherFault = "stall"
	// PublishBomb sends an endless file.
	PublishBomb PublisherFault = "bomb"
	// PublishRedirect redirects to another host.
	PublishRedirect PublisherFault = "redirect"
	// PublishGone answers with status 404.
	PublishGone PublisherFault = "gone"
	// PublishError answers with status 500.
	PublishError PublisherFault = "error"
	// PublishEncoded sets a content encoding that was not requested.
	PublishEncoded PublisherFault = "encoded"
	// PublishNoRange ignores requested ranges.
	PublishNoRange PublisherFault = "no-range"
)

// NewPublisher returns a publisher without releases, with a new root certificate.
func NewPublisher() (*Publisher, error) {
	p := &Publisher{releases: map[string]*published{}, faults: map[string]PublisherFault{}, requests: map[string]int{}}
	var err error
	if p.root, err = smimetest.New("Simulated OS - Root", smimetest.Validity{}); err != nil {
		return nil, err
	}
	middle, err := p.root.Issue("Simulated OS - Update", smimetest.Validity{})
	if err != nil {
		return nil, err
	}
	p.signer, err = middle.Issue("Simulated OS - Update 2026", smimetest.Validity{})
	return p, err
}

// Root returns the root certificate of the publisher's signatures.
func (p *Publisher) Root() *x509.Certificate { return p.root.Certificate }

// Sign signs content with the publisher's certificate, in the opaque form or as clear text with a signature.
func (p *Publisher) Sign(content []byte, opaque bool) ([]byte, error) {
	form := smime.Detached
	if opaque {
		form = smime.Opaque
	}
	return p.signer.Signer().Sign(content, form)
}

// SetOpaque sets whether the publisher signs in the opaque form. Default false.
func (p *Publisher) SetOpaque(opaque bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.opaque = opaque
}

// Renew makes the publisher sign with a new certificate, which is valid until that time.
func (p *Publisher) Renew(until time.Time) error {
	next, err := p.signer.Issuer.Issue("Simulated OS - Update renewed", smimetest.Validity{From: until.AddDate(-2, 0, 0), To: until})
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.signer = next
	return nil
}

// Publish publishes a release, or replaces the one with the same version. It returns an error if the version is invalid.
func (p *Publisher) Publish(r Release) error {
	if _, err := strconv.ParseUint(r.Version, 10, 64); err != nil {
		return fmt.Errorf("version %q must have digits only", r.Version)
	}
	if r.PublishedAt.IsZero() {
		var err error
		if r.PublishedAt, err = time.Parse("200601021504", r.Version); err != nil {
			return err
		}
	}
	if r.Channels == nil {
		r.Channels = []string{"stable"}
	}
	if r.Applications == nil {
		r.Applications = []string{"incus", "incus-lts-7.0", "migration-manager", "operations-center", "debug"}
	}
	if r.Architectures == nil {
		r.Architectures = []string{updates.ArchitectureX8664}
	}
	if r.Size == 0 {
		r.Size = 4 << 10
	}
	if r.Severity == "" {
		r.Severity = "none"
	}
	if r.Packages == nil {
		r.Packages = map[string]string{"linux-image": r.Version, "systemd": "258"}
	}
	out := &published{files: map[string][]byte{}}
	var list []any
	add := func(architecture, component string, kind updates.FileType, name string, content []byte) {
		if architecture != "" {
			name = architecture + "/" + name
		}
		out.files[name] = content
		sum := sha256.Sum256(content)
		list = append(list, map[string]any{"architecture": architecture, "component": component, "filename": name, "sha256": hex.EncodeToString(sum[:]), "size": len(content), "type": kind})
	}
	random := func(name string) []byte { return noise(r.Version+name, r.Size) }
	for _, architecture := range r.Architectures {
		in := map[string]string{updates.ArchitectureX8664: "x86-64", updates.ArchitectureAArch64: "arm64"}[architecture]
		if !r.NoOS {
			image := "IncusOS_" + r.Version
			add(architecture, "os", updates.TypeEFI, image+".efi.gz", random(architecture+"efi"))
			for kind, name := range map[updates.FileType]string{updates.TypeUsr: "usr-" + in, updates.TypeUsrVerity: "usr-" + in + "-verity", updates.TypeUsrVeritySignature: "usr-" + in + "-verity-sig"} {
				add(architecture, "os", kind, image+"."+name+".92f27638e0f141d2aadc80efe7d25c0f.raw.gz", random(architecture+name))
			}
			add(architecture, "os", updates.TypeImageRaw, image+".img.gz", installer(r.Version, architecture, 512))
			if r.ISO {
				add(architecture, "os", updates.TypeImageISO, image+".iso.gz", installer(r.Version, architecture, 2048))
			}
			add(architecture, "os", updates.TypeImageManifest, image+".manifest.json.gz", manifestOf(r.Packages))
		}
		for _, name := range r.Applications {
			component := name
			if strings.HasPrefix(name, "incus-lts-") {
				component = "incus"
			}
			add(architecture, component, updates.TypeApplication, name+".raw.gz", random(architecture+name))
		}
	}
	if len(r.SecureBootKeys) > 0 {
		add("", "os", updates.TypeSecureBoot, "SecureBootKeys_"+r.Version+".tar.gz", keysArchive(r.SecureBootKeys))
	}
	slices.SortFunc(list, func(a, b any) int {
		return strings.Compare(a.(map[string]any)["filename"].(string), b.(map[string]any)["filename"].(string))
	})
	out.description = map[string]any{"format": updates.Format, "channels": r.Channels, "files": list, "origin": "simulated.example", "published_at": r.PublishedAt.Format(time.RFC3339),
		"severity": r.Severity, "version": r.Version, "url": "/" + r.Version}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.releases[r.Version] = out
	return nil
}

// noise returns a gzipped file of random bytes that depend on the seed only.
func noise(seed string, size int) []byte {
	content := make([]byte, size)
	_, _ = rand.NewChaCha8(sha256.Sum256([]byte(seed))).Read(content)
	return zipped(content)
}

// releaseMark is the content of the last partition of a simulated image: version and architecture.
const releaseMark = "IncusOS %s %s\n"

// installer returns a gzipped installation image. sector is the size of a sector in bytes.
func installer(version, architecture string, sector int64) []byte {
	partitions := slices.Clone(imagetest.Small)
	partitions[len(partitions)-1].Fill = fmt.Appendf(nil, releaseMark, version, architecture)
	var out bytes.Buffer
	w, _ := gzip.NewWriterLevel(&out, gzip.BestSpeed)
	_, _ = io.Copy(w, imagetest.New(imagetest.Options{Sector: sector, Partitions: partitions}).Reader())
	_ = w.Close()
	return out.Bytes()
}

func zipped(content []byte) []byte {
	var out bytes.Buffer
	w, _ := gzip.NewWriterLevel(&out, gzip.BestSpeed)
	_, _ = w.Write(content)
	_ = w.Close()
	return out.Bytes()
}

// manifestOf returns the manifest of an image, in the form of mkosi.
func manifestOf(packages map[string]string) []byte {
	var list []any
	for _, name := range slices.Sorted(maps.Keys(packages)) {
		list = append(list, map[string]any{"type": "deb", "name": name, "version": packages[name], "architecture": "amd64"})
	}
	return zipped(encode(map[string]any{"manifest_version": 1, "config": map[string]any{"name": "IncusOS"}, "packages": list}))
}

// keysArchive returns an archive of Secure Boot keys.
func keysArchive(keys []string) []byte {
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, key := range keys {
		_ = w.WriteHeader(&tar.Header{Name: key + ".auth", Size: 64, Mode: 0o644, Typeflag: tar.TypeReg})
		_, _ = w.Write(make([]byte, 64))
	}
	_ = w.Close()
	return zipped(out.Bytes())
}

// Withdraw removes a release. It does nothing if there is none of that version.
func (p *Publisher) Withdraw(version string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.releases, version)
}

// SetFault sets the fault of all files whose path ends with path, such as "index.sjson" or "VERSION/FILENAME". An empty
// fault ends that. Only ServeHTTP has faults.
func (p *Publisher) SetFault(path string, fault PublisherFault) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.faults[path] = fault; fault == "" {
		delete(p.faults, path)
	}
}

// Requests returns the number of requests for a path, such as "index.sjson".
func (p *Publisher) Requests(path string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.requests[path]
}

// Index returns the signed index of all releases.
func (p *Publisher) Index() ([]byte, error) {
	p.mu.Lock()
	list := []any{}
	for _, version := range slices.Sorted(maps.Keys(p.releases)) {
		list = append(list, p.releases[version].description)
	}
	opaque := p.opaque
	p.mu.Unlock()
	data, err := json.Marshal(map[string]any{"format": updates.Format, "updates": list})
	if err != nil {
		return nil, err
	}
	return p.Sign(data, opaque)
}

// description returns the signed description of a release.
func (p *Publisher) description(version string) ([]byte, error) {
	p.mu.Lock()
	r, opaque := p.releases[version], p.opaque
	p.mu.Unlock()
	if r == nil {
		return nil, fmt.Errorf("release %s: %w", version, os.ErrNotExist)
	}
	data, err := json.Marshal(r.description)
	if err != nil {
		return nil, err
	}
	return p.Sign(data, opaque)
}

func (p *Publisher) content(path string) ([]byte, error) {
	if path == "index.sjson" {
		return p.Index()
	}
	version, name, _ := strings.Cut(path, "/")
	if name == "update.sjson" {
		return p.description(version)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if r := p.releases[version]; r != nil {
		if content, ok := r.files[name]; ok {
			return content, nil
		}
	}
	return nil, os.ErrNotExist
}

// Files returns the sorted names of a release's files, or nil if there is no such release.
func (p *Publisher) Files(version string) []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	if r := p.releases[version]; r != nil {
		return slices.Sorted(maps.Keys(r.files))
	}
	return nil
}

// Archive writes a release as a tar archive for an upload: update.sjson and the named files. Without names, it writes all
// files. A missing release or file is an os.ErrNotExist.
func (p *Publisher) Archive(w io.Writer, version string, names ...string) error {
	if len(names) == 0 {
		names = p.Files(version)
	}
	out := tar.NewWriter(w)
	for _, name := range append([]string{"update.sjson"}, names...) {
		content, err := p.content(version + "/" + name)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if err := out.WriteHeader(&tar.Header{Name: name, Size: int64(len(content)), Mode: 0o644, Typeflag: tar.TypeReg}); err != nil {
			return err
		}
		if _, err := out.Write(content); err != nil {
			return err
		}
	}
	return out.Close()
}

// Write writes all releases and the index to a directory.
func (p *Publisher) Write(dir string) error {
	p.mu.Lock()
	paths := []string{"index.sjson"}
	for version, r := range p.releases {
		paths = append(paths, version+"/update.sjson")
		for name := range r.files {
			paths = append(paths, version+"/"+name)
		}
	}
	p.mu.Unlock()
	for _, path := range paths {
		content, err := p.content(path)
		if err == nil {
			err = os.MkdirAll(filepath.Dir(filepath.Join(dir, path)), 0o755)
		}
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, path), content, 0o644)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// fault counts a request, and returns the fault of its path.
func (p *Publisher) fault(path string) PublisherFault {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.requests[path]++
	for suffix, fault := range p.faults {
		if strings.HasSuffix(path, suffix) {
			return fault
		}
	}
	return ""
}

// ServeHTTP serves the index and the files of releases, with the faults of SetFault. It implements http.Handler.
func (p *Publisher) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	path := strings.Trim(r.URL.Path, "/")
	fault := p.fault(path)
	content, err := p.content(path)
	switch {
	case errors.Is(err, os.ErrNotExist) || fault == PublishGone:
		http.NotFound(w, r)
		return
	case err != nil || fault == PublishError:
		http.Error(w, "internal error", http.StatusInternalServerError)
		return
	case fault == PublishRedirect:
		http.Redirect(w, r, "https://elsewhere.invalid/"+path, http.StatusFound)
		return
	case fault == PublishLie:
		content = bytes.Repeat([]byte{7}, len(content))
	case fault == PublishEncoded:
		w.Header().Set("Content-Encoding", "gzip")
	case fault == PublishNoRange:
		r.Header.Del("Range")
	case fault == PublishBomb:
		for r.Context().Err() == nil {
			if _, err := w.Write(make([]byte, 64<<10)); err != nil {
				return
			}
		}
		return
	case fault == PublishStall, fault == PublishCut:
		from := 0
		if text, ok := strings.CutPrefix(r.Header.Get("Range"), "bytes="); ok {
			from, _ = strconv.Atoi(strings.TrimSuffix(text, "-"))
			from = min(from, len(content))
			w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, len(content)-1, len(content)))
		}
		rest := content[from:]
		w.Header().Set("Content-Length", strconv.Itoa(len(rest)))
		if from > 0 {
			w.WriteHeader(http.StatusPartialContent)
		}
		part := len(rest) * 9 / 10
		if fault == PublishStall {
			part = max(0, len(content)/2-from)
		}
		if fault == PublishCut && len(rest) <= 10 {
			_, _ = w.Write(rest)
			return
		}
		_, _ = w.Write(rest[:part])
		_ = http.NewResponseController(w).Flush()
		if fault == PublishStall {
			<-r.Context().Done()
		}
		panic(http.ErrAbortHandler)
	}
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(content))
}
