package updates

import (
	"fmt"
	"slices"
	"time"

	"github.com/opscenter-go/sdk/opscenter/expression"
)

// The default filters, which are those of Operations Center.
const (
	// DefaultFilter is the default of Settings.Filter.
	DefaultFilter = `"stable" in upstream_channels`
	// DefaultFileFilter is the default of Settings.FileFilter.
	DefaultFileFilter = `applies_to_architecture(architecture, "x86_64")`
)

// NoFilter is the expression that every update and every file passes.
const NoFilter = "true"

// updateSchema lists the names that a filter of updates may use, as in Operations Center.
var updateSchema = &expression.Schema{Fields: map[string]any{
	"uuid": "", "version": "", "published_at": time.Time{}, "severity": "", "origin": "", "url": "", "channels": []string{}, "upstream_channels": []string{},
	"files": []map[string]any{}, "format": "", "status": "", "last_updated": time.Time{},
}}

// fileSchema lists the names that a filter of files may use. The documentation of Operations Center says filename, its
// program file_name; both work here.
var fileSchema = &expression.Schema{Fields: map[string]any{
	"file_name": "", "filename": "", "size": int64(0), "sha256": "", "component": "", "type": "", "architecture": "",
}, Functions: map[string]expression.Function{"applies_to_architecture": {Call: appliesToArchitecture, Type: new(func(string, ...string) bool)}}}

// appliesToArchitecture reports whether its first argument is empty or equals one of the others.
func appliesToArchitecture(arguments ...any) (any, error) {
	for _, expected := range arguments[1:] {
		if expected == arguments[0] {
			return true, nil
		}
	}
	return arguments[0] == "", nil
}

// filters decide which updates and files are fetched.
type filters struct {
	update, file *expression.Program
	// fleet has the architectures of the registered servers.
	fleet []string
}

// compileFilters compiles the two expressions. An empty expression means the default.
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

// passes reports whether the update filter accepts the update.
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

// passesFile reports whether the file filter accepts the file. The fleet's needs override the filter's choice of
// architectures: a file for all architectures, or for one of the fleet, passes if the filter accepts it under any
// architecture. Otherwise a filter for x86_64 would drop the Secure Boot keys.
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

// fields returns the file as the values of fileSchema.
func (f *File) fields() map[string]any {
	return map[string]any{"file_name": f.Filename, "filename": f.Filename, "size": f.Size, "sha256": f.SHA256, "component": f.Component, "type": string(f.Type), "architecture": f.Architecture}
}
