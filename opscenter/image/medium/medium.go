// Package medium makes a seed disk for machines that boot a plain, published image. IncusOS looks for a partition or a file
// system with the label SEED_DATA, and uses its seed instead of the seed of the image. Most programs make images with package
// image instead, so this package is a module of its own.
//
// Remove the disk before the first boot of the installed system. Otherwise the machine finds the install seed again, and
// reinstalls itself.
package medium

import (
	"errors"
	"fmt"
	"os"

	"github.com/diskfs/go-diskfs"
	"github.com/diskfs/go-diskfs/disk"
	"github.com/diskfs/go-diskfs/filesystem"

	"github.com/opscenter-go/sdk/opscenter/seed"
)

// Label is the label of the file system, which IncusOS looks for.
const Label = "SEED_DATA"

// size of the disk, in bytes: somewhat more than the minimum of FAT32. Most of it is a hole.
const size = 64 << 20

// Write creates the file path as a disk with a FAT32 file system and the files of the seed at its root. The file must not exist;
// its mode is 0600, since the seed contains a token. On an error Write removes the file. Errors: those of seed.Seed.Encode and
// of the file.
func Write(path string, s *seed.Seed) (err error) {
	image, err := diskfs.Create(path, size, diskfs.SectorSizeDefault)
	if err != nil {
		return err
	}
	if err := os.Chmod(path, 0o600); err != nil { // before the token is written
		return errors.Join(err, image.Close(), os.Remove(path))
	}
	defer func() {
		if err = errors.Join(err, image.Close()); err != nil {
			err = errors.Join(err, os.Remove(path))
		}
	}()
	files, err := image.CreateFilesystem(disk.FilesystemSpec{FSType: filesystem.TypeFat32, VolumeLabel: Label})
	if err != nil {
		return err
	}
	for _, name := range seed.Files {
		data, err := s.Encode(name)
		if err != nil {
			return err
		}
		if data == nil {
			continue
		}
		file, err := files.OpenFile("/"+name+".json", os.O_CREATE|os.O_RDWR)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		_, err = file.Write(data)
		if err = errors.Join(err, file.Close()); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}
