package updates

import (
	"cmp"
	"crypto/sha1"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/opscenter-go/sdk/opscenter/lifecycle"
)

// Status is how far an update is. The names are those of Operations Center.
type Status string

const (
	// StatusPending: its files are not all here.
	StatusPending Status = "pending"
	// StatusReady: all its files are here, and are what they should be.
	StatusReady Status = "ready"
)

// Severity of what an update mends.
type Severity string

const (
	SeverityNone     Severity = "none"
	SeverityLow      Severity = "low"
	SeverityMedium   Severity = "medium"
	SeverityHigh     Severity = "high"
	SeverityCritical Severity = "critical"
)

// FileType is what a file is for. Newer releases may have others.
type FileType string

const (
	TypeApplication        FileType = "application"
	TypeEFI                FileType = "update-efi"
	TypeUsr                FileType = "update-usr"
	TypeUsrVerity          FileType = "update-usr-verity"
	TypeUsrVeritySignature FileType = "update-usr-verity-signature"
	TypeSecureBoot         FileType = "update-secureboot"
	TypeImageRaw           FileType = "image-raw"
	TypeImageISO           FileType = "image-iso"
	TypeImageManifest      FileType = "image-manifest"
	TypeChangelog          FileType = "changelog"
)

// ComponentSecureBoot is the name, among what an update provides, of its Secure Boot keys.
const ComponentSecureBoot = "secure-boot"

// The architectures of IncusOS. The empty one is of files that are for all.
const (
	ArchitectureX8664   = "x86_64"
	ArchitectureAArch64 = "aarch64"
)

// Update is a release of IncusOS and its applications.
type Update struct {
	UUID string
	// Version is a number, YYYYMMDDHHMM.
	Version     string
	PublishedAt time.Time
	Severity    Severity
	Origin      string
	// URL is where its files lie, below that of its source.
	URL string
	// Channels of this control plane that offer it, by name; UpstreamChannels are those of its publisher.
	Channels         []string
	UpstreamChannels []string
	Status           Status
	// Files of a ready update are here; those of a pending one are to come.
	Files []File
	// Described is how many files its description names, of an update that was uploaded: Files may lack some. 0: it is not known.
	Described int `json:",omitempty"`
	// SecureBootKeys is how many Secure Boot keys a ready update brings. A server applies those that it has not yet one at a
	// time, each with a reboot.
	SecureBootKeys int
	// Local: it was uploaded.
	Local bool
	// Placed: it was ready once, or an operator has put it into channels: it is not put into the default channel any more.
	Placed bool
	// Held is the channel that a ready update is held back from, because it lacks what is needed there; empty: none.
	Held string
	// Problem is why the files of a pending update are not here, or why it is held back; empty: nothing went wrong.
	Problem     string
	CreatedAt   time.Time
	LastUpdated time.Time
}

// File is a file of an update.
type File struct {
	// Filename may have slashes: x86_64/incus.raw.gz.
	Filename string
	// Size in bytes.
	Size int64
	// SHA256 of its bytes, in 64 lower-case hexadecimal digits.
	SHA256    string
	Component string
	Type      FileType
	// Architecture; empty: for all.
	Architecture string
}

// Namespaces of the UUIDs of updates, as Operations Center has them.
var (
	mirrored = uuid.MustParse("00000000-0000-0000-0000-000000000002")
	uploaded = uuid.MustParse("00000000-0000-0000-0000-000000000001")
)

// LocalOrigin is what the origin of an update that was uploaded ends with.
const LocalOrigin = " (local)"

// identify gives an update its UUID, which is the same each time it is mirrored, or uploaded.
func (u *Update) identify() {
	namespace := mirrored
	if u.Local {
		namespace = uploaded
		if !strings.HasSuffix(u.Origin, LocalOrigin) {
			u.Origin += LocalOrigin
		}
	}
	u.UUID = uuid.NewHash(sha1.New(), namespace, []byte(u.Origin+":"+u.Version), 5).String()
}

// Application returns the name of the application that a file is, as IncusOS tells it: by the base of its name
// alone; empty: it is none.
func (f *File) Application() string {
	name, ok := strings.CutSuffix(path.Base(f.Filename), ".raw.gz")
	if f.Type != TypeApplication || !ok {
		return ""
	}
	return name
}

// Provides returns the component that a server gets from the file: an application, lifecycle.ComponentOS or
// ComponentSecureBoot; empty for what a server does not look for, as images.
func (f *File) Provides() string {
	switch f.Type {
	case TypeApplication:
		return f.Application()
	case TypeEFI, TypeUsr, TypeUsrVerity, TypeUsrVeritySignature:
		if f.Component == lifecycle.ComponentOS {
			return lifecycle.ComponentOS
		}
	case TypeSecureBoot:
		return ComponentSecureBoot
	}
	return ""
}

// isFor reports whether a server of an architecture looks at the file.
func (f *File) isFor(architecture string) bool {
	return f.Architecture == "" || f.Architecture == architecture
}

// Provides returns the components that a server of an architecture gets from the update, sorted. The operating
// system is among them only if all four of its parts are there.
func (u *Update) Provides(architecture string) (out []string) {
	parts := map[FileType]bool{}
	for i := range u.Files {
		f := &u.Files[i]
		name := f.Provides()
		if name == "" || !f.isFor(architecture) {
			continue
		}
		if name == lifecycle.ComponentOS {
			if parts[f.Type] = true; len(parts) < osParts {
				continue
			}
		}
		if !slices.Contains(out, name) {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}

// osParts is of how many files an operating system is made: update-efi, and the three of usr.
const osParts = 4

// file returns a file by its name, nil if there is none.
func (u *Update) file(name string) *File {
	for i := range u.Files {
		if u.Files[i].Filename == name {
			return &u.Files[i]
		}
	}
	return nil
}

// Size returns that of all its files, in bytes.
func (u *Update) Size() (total int64) {
	for i := range u.Files {
		total += u.Files[i].Size
	}
	return total
}

// architectures returns those of its files, without the empty one.
func (u *Update) architectures() (out []string) {
	for i := range u.Files {
		if a := u.Files[i].Architecture; a != "" && !slices.Contains(out, a) {
			out = append(out, a)
		}
	}
	return out
}

// compareVersions orders versions as numbers.
func compareVersions(a, b string) int {
	switch {
	case lifecycle.Newer(a, b):
		return 1
	case lifecycle.Newer(b, a):
		return -1
	}
	return 0
}

// newestFirst orders updates as servers are to walk through them: by version, then by publication.
func newestFirst(a, b *Update) int {
	return cmp.Or(compareVersions(b.Version, a.Version), b.PublishedAt.Compare(a.PublishedAt), strings.Compare(a.UUID, b.UUID))
}

// Limits of what is read of updates.
const (
	// MaxUpdates is how many updates an index may hold, and how many are kept.
	MaxUpdates = 1000
	// MaxFiles is how many files an update may have.
	MaxFiles = 1000
	// MaxFileSize bounds a file, in bytes.
	MaxFileSize = 16 << 30
	// MaxFilenameLength bounds the name of a file, in bytes.
	MaxFilenameLength = 255
	maxTextLength     = 255
	maxChannels       = 32
)

// check refuses what can't be an update, and names what is wrong.
func (u *Update) check() error {
	if n, err := strconv.ParseUint(u.Version, 10, 64); err != nil || n == 0 || len(u.Version) > 14 {
		return fmt.Errorf("version %.40q: digits are wanted, as in 202610150000: %w", u.Version, ErrInvalid)
	}
	for what, text := range map[string]string{"origin": u.Origin, "url": u.URL, "severity": string(u.Severity)} {
		if len(text) > maxTextLength || strings.ContainsFunc(text, isControl) {
			return fmt.Errorf("%s of update %s can't be used: %w", what, u.Version, ErrInvalid)
		}
	}
	if len(u.UpstreamChannels) > maxChannels {
		return fmt.Errorf("update %s is in %d channels, at most %d are taken: %w", u.Version, len(u.UpstreamChannels), maxChannels, ErrInvalid)
	}
	for _, channel := range u.UpstreamChannels {
		if channel == "" || len(channel) > maxTextLength || strings.ContainsFunc(channel, isControl) {
			return fmt.Errorf("a channel of update %s has a name that can't be used: %w", u.Version, ErrInvalid)
		}
	}
	if year := u.PublishedAt.Year(); year < 1970 || year > 2200 {
		return fmt.Errorf("update %s has no published_at that can be: %w", u.Version, ErrInvalid)
	}
	if len(u.Files) > MaxFiles {
		return fmt.Errorf("update %s has %d files, at most %d are taken: %w", u.Version, len(u.Files), MaxFiles, ErrInvalid)
	}
	seen := map[string]bool{}
	for i := range u.Files {
		f := &u.Files[i]
		if err := f.check(); err != nil {
			return fmt.Errorf("update %s: %w", u.Version, err)
		}
		if seen[f.Filename] {
			return fmt.Errorf("update %s: file %q is there twice: %w", u.Version, f.Filename, ErrInvalid)
		}
		seen[f.Filename] = true
	}
	return nil
}

func (f *File) check() error {
	if err := checkFilename(f.Filename); err != nil {
		return err
	}
	switch {
	case f.Size <= 0 || f.Size > MaxFileSize:
		return fmt.Errorf("file %q has size %d, 1 to %d are taken: %w", f.Filename, f.Size, int64(MaxFileSize), ErrInvalid)
	case !isSum(f.SHA256):
		return fmt.Errorf("file %q has no sha256 of 64 hexadecimal digits: %w", f.Filename, ErrInvalid)
	}
	for what, text := range map[string]string{"component": f.Component, "type": string(f.Type), "architecture": f.Architecture} {
		if len(text) > maxTextLength || strings.ContainsFunc(text, isControl) {
			return fmt.Errorf("file %q has a %s that can't be used: %w", f.Filename, what, ErrInvalid)
		}
	}
	return nil
}

// checkFilename wants a relative path that stays where it begins, of letters that every file system has.
func checkFilename(name string) error {
	ok := name != "" && len(name) <= MaxFilenameLength && !path.IsAbs(name) && path.Clean(name) == name
	for part := range strings.SplitSeq(name, "/") {
		ok = ok && part != "" && part != "." && part != ".."
	}
	for i := range len(name) {
		c := name[i]
		ok = ok && (c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("._-+~/", c) >= 0)
	}
	if !ok {
		return fmt.Errorf("file name %.80q can't be used: %w", name, ErrInvalid)
	}
	return nil
}

func isControl(r rune) bool { return r < ' ' || r == 0x7f }

// isSum reports whether a text is a SHA-256 in lower-case hexadecimal digits.
func isSum(text string) bool {
	for i := range len(text) {
		if c := text[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return len(text) == 64
}
