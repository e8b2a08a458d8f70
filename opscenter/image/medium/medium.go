// Package medium makes the disk that gives a seed to machines that boot the plain, public image: IncusOS looks for a partition or a file
// system with label SEED_DATA, and goes by what is there instead of by the seed of its image. It is a module of its own, as most programs make
// images (package image) instead.
//
// Take the disk out before the first boot of the installed system: with the install seed still there the machine installs itself again.
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

// Label of the file system.
const Label = "SEED_DATA"

// size of the disk, in bytes, of which most are holes: the least that FAT32 is made for, and then some.
const size = 64 << 20

// Write writes a disk with a FAT32 file system, which holds the files of a seed at its root. The file must not exist. Errors: those of
// seed.Seed.Encode and of the file.
func Write(path string, s *seed.Seed) (err error) {
	image, err := diskfs.Create(path, size, diskfs.SectorSizeDefault)
	if err != nil {
		return err
	}
	if err := os.Chmod(path, 0o600); err != nil { // before anything is in it: it holds a token
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
