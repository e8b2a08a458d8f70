package seed

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/opscenter-go/sdk/opscenter/network"
)

// Seed has the files of a seed. A nil file is left out; the type of the file says how the server then behaves. A Seed must
// not be changed concurrently.
type Seed struct {
	Applications     *Applications
	Incus            *Incus
	Install          *Install
	Kernel           *Kernel
	MigrationManager *MigrationManager
	Network          *Network
	OperationsCenter *OperationsCenter
	Provider         *Provider
	Security         *Security
	Services         *Services
	Update           *Update
}

// Names of the files, without extension.
const (
	FileApplications     = "applications"
	FileIncus            = "incus"
	FileInstall          = "install"
	FileKernel           = "kernel"
	FileMigrationManager = "migration-manager"
	FileNetwork          = "network"
	FileOperationsCenter = "operations-center"
	FileProvider         = "provider"
	FileSecurity         = "security"
	FileServices         = "services"
	FileUpdate           = "update"
)

// Files are the names of all files, in the order in which Tar writes them.
var Files = []string{FileApplications, FileIncus, FileInstall, FileKernel, FileMigrationManager, FileNetwork, FileOperationsCenter, FileProvider, FileSecurity, FileServices, FileUpdate}

// ErrInvalid: a seed or one of its files is unusable. See ValidationError.
var ErrInvalid = errors.New("invalid seed")

// content gives access to one file of a seed.
type content struct {
	there bool
	value any
	// set replaces the file by an empty one into which decode has read.
	set func(decode func(any) error) error
}

// file returns the file with a name, or nil for an unknown name.
func (s *Seed) file(name string) *content {
	switch name {
	case FileApplications:
		return of(&s.Applications)
	case FileIncus:
		return of(&s.Incus)
	case FileInstall:
		return of(&s.Install)
	case FileKernel:
		return of(&s.Kernel)
	case FileMigrationManager:
		return of(&s.MigrationManager)
	case FileNetwork:
		return of(&s.Network)
	case FileOperationsCenter:
		return of(&s.OperationsCenter)
	case FileProvider:
		return of(&s.Provider)
	case FileSecurity:
		return of(&s.Security)
	case FileServices:
		return of(&s.Services)
	case FileUpdate:
		return of(&s.Update)
	}
	return nil
}

// of returns the content of a file of type T.
func of[T any](file **T) *content {
	return &content{there: *file != nil, value: *file, set: func(decode func(any) error) error {
		read := new(T)
		err := decode(read)
		if err == nil {
			*file = read
		}
		return err
	}}
}

// Set reads a file from JSON or YAML and adds it to the seed. Empty data gives a file with all defaults. Errors: ErrInvalid
// for an unknown file name, and for unknown fields and wrong types. The error names the field, and the seed is unchanged.
func (s *Seed) Set(name string, data []byte) error {
	file := s.file(name)
	if file == nil {
		return fmt.Errorf("%.40q is not a seed file, the seed files are: %s: %w", name, strings.Join(Files, ", "), ErrInvalid)
	}
	return file.set(func(into any) error { return decode(name, data, into) })
}

// FromFiles reads the files of a seed, given by name, as Set does. It leaves out an empty list of applications, which
// a client sends if the user chose no application. Errors: ErrInvalid.
func FromFiles(files map[string]json.RawMessage) (*Seed, error) {
	out := &Seed{}
	for name, data := range sorted(files) {
		if err := out.Set(name, data); err != nil {
			return nil, err
		}
	}
	if out.Applications != nil && len(out.Applications.Applications) == 0 {
		out.Applications = nil
	}
	return out, nil
}

// Encode returns a file as indented JSON with a final newline, or nil if the seed lacks the file.
func (s *Seed) Encode(name string) ([]byte, error) {
	file := s.file(name)
	if file == nil || !file.there {
		return nil, nil
	}
	data, err := json.MarshalIndent(file.value, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %v", name, ErrInvalid, err)
	}
	return append(data, '\n'), nil
}

// Raw returns all files of the seed as JSON, by name. This is the form in which a factory reset takes a seed.
func (s *Seed) Raw() (map[string]json.RawMessage, error) {
	out := map[string]json.RawMessage{}
	for _, name := range Files {
		data, err := s.Encode(name)
		if err != nil {
			return nil, err
		}
		if data != nil {
			out[name] = data
		}
	}
	return out, nil
}

// Version is the version of a file's format. An empty Version is written as "1", the only one so far.
type Version string

// MarshalText implements encoding.TextMarshaler.
func (v Version) MarshalText() ([]byte, error) {
	if v == "" {
		v = "1"
	}
	return []byte(v), nil
}

// UnmarshalJSON reads a string, or a number as YAML files contain it.
func (v *Version) UnmarshalJSON(data []byte) error {
	var number json.Number
	if err := json.Unmarshal(data, (*string)(v)); err == nil {
		return nil
	}
	if err := json.Unmarshal(data, &number); err != nil {
		return errors.New("version: it must be a text")
	}
	*v = Version(number)
	return nil
}

// Secret is a key, a password or a token. It prints as hidden, but is written to the seed as it is.
type Secret = network.Secret

// Manage sets the provider, and fills in the other files that a managed server needs, unless they are set. The update file
// gets the channel and CheckNever, so that the control plane starts updates. The default application is incus. Incus does
// not apply its defaults.
func (s *Seed) Manage(provider *Provider, channel string) {
	s.Provider = provider
	managed := ManagedUpdate(channel)
	if s.Update == nil {
		s.Update = managed
	}
	if s.Update.Channel == "" {
		s.Update.Channel = managed.Channel
	}
	if s.Update.CheckFrequency == "" {
		s.Update.CheckFrequency = managed.CheckFrequency
	}
	if s.Applications == nil {
		s.Applications = ApplicationsOf("incus")
	}
	if s.Incus == nil {
		s.Incus = &Incus{}
	}
}
