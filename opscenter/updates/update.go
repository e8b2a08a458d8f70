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

// Status tells whether all files of an update are stored. The names are those of Operations Center.
type Status string

const (
	// StatusPending: some files of the update are still missing.
	StatusPending Status = "pending"
	// StatusReady: all files of the update are stored and verified.
	StatusReady Status = "ready"
)

// Severity is the severity of the problems that an update fixes, as its publisher states it.
type Severity string

// The severities that publishers use.
const (
	SeverityNone     Severity = "none"
	SeverityLow      Severity = "low"
	SeverityMedium   Severity = "medium"
	SeverityHigh     Severity = "high"
	SeverityCritical Severity = "critical"
)

// FileType is the purpose of a file. Newer releases may use types that are not listed here.
type FileType string

// The types of files. The operating system consists of TypeEFI and the three TypeUsr types.
const (
	TypeApplication        FileType = "application"                 // an application image, NAME.raw.gz
	TypeEFI                FileType = "update-efi"                  // the kernel image of the operating system
	TypeUsr                FileType = "update-usr"                  // the /usr partition of the operating system
	TypeUsrVerity          FileType = "update-usr-verity"           // the verity hashes of /usr
	TypeUsrVeritySignature FileType = "update-usr-verity-signature" // the signature of the verity hashes
	TypeSecureBoot         FileType = "update-secureboot"           // a tar.gz of Secure Boot keys
	TypeImageRaw           FileType = "image-raw"                   // a raw installation image
	TypeImageISO           FileType = "image-iso"                   // an ISO installation image
	TypeImageManifest      FileType = "image-manifest"              // the packages of an image, as gzipped JSON
	TypeChangelog          FileType = "changelog"                   // the publisher's changelog
)

// ComponentSecureBoot is the component name of the Secure Boot keys, as Provides returns it.
const ComponentSecureBoot = "secure-boot"

// The architectures of IncusOS. A file with an empty architecture is for all of them.
const (
	ArchitectureX8664   = "x86_64"
	ArchitectureAArch64 = "aarch64"
)

// Update is a release of IncusOS and its applications.
type Update struct {
	// UUID is derived from Origin and Version, as Operations Center does.
	UUID string
	// Version is a number, YYYYMMDDHHMM.
	Version string
	// PublishedAt is in UTC.
	PublishedAt time.Time
	Severity    Severity
	// Origin names the publisher. The Origin of an uploaded update ends with LocalOrigin.
	Origin string
	// URL is the folder of the files, relative to the URL of the source.
	URL string
	// Channels are the names of this control plane's channels that contain the update, sorted.
	Channels []string
	// UpstreamChannels are the channels in which its publisher offers it.
	UpstreamChannels []string
	Status           Status
	// Files of a ready update are stored. Files of a pending update are those to fetch.
	Files []File
	// Described is the number of files in the description of an uploaded update. Files may have fewer. 0: not known.
	Described int `json:",omitempty"`
	// SecureBootKeys is the number of Secure Boot keys in a ready update. A server applies missing keys one at a time,
	// each with a reboot.
	SecureBootKeys int
	// Local: the update was uploaded.
	Local bool
	// Placed: the update was ready before, or an operator chose its channels. The Manager then keeps its Channels.
	Placed bool
	// Held is the channel from which a ready update is held back because it lacks needed components. Empty: none.
	Held string
	// Problem says why a pending update is not ready, or why a ready one is held back. Empty: no problem.
	Problem string
	// CreatedAt and LastUpdated are the times, in UTC, at which the row was created and last changed.
	CreatedAt   time.Time
	LastUpdated time.Time
}

// File is one file of an update.
type File struct {
	// Filename is a relative path and may contain slashes: x86_64/incus.raw.gz.
	Filename string
	// Size in bytes.
	Size int64
	// SHA256 of the bytes, as 64 lower-case hexadecimal digits.
	SHA256 string
	// Component is an application's name, "os", or another name that the publisher chose.
	Component string
	Type      FileType
	// Architecture is "x86_64" or "aarch64"; empty: the file is for all architectures.
	Architecture string
}

// Namespaces for the UUIDs of updates. Operations Center uses the same ones.
var (
	mirroredNamespace = uuid.MustParse("00000000-0000-0000-0000-000000000002")
	uploadedNamespace = uuid.MustParse("00000000-0000-0000-0000-000000000001")
)

// LocalOrigin is the suffix of the Origin of uploaded updates.
const LocalOrigin = " (local)"

// setUUID sets the UUID, which depends only on Origin, Version and Local. It appends LocalOrigin to a local Origin.
func (u *Update) setUUID() {
	namespace := mirroredNamespace
	if u.Local {
		namespace = uploadedNamespace
		if !strings.HasSuffix(u.Origin, LocalOrigin) {
			u.Origin += LocalOrigin
		}
	}
	u.UUID = uuid.NewHash(sha1.New(), namespace, []byte(u.Origin+":"+u.Version), 5).String()
}

// Application returns the name of the application in the file, or "" if the file is no application. Like IncusOS, it uses
// only the base of the file name.
func (f *File) Application() string {
	name, ok := strings.CutSuffix(path.Base(f.Filename), ".raw.gz")
	if f.Type != TypeApplication || !ok {
		return ""
	}
	return name
}

// Provides returns the component that a server installs from the file: an application, lifecycle.ComponentOS or
// ComponentSecureBoot. It returns "" for files that servers ignore, such as images.
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

// isFor reports whether servers of the architecture use the file.
func (f *File) isFor(architecture string) bool {
	return f.Architecture == "" || f.Architecture == architecture
}

// Provides returns the components that servers of the architecture install from the update, sorted. It includes the
// operating system only if all four of its files are present.
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

// osParts is the number of files of an operating system: TypeEFI and the three TypeUsr types.
const osParts = 4

// file returns the file with that name, or nil.
func (u *Update) file(name string) *File {
	for i := range u.Files {
		if u.Files[i].Filename == name {
			return &u.Files[i]
		}
	}
	return nil
}

// Size returns the size of all files together, in bytes.
func (u *Update) Size() (total int64) {
	for i := range u.Files {
		total += u.Files[i].Size
	}
	return total
}

// architectures returns the architectures of the files, without the empty one.
func (u *Update) architectures() (out []string) {
	for i := range u.Files {
		if a := u.Files[i].Architecture; a != "" && !slices.Contains(out, a) {
			out = append(out, a)
		}
	}
	return out
}

// compareVersions compares versions as numbers.
func compareVersions(a, b string) int {
	switch {
	case lifecycle.Newer(a, b):
		return 1
	case lifecycle.Newer(b, a):
		return -1
	}
	return 0
}

// newestFirst orders updates as servers read them: by version, then by publication time.
func newestFirst(a, b *Update) int {
	return cmp.Or(compareVersions(b.Version, a.Version), b.PublishedAt.Compare(a.PublishedAt), strings.Compare(a.UUID, b.UUID))
}

// Limits of an update and of an index.
const (
	// MaxUpdates is the maximum number of updates in an index.
	MaxUpdates = 1000
	// MaxFiles is the maximum number of files in an update.
	MaxFiles = 1000
	// MaxFileSize is the maximum size of a file, in bytes.
	MaxFileSize = 16 << 30
	// MaxFilenameLength is the maximum length of a file name, in bytes.
	MaxFilenameLength = 255
	maxTextLength     = 255
	maxChannels       = 32
)

// check returns an ErrInvalid that names the first field with an unusable value.
func (u *Update) check() error {
	if n, err := strconv.ParseUint(u.Version, 10, 64); err != nil || n == 0 || len(u.Version) > 14 {
		return fmt.Errorf("version %.40q: it must be digits, as in 202610150000: %w", u.Version, ErrInvalid)
	}
	for field, text := range map[string]string{"origin": u.Origin, "url": u.URL, "severity": string(u.Severity)} {
		if len(text) > maxTextLength || strings.ContainsFunc(text, isControl) {
			return fmt.Errorf("%s of update %s can't be used: %w", field, u.Version, ErrInvalid)
		}
	}
	if len(u.UpstreamChannels) > maxChannels {
		return fmt.Errorf("update %s is in %d channels, at most %d are allowed: %w", u.Version, len(u.UpstreamChannels), maxChannels, ErrInvalid)
	}
	for _, channel := range u.UpstreamChannels {
		if channel == "" || len(channel) > maxTextLength || strings.ContainsFunc(channel, isControl) {
			return fmt.Errorf("a channel of update %s has a name that can't be used: %w", u.Version, ErrInvalid)
		}
	}
	if year := u.PublishedAt.Year(); year < 1970 || year > 2200 {
		return fmt.Errorf("update %s has an impossible published_at: %w", u.Version, ErrInvalid)
	}
	if len(u.Files) > MaxFiles {
		return fmt.Errorf("update %s has %d files, at most %d are allowed: %w", u.Version, len(u.Files), MaxFiles, ErrInvalid)
	}
	seen := map[string]bool{}
	for i := range u.Files {
		f := &u.Files[i]
		if err := f.check(); err != nil {
			return fmt.Errorf("update %s: %w", u.Version, err)
		}
		if seen[f.Filename] {
			return fmt.Errorf("update %s lists file %q twice: %w", u.Version, f.Filename, ErrInvalid)
		}
		seen[f.Filename] = true
	}
	return nil
}

// check returns an ErrInvalid that names the first field with an unusable value.
func (f *File) check() error {
	if err := checkFilename(f.Filename); err != nil {
		return err
	}
	switch {
	case f.Size <= 0 || f.Size > MaxFileSize:
		return fmt.Errorf("file %q has size %d, 1 to %d bytes are allowed: %w", f.Filename, f.Size, int64(MaxFileSize), ErrInvalid)
	case !isSum(f.SHA256):
		return fmt.Errorf("file %q has no sha256 of 64 hexadecimal digits: %w", f.Filename, ErrInvalid)
	}
	for field, text := range map[string]string{"component": f.Component, "type": string(f.Type), "architecture": f.Architecture} {
		if len(text) > maxTextLength || strings.ContainsFunc(text, isControl) {
			return fmt.Errorf("file %q has a %s that can't be used: %w", f.Filename, field, ErrInvalid)
		}
	}
	return nil
}

// checkFilename accepts relative paths without "." and "..", of characters that every file system supports.
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

// isSum reports whether the text is a SHA-256 in 64 lower-case hexadecimal digits.
func isSum(text string) bool {
	for i := range len(text) {
		if c := text[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return len(text) == 64
}
