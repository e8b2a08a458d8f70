package lifecycle_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/opscenter/lifecycle"
)

func TestTypeOfApplication(t *testing.T) {
	for name, want := range map[string]lifecycle.ServerType{"incus": lifecycle.TypeIncus, "incus-lts-6.0": lifecycle.TypeIncus, "incus-lts-7.0": lifecycle.TypeIncus,
		"migration-manager": lifecycle.TypeMigrationManager, "operations-center": lifecycle.TypeOperationsCenter, "incus-ceph": lifecycle.TypeUnknown, "": lifecycle.TypeUnknown, "x": lifecycle.TypeUnknown} {
		require.Equal(t, want, lifecycle.TypeOfApplication(name), name)
	}
}
