package seed

import (
	"fmt"
	"slices"
	"strings"
)

// Applications are those that the server fetches when it is installed. Without the file that is incus.
type Applications struct {
	Version      Version       `json:"version"`
	Applications []Application `json:"applications,omitempty"`
}

// Application is one of them.
type Application struct {
	Name string `json:"name"`
}

// primary are the applications of which a server runs one.
var primary = []string{"incus", "incus-lts-7.0", "migration-manager", "operations-center"}

// IsPrimary reports whether a server runs an application as its main one. Each long-term release of Incus
// is one.
func IsPrimary(name string) bool {
	return slices.Contains(primary, name) || strings.HasPrefix(name, "incus-lts-")
}

// ApplicationsOf returns a file with those applications.
func ApplicationsOf(names ...string) *Applications {
	out := &Applications{}
	for _, name := range names {
		out.Applications = append(out.Applications, Application{Name: name})
	}
	return out
}

// Names returns the names of the applications that the server will have: with incus, if none of them is primary.
func (a *Applications) Names() (out []string) {
	if a != nil {
		for _, application := range a.Applications {
			out = append(out, application.Name)
		}
	}
	if !slices.ContainsFunc(out, IsPrimary) {
		out = append(out, "incus")
	}
	return out
}

// Primary returns the main application of the server.
func (a *Applications) Primary() string {
	names := a.Names()
	return names[slices.IndexFunc(names, IsPrimary)]
}

func (a *Applications) validate(v *validation) {
	if len(a.Applications) == 0 {
		v.add("applications", "at least one is wanted: the installer stops at an empty list")
	}
	first := ""
	seen := map[string]bool{}
	for i, application := range a.Applications {
		field := fmt.Sprintf("applications[%d].name", i)
		name := application.Name
		switch {
		case name == "" || len(name) > maxText || strings.ContainsFunc(name, func(r rune) bool {
			return r != '-' && r != '.' && (r < '0' || r > '9') && (r < 'a' || r > 'z')
		}):
			v.add(field, "%s is no name of an application", shown(name))
		case seen[name]:
			v.add(field, "%s is there twice", shown(name))
		case IsPrimary(name) && first != "":
			v.add(field, "%s and %s are both primary applications: a server runs one", shown(first), shown(name))
		case IsPrimary(name):
			first = name
		}
		seen[name] = true
	}
}
