package devcert_test

import (
	"fmt"
	"io/fs"
	"log"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/opscenter/devcert"
)

// Example makes a certificate at the first start of a program, and finds it at the next.
func Example() {
	dir, err := os.MkdirTemp("", "devcert")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	first, err := devcert.Load(dir, "control-plane", "localhost", "192.0.2.1")
	if err != nil {
		log.Fatal(err)
	}
	next, err := devcert.Load(dir, "control-plane", "control.example")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("the same:", first.Leaf.Equal(next.Leaf))
	fmt.Println(next.Leaf.VerifyHostname("control.example"))
	// Output:
	// the same: true
	// x509: certificate is valid for localhost, not control.example
}

func TestLoad(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new", "certificates")
	made, err := devcert.Load(dir, "client", "localhost", "192.0.2.1")
	require.NoError(t, err)
	require.Equal(t, "client", made.Leaf.Subject.CommonName)
	require.NoError(t, made.Leaf.VerifyHostname("localhost"))
	require.NoError(t, made.Leaf.VerifyHostname("192.0.2.1"))
	require.Error(t, made.Leaf.VerifyHostname("client"), "the name is no host")
	require.WithinDuration(t, time.Now().AddDate(10, 0, 0), made.Leaf.NotAfter, 7*24*time.Hour)
	for path, mode := range map[string]fs.FileMode{dir: 0o700 | fs.ModeDir, filepath.Join(dir, "client.crt"): 0o600, filepath.Join(dir, "client.key"): 0o600} {
		info, err := os.Stat(path)
		require.NoError(t, err)
		require.Equal(t, mode, info.Mode(), path)
	}

	require.NoError(t, os.Remove(filepath.Join(dir, "client.crt")))
	again, err := devcert.Load(dir, "client", "localhost")
	require.NoError(t, err, "a first start that was cut off")
	require.False(t, again.Leaf.Equal(made.Leaf))
	require.NoError(t, os.Remove(filepath.Join(dir, "client.key")))
	_, err = devcert.Load(dir, "client", "localhost")
	require.ErrorIs(t, err, fs.ErrNotExist, "an identity that is lost is not replaced")
	require.ErrorContains(t, err, "certificate client: ")
	require.FileExists(t, filepath.Join(dir, "client.crt"))

	_, err = devcert.Load(filepath.Join(dir, "client.crt"), "client")
	require.Error(t, err, "a file is no directory")
}

func TestNew(t *testing.T) {
	first, err := devcert.New("control plane", "localhost")
	require.NoError(t, err)
	second, err := devcert.New("control plane", "localhost")
	require.NoError(t, err)
	require.False(t, first.Leaf.Equal(second.Leaf))
}
