package updates_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/opscenter/updates"
)

// TestPublicIndex reads a real index of the public server, and trusts only the embedded root certificate.
func TestPublicIndex(t *testing.T) {
	message, err := os.ReadFile(filepath.Join("..", "..", "internal", "smime", "testdata", "index.sjson"))
	require.NoError(t, err)
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "index.sjson"), message, 0o600))
	// The signing certificate expires in June 2027. The long grace keeps this test valid.
	index, err := updates.Directory{Path: dir, Trust: updates.Trust{Grace: 100 * 365 * 24 * time.Hour}}.Index(t.Context())
	require.NoError(t, err)
	require.NoError(t, index.Unusable)
	require.Equal(t, "Incus OS - Update 2025 E1", index.Signature.Name)
	require.Len(t, index.Updates, 1)
	u := index.Updates[0]
	require.Equal(t, "202507010114", u.Version)
	require.Equal(t, []string{"daily"}, u.UpstreamChannels, "the old field channel is read")
	require.Equal(t, "linuxcontainers.org", u.Origin)
	require.Len(t, u.Files, 8)
	require.Equal(t, []string{"debug", "incus", "os"}, u.Provides(updates.ArchitectureX8664))
	require.Empty(t, u.Provides(updates.ArchitectureAArch64))
	require.EqualValues(t, 234952160, u.Files[1].Size)
}

func TestParseIndex(t *testing.T) {
	good := `{"format":"1.0","channels":["stable"],"files":[{"architecture":"x86_64","component":"incus","filename":"x86_64/incus.raw.gz","sha256":"` + strings.Repeat("AB", 32) + `","size":7,"type":"application","later":1}],"origin":"o","published_at":"2026-10-01T02:00:00+02:00","severity":"high","version":"202610010000","url":"/202610010000","later":{}}`
	list, err := updates.ParseIndex([]byte(`{"format":"1.0","updates":[` + good + `,` + strings.Replace(good, `"202610010000"`, `"202610020000"`, 1) + `]}`))
	require.NoError(t, err)
	require.Len(t, list, 2)
	require.Equal(t, "202610020000", list[0].Version, "newest first")
	require.Equal(t, strings.Repeat("ab", 32), list[1].Files[0].SHA256)
	require.Equal(t, updates.SeverityHigh, list[1].Severity)
	require.Equal(t, time.Date(2026, 10, 1, 0, 0, 0, 0, time.UTC), list[1].PublishedAt)

	// An unusable update does not affect the others.
	for _, bad := range []string{strings.Replace(good, `"1.0"`, `"2.0"`, 1), `7`, `{}`, good, strings.Replace(good, "x86_64/incus", "../incus", 1)} {
		list, err := updates.ParseIndex([]byte(`{"format":"1.0","updates":[` + good + `,` + bad + `]}`))
		require.ErrorIs(t, err, updates.ErrInvalid, bad)
		require.Len(t, list, 1)
	}
	for _, bad := range []string{``, `{`, `[]`, `{"format":"2.0","updates":[]}`, `{"updates":[]}`, `{"format":"1.0","updates":{}}`, fmt.Sprintf(`{"format":"1.0","updates":[%s0]}`, strings.Repeat("0,", updates.MaxUpdates))} {
		list, err := updates.ParseIndex([]byte(bad))
		require.ErrorIs(t, err, updates.ErrInvalid, bad[:min(40, len(bad))])
		require.Nil(t, list)
	}
}

func FuzzParseIndex(f *testing.F) {
	f.Add([]byte(`{"format":"1.0","updates":[{"format":"1.0","channel":"daily","files":[{"architecture":"x86_64","component":"debug","filename":"debug.raw.gz","sha256":"` + strings.Repeat("a", 64) + `","size":1,"type":"application"}],"origin":"o","published_at":"2025-07-03T01:28:07.80859166-04:00","severity":"none","version":"202507010114","url":"/202507010114"}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		list, _ := updates.ParseIndex(data)
		for _, u := range list {
			for i := range u.Files {
				name := u.Files[i].Filename
				if strings.Contains(name, "..") && bytes.Contains([]byte("/"+name+"/"), []byte("/../")) || strings.HasPrefix(name, "/") {
					t.Fatalf("file name %q leads out of its folder", name)
				}
			}
			u.Provides("x86_64")
		}
	})
}
