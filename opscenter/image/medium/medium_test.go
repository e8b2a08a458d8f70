package medium_test

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/diskfs/go-diskfs"
	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/opscenter/image/medium"
	"github.com/opscenter-go/sdk/opscenter/seed"
)

// TestWrite: the disk has the label that IncusOS looks for, and the files of the seed under their long names.
func TestWrite(t *testing.T) {
	s := &seed.Seed{Install: &seed.Install{ForceReboot: true}, MigrationManager: &seed.MigrationManager{ApplyDefaults: true}, OperationsCenter: &seed.OperationsCenter{}}
	s.Manage(seed.OperationsCenterProvider("https://control.example.org", "t", nil), "stable")
	path := filepath.Join(t.TempDir(), "seed.img")
	require.NoError(t, medium.Write(path, s))
	raw, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, "SEED_DATA  ", string(raw[71:82]), "the label in the boot sector (FAT specification)")
	require.Equal(t, "FAT32   ", string(raw[82:90]))
	require.Equal(t, []byte{0x55, 0xaa}, raw[510:512])
	disk, err := diskfs.Open(path)
	require.NoError(t, err)
	defer disk.Close()
	files, err := disk.GetFilesystem(0)
	require.NoError(t, err)
	require.Contains(t, files.Label(), medium.Label)
	for _, name := range seed.Files {
		want, err := s.Encode(name)
		require.NoError(t, err)
		file, err := files.OpenFile("/"+name+".json", os.O_RDONLY)
		if want == nil {
			require.Error(t, err, name)
			continue
		}
		require.NoError(t, err, name)
		got, err := io.ReadAll(file)
		require.NoError(t, err)
		require.True(t, bytes.Equal(want, got), name)
		again := &seed.Seed{}
		require.NoError(t, again.Set(name, got))
	}
	require.Error(t, medium.Write(path, s), "Write does not overwrite a file")
	bad := filepath.Join(t.TempDir(), "none", "x")
	require.Error(t, medium.Write(bad, s))
}
