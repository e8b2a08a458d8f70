package seed

import (
	"fmt"
	"slices"
	"strings"
)

// Applications are the applications that the server fetches at its installation. Without this file it fetches incus.
type Applications struct {
	Version      Version       `json:"version"`
	Applications []Application `json:"applications,omitempty"`
}

// Application is the name of an application, such as incus.
type Application struct {
	Name string `json:"name"`
}

// primary are the applications of which a server runs exactly one.
var primary = []string{"incus", "incus-lts-7.0", "migration-manager", "operations-center"}

// IsPrimary reports whether an application is a main application, of which a server runs exactly one. Every long-term
// release of Incus is a main application.
func IsPrimary(name string) bool {
	return slices.Contains(primary, name) || strings.HasPrefix(name, "incus-lts-")
}

// ApplicationsOf returns an Applications with the names.
func ApplicationsOf(names ...string) *Applications {
	out := &Applications{}
	for _, name := range names {
		out.Applications = append(out.Applications, Application{Name: name})
	}
	return out
}

// Names returns the names of the applications that the server will run. Without a primary application, the server adds
// incus. The receiver may be nil.
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

// Primary returns the name of the server's primary application. The receiver may be nil.
func (a *Applications) Primary() string {
	names := a.Names()
	return names[slices.IndexFunc(names, IsPrimary)]
}

func (a *Applications) validate(v *validation) {
	if len(a.Applications) == 0 {
		v.add("applications", "at least one is required: the installer stops at an empty list")
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
			v.add(field, "%s is not the name of an application", shown(name))
		case seen[name]:
			v.add(field, "%s is listed twice", shown(name))
		case IsPrimary(name) && first != "":
			v.add(field, "%s and %s are both primary applications: a server runs only one", shown(first), shown(name))
		case IsPrimary(name):
			first = name
		}
		seen[name] = true
	}
}
