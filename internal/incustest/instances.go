package incustest

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// busyboxPath is the path of busybox in Debian's package busybox-static.
const busyboxPath = "/bin/busybox"

// image returns the file of a container image. It has a static busybox, and an init that sleeps until it is asked to end.
func image(t testing.TB) []byte {
	t.Helper()
	busybox, err := os.ReadFile(busyboxPath)
	if err != nil {
		skip := t.Skipf
		if os.Getenv(RequireVariable) == "1" {
			skip = t.Fatalf
		}
		skip("containers need Debian's package busybox-static: %v", err)
	}
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	add := func(name string, mode int64, data []byte) {
		header := &tar.Header{Name: name, Mode: mode, Size: int64(len(data)), ModTime: time.Unix(1700000000, 0), Typeflag: tar.TypeReg}
		if data == nil {
			header.Typeflag = tar.TypeDir
		}
		if err := w.WriteHeader(header); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(data); err != nil {
			t.Fatal(err)
		}
	}
	add("metadata.yaml", 0o644, []byte("architecture: x86_64\ncreation_date: 1700000000\nproperties:\n  description: busybox\n"))
	for _, dir := range []string{"rootfs/", "rootfs/bin/", "rootfs/sbin/", "rootfs/dev/", "rootfs/proc/", "rootfs/sys/", "rootfs/tmp/", "rootfs/run/", "rootfs/etc/", "rootfs/var/", "rootfs/root/"} {
		add(dir, 0o755, nil)
	}
	add("rootfs/bin/busybox", 0o755, busybox)
	add("rootfs/sbin/init", 0o755, []byte("#!/bin/busybox sh\ntrap 'exit 0' TERM PWR INT\nwhile :; do /bin/busybox sleep 1; done\n"))
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// Instance is an instance as the daemon reports it.
type Instance struct {
	Name     string `json:"name"`
	Project  string `json:"project"`
	Status   string `json:"status"`
	Location string `json:"location"`
}

// Instances returns the instances of all projects.
func (d *Daemon) Instances() (out []Instance, err error) {
	err = d.Call(http.MethodGet, "/1.0/instances?recursion=1&all-projects=true", nil, &out)
	return out, err
}

// stopContainers stops the running containers, which would outlive the daemon.
func (d *Daemon) stopContainers() {
	list, err := d.Instances()
	for _, i := range list {
		if err == nil && i.Status == "Running" {
			_ = d.Do(http.MethodPut, "/1.0/instances/"+i.Name+"/state?project="+i.Project, map[string]any{"action": "stop", "force": true})
		}
	}
	// If the daemon no longer answers, the directory in the command line identifies its containers.
	processes, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, path := range processes {
		text, err := os.ReadFile(path)
		if err != nil || !strings.Contains(string(text), "[lxc monitor] "+d.Dir) {
			continue
		}
		if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path))); err == nil {
			if process, err := os.FindProcess(pid); err == nil {
				_ = process.Kill()
			}
		}
	}
}

// Do calls the daemon's API, and waits up to 25 seconds for the operation if there is one.
//
// The daemon of Debian loses a descriptor at times, of its database or of a directory that it exports, and fails with "bad
// file descriptor". Do sends such a request again, three times in all.
func (d *Daemon) Do(method, path string, body any) (err error) {
	for range 3 {
		if err = d.do(method, path, body); err == nil || !strings.Contains(err.Error(), "bad file descriptor") {
			break
		}
		d.t.Logf("%s %s is sent again: %v", method, path, err)
	}
	return err
}

func (d *Daemon) do(method, path string, body any) error {
	var op struct {
		ID    string `json:"id"`
		Class string `json:"class"`
	}
	if err := d.Call(method, path, body, &op); err != nil || op.ID == "" || op.Class == "" {
		if _, object := err.(*json.UnmarshalTypeError); object {
			return nil
		}
		return err
	}
	var ended struct {
		Err    string `json:"err"`
		Status string `json:"status"`
	}
	if err := d.Call(http.MethodGet, "/1.0/operations/"+op.ID+"/wait?timeout=25", nil, &ended); err != nil {
		return err
	}
	if ended.Err != "" || ended.Status != "Success" {
		return fmt.Errorf("%s %s: %s %s", method, path, ended.Status, ended.Err)
	}
	return nil
}

// MustDo is Do, but fails the test on an error.
func (d *Daemon) MustDo(method, path string, body any) {
	d.t.Helper()
	if err := d.Do(method, path, body); err != nil {
		d.t.Fatal(err)
	}
}

// Furnish gives the daemon a storage pool "default" and an image "busybox". members are the members of its cluster, if any.
func (d *Daemon) Furnish(members ...string) {
	d.t.Helper()
	pool := map[string]any{"name": "default", "driver": "dir"}
	for _, m := range members {
		d.MustDo(http.MethodPost, "/1.0/storage-pools?target="+m, pool)
	}
	d.MustDo(http.MethodPost, "/1.0/storage-pools", pool)
	d.MustDo(http.MethodPut, "/1.0/profiles/default", map[string]any{"description": "", "config": map[string]string{},
		"devices": map[string]any{"root": map[string]string{"type": "disk", "path": "/", "pool": "default"}}})
	if err := d.upload(image(d.t)); err != nil {
		d.t.Fatal(err)
	}
}

// upload stores an image with the alias "busybox".
func (d *Daemon) upload(data []byte) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://incus/1.0/images", bytes.NewReader(data))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/octet-stream")
	resp, err := d.transport().RoundTrip(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	var answer struct {
		Error     string `json:"error"`
		Operation string `json:"operation"`
	}
	if err := json.Unmarshal(text, &answer); err != nil || answer.Error != "" {
		return fmt.Errorf("the image was rejected: %s", text)
	}
	var ended struct {
		Err      string `json:"err"`
		Metadata struct {
			Fingerprint string `json:"fingerprint"`
		} `json:"metadata"`
	}
	if err := d.Call(http.MethodGet, answer.Operation+"/wait?timeout=25", nil, &ended); err != nil || ended.Err != "" {
		return fmt.Errorf("the image was rejected: %v %s", err, ended.Err)
	}
	d.Image = ended.Metadata.Fingerprint
	return d.Do(http.MethodPost, "/1.0/images/aliases", map[string]string{"name": "busybox", "target": ended.Metadata.Fingerprint})
}

// Launch creates and starts a container from the image of Furnish. An empty member lets the daemon choose.
func (d *Daemon) Launch(name, member string) {
	d.t.Helper()
	target := ""
	if member != "" {
		target = "?target=" + member
	}
	d.MustDo(http.MethodPost, "/1.0/instances"+target, map[string]any{"name": name, "type": "container", "source": map[string]string{"type": "image", "alias": "busybox"}})
	d.MustDo(http.MethodPut, "/1.0/instances/"+name+"/state", map[string]any{"action": "start", "timeout": 20})
}

// Empty creates a container without a root file system, which can't start. An empty member lets the daemon choose.
func (d *Daemon) Empty(name, member string) {
	d.t.Helper()
	target := ""
	if member != "" {
		target = "?target=" + member
	}
	d.MustDo(http.MethodPost, "/1.0/instances"+target, map[string]any{"name": name, "type": "container", "source": map[string]string{"type": "none"}})
}
