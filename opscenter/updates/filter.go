package updates

import (
	"fmt"
	"slices"
	"time"

	"github.com/opscenter-go/sdk/opscenter/expression"
)

// The filters that are used where none is set: those of Operations Center.
const (
	DefaultFilter     = `"stable" in upstream_channels`
	DefaultFileFilter = `applies_to_architecture(architecture, "x86_64")`
)

// NoFilter is the expression that lets all pass.
const NoFilter = "true"

// updateSchema is what an expression about updates may name, as in Operations Center.
var updateSchema = &expression.Schema{Fields: map[string]any{
	"uuid": "", "version": "", "published_at": time.Time{}, "severity": "", "origin": "", "url": "", "channels": []string{}, "upstream_channels": []string{},
	"files": []map[string]any{}, "format": "", "status": "", "last_updated": time.Time{},
}}

// fileSchema is what an expression about files may name. Operations Center's description says filename, and its
// program file_name.
var fileSchema = &expression.Schema{Fields: map[string]any{
	"file_name": "", "filename": "", "size": int64(0), "sha256": "", "component": "", "type": "", "architecture": "",
}, Functions: map[string]expression.Function{"applies_to_architecture": {Call: appliesToArchitecture, Type: new(func(string, ...string) bool)}}}

func appliesToArchitecture(arguments ...any) (any, error) {
	for _, expected := range arguments[1:] {
		if expected == arguments[0] {
			return true, nil
		}
	}
	return arguments[0] == "", nil
}

// filters decide what is fetched.
type filters struct {
	update, file *expression.Program
	// fleet are the architectures of the servers there are.
	fleet []string
}

// compileFilters reads the two expressions; an empty one is the default.
func compileFilters(update, file string) (f filters, err error) {
	if update == "" {
		update = DefaultFilter
	}
	if file == "" {
		file = DefaultFileFilter
	}
	if f.update, err = expression.Compile(update, updateSchema); err != nil {
		return f, fmt.Errorf("filter_expression: %w", err)
	}
	if f.file, err = expression.Compile(file, fileSchema); err != nil {
		return f, fmt.Errorf("file_filter_expression: %w", err)
	}
	return f, nil
}

// passes reports whether an update is fetched.
func (f *filters) passes(u *Update) (bool, error) {
	e := f.update.Evaluator()
	files := []map[string]any{}
	if e.Uses("files") {
		for i := range u.Files {
			files = append(files, u.Files[i].fields())
		}
	}
	for name, value := range map[string]any{"uuid": u.UUID, "version": u.Version, "published_at": u.PublishedAt, "severity": string(u.Severity), "origin": u.Origin,
		"url": u.URL, "channels": u.Channels, "upstream_channels": u.UpstreamChannels, "files": files, "format": Format, "status": string(u.Status), "last_updated": u.LastUpdated} {
		e.Set(name, value)
	}
	ok, err := e.Match()
	if err != nil {
		return false, fmt.Errorf("filter_expression, for update %s: %w", u.Version, err)
	}
	return ok, nil
}

// passesFile reports whether a file is fetched. Which architectures are fetched is for the filter to say only as far as
// the fleet does not need them: a file for all architectures, or for one that a server of the fleet has, passes if the
// filter would let it pass under any architecture. A filter for x86_64 would drop the Secure Boot keys otherwise.
func (f *filters) passesFile(file *File) (bool, error) {
	as := []string{file.Architecture}
	if file.Architecture == "" || slices.Contains(f.fleet, file.Architecture) {
		for _, architecture := range append([]string{ArchitectureX8664, ArchitectureAArch64}, f.fleet...) {
			if !slices.Contains(as, architecture) {
				as = append(as, architecture)
			}
		}
	}
	for _, architecture := range as {
		e := f.file.Evaluator()
		for name, value := range file.fields() {
			e.Set(name, value)
		}
		e.Set("architecture", architecture)
		ok, err := e.Match()
		if err != nil {
			return false, fmt.Errorf("file_filter_expression, for file %q: %w", file.Filename, err)
		}
		if ok {
			return true, nil
		}
	}
	return false, nil
}

func (f *File) fields() map[string]any {
	return map[string]any{"file_name": f.Filename, "filename": f.Filename, "size": f.Size, "sha256": f.SHA256, "component": f.Component, "type": string(f.Type), "architecture": f.Architecture}
}
