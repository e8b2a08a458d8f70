//go:build ignore

// Proxy writes what a module proxy serves of this repository's modules, as if HEAD were tagged:
//
//	go run .ci/proxy.go DIRECTORY VERSION
package main

import (
	"errors"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/mod/modfile"
	"golang.org/x/mod/module"
	"golang.org/x/mod/zip"
)

func main() {
	if len(os.Args) != 3 {
		log.Fatal("usage: go run .ci/proxy.go DIRECTORY VERSION")
	}
	for _, subdir := range []string{"", "opscenter/metrics", "opscenter/image/medium"} {
		if err := write(os.Args[1], os.Args[2], subdir); err != nil {
			log.Fatal(err)
		}
	}
}

func write(proxy, version, subdir string) error {
	file := filepath.Join(subdir, "go.mod")
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	path := modfile.ModulePath(text)
	dir := filepath.Join(proxy, filepath.FromSlash(path), "@v")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	base := filepath.Join(dir, version)
	info := fmt.Sprintf(`{"Version":%q,"Time":%q}`, version, time.Now().UTC().Format(time.RFC3339))
	archive, err := os.Create(base + ".zip")
	if err != nil {
		return err
	}
	return errors.Join(zip.CreateFromVCS(archive, module.Version{Path: path, Version: version}, ".", "HEAD", subdir), archive.Close(),
		os.WriteFile(filepath.Join(dir, "list"), []byte(version+"\n"), 0o644), os.WriteFile(base+".info", []byte(info), 0o644),
		os.WriteFile(base+".mod", text, 0o644))
}
