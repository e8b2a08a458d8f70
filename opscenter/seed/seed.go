package seed

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/opscenter-go/sdk/opscenter/network"
)

// Seed is what a server is given, by file. A file that is nil is left out; what that means says its type.
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

// Names of the files, without their extensions.
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

// Files are the names of all files, in the order in which they are written.
var Files = []string{FileApplications, FileIncus, FileInstall, FileKernel, FileMigrationManager, FileNetwork, FileOperationsCenter, FileProvider, FileSecurity, FileServices, FileUpdate}

// ErrInvalid: a seed can't be used. See ValidationError.
var ErrInvalid = errors.New("invalid seed")

// content is one file of a seed.
type content struct {
	there bool
	value any
	// set makes the file what decode reads into an empty one.
	set func(decode func(any) error) error
}

// file returns a file by its name; nil if there is no such file.
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

// Set decodes a file, as JSON or YAML, and makes it part of the seed; an empty one has all its defaults. Errors: ErrInvalid,
// which names the field: for a name that no file has, and for what is not known of it.
func (s *Seed) Set(name string, data []byte) error {
	file := s.file(name)
	if file == nil {
		return fmt.Errorf("%.40q is no seed file, these are: %s: %w", name, strings.Join(Files, ", "), ErrInvalid)
	}
	return file.set(func(into any) error { return decode(name, data, into) })
}

// FromFiles reads the files of a seed, strictly. A list of applications that is empty, as a client sends it that was told of none, is none. Errors:
// ErrInvalid.
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

// Encode returns a file as JSON, with a line end; nil if it is not there.
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

// Raw returns all files that are there, as JSON: what a factory reset takes.
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

// Version of the format of a file. The empty one is written as 1, which is the only one there is.
type Version string

// MarshalText implements encoding.TextMarshaler.
func (v Version) MarshalText() ([]byte, error) {
	if v == "" {
		v = "1"
	}
	return []byte(v), nil
}

// UnmarshalJSON takes a text, and a number as YAML files have it.
func (v *Version) UnmarshalJSON(data []byte) error {
	var number json.Number
	if err := json.Unmarshal(data, (*string)(v)); err == nil {
		return nil
	}
	if err := json.Unmarshal(data, &number); err != nil {
		return errors.New("version: a text is wanted")
	}
	*v = Version(number)
	return nil
}

// Secret is a key, a password or a token. It prints as hidden, and is written as it is.
type Secret = network.Secret

// Manage makes what a server needs to come to a control plane, and to be left to it: the provider, and where these files are
// not there yet, or say nothing of it, updates when the control plane says so, incus as its application, and Incus without its defaults.
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
