// Package seed is what an IncusOS server is given before its first boot: the eleven files of the seed partition of an
// installation image, which package image puts there.
//
//	s := &seed.Seed{Install: &seed.Install{}, Applications: seed.ApplicationsOf("incus")}
//	s.Manage(seed.OperationsCenterProvider(url, token, nil), "stable")
//	err := s.Validate(seed.Rules{})
//	archive, err := s.Tar()
//
// Each file has a type here, named as IncusOS documents it. What is not set is left out of it: a server of an older
// release refuses a file with a field that it does not know, and stops at its console. For the same reason Set refuses
// what is not known here, and names file and field.
package seed
