// Package seed makes and reads the seed of an IncusOS server: up to eleven files that configure the server at its first
// boot. They are in the seed partition of an installation image; package image writes them there.
//
//	s := &seed.Seed{Install: &seed.Install{}, Applications: seed.ApplicationsOf("incus")}
//	s.Manage(seed.OperationsCenterProvider(url, token, nil), "stable")
//	err := s.Validate(seed.Rules{})
//	archive, err := s.Tar()
//
// Each file has a type, and its fields have the names of the IncusOS API. A server rejects a file with an unknown field and
// stops at its console. Encode therefore leaves out fields that are not set, which an older release may not know. Set
// rejects unknown fields, and its error names the file and the field.
//
// The files are applications, incus, install, kernel, migration_manager, network, operations_center, provider, security, services and
// update. With install the medium is an installer. Without it a raw image runs from the medium, and an ISO stops. Package image adds
// provider, and adds update, applications and incus where the seed lacks them.
package seed
