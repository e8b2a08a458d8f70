package webui

import (
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/opscenter-go/sdk/opscenter/access"
	"github.com/opscenter-go/sdk/opscenter/client"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
)

// column is a column of the table of servers.
type column struct {
	Key, Title string
	Shown      bool
}

// serverColumns are the columns that may be chosen, beside the name. Those that are Shown are the default.
var serverColumns = []column{{"status", "Status", true}, {"cluster", "Cluster", true}, {"channel", "Channel", true}, {"version", "Version", true}, {"action", "Due", true},
	{"type", "Type", false}, {"seen", "Last seen", true}, {"url", "Connection URL", false}, {"description", "Description", false}}

// serversPage is the data of the table of servers.
type serversPage struct {
	paged[client.Server]
	Filter, FilterError      string
	Status, Cluster, Channel string
	Detail                   string
	Statuses                 []lifecycle.Status
	Columns                  []column
}

// Shows reports whether a column is shown.
func (p *serversPage) Shows(key string) bool {
	return slices.ContainsFunc(p.Columns, func(c column) bool { return c.Key == key && c.Shown })
}

func loadServers(v *visit) (any, error) {
	own := v.r.URL.Query()
	p := &serversPage{Filter: own.Get("filter"), Status: own.Get("status"), Cluster: own.Get("cluster"), Channel: own.Get("channel"), Detail: own.Get("status_detail"), Statuses: lifecycle.Statuses, Columns: slices.Clone(serverColumns)}
	if chosen := own["column"]; len(chosen) > 0 {
		for i := range p.Columns {
			p.Columns[i].Shown = slices.Contains(chosen, p.Columns[i].Key)
		}
	}
	query := url.Values{"facts": {"0"}}
	for name, value := range map[string]string{"filter": strings.TrimSpace(p.Filter), "status": p.Status, "cluster": p.Cluster, "channel": p.Channel, "status_detail": p.Detail} {
		if value != "" {
			query.Set(name, value)
		}
	}
	var err error
	p.paged, err = loadPage[client.Server](v, client.Path("provisioning/servers"), query)
	if p.Filter != "" && client.StatusOf(err) == http.StatusBadRequest {
		p.FilterError, err = capital(err.Error()), nil
	}
	return p, err
}

// serverPage is the data of the page of a server.
type serverPage struct {
	client.Server
	State     state
	Events    []client.Event
	Warnings  []client.Warning
	Changes   []client.Change
	History   []client.FactsRevision
	Changelog *client.Changelog
	Hardware  hardware
	Network   []address
	Objects   client.ObjectCounts
	HasSystem bool
	// Facts are the whole facts, for people who look for more.
	HardwareText, OSText string
	Channels             []client.Channel
}

func (p *serverPage) title() string { return p.Name }

// hardware has the parts of a server that people look for. Parts that its facts do not tell are empty.
type hardware struct {
	Vendor, Product, Serial string
	CPUs                    []string
	Threads                 int
	Memory                  uint64 // bytes
	Disks                   []disk
	Cards                   []card
	More                    bool // there are more parts than are shown
}

// maxParts bounds the disks, the cards and the addresses that a page shows. A server decides on their number.
const maxParts = 32

// first returns the beginning of a list.
func first[T any](list []T) []T { return list[:min(len(list), maxParts)] }

type disk struct {
	ID, Model string
	Size      uint64 // bytes
}

type card struct {
	Vendor, Product string
	Ports           []port
}

type port struct {
	ID, Address string
	Link        bool `json:"link_detected"`
	Speed       int  `json:"link_speed"` // Mbit/s
}

// readHardware reads facts in the form of Incus's resources API. Facts of another form show nothing: a server may send any.
func readHardware(raw json.RawMessage) (out hardware) {
	var facts struct {
		CPU struct {
			Sockets []struct{ Name string }
			Total   int
		}
		Memory  struct{ Total uint64 }
		System  struct{ Vendor, Product, Serial string }
		Storage struct{ Disks []disk }
		Network struct{ Cards []card }
	}
	_ = json.Unmarshal(raw, &facts) // a part that could be read counts
	out = hardware{Vendor: facts.System.Vendor, Product: facts.System.Product, Serial: facts.System.Serial, Threads: facts.CPU.Total, Memory: facts.Memory.Total,
		Disks: facts.Storage.Disks, Cards: facts.Network.Cards}
	for _, socket := range first(facts.CPU.Sockets) {
		out.CPUs = append(out.CPUs, socket.Name)
	}
	out.More = len(out.Disks) > maxParts || len(out.Cards) > maxParts
	out.Disks, out.Cards = first(out.Disks), first(out.Cards)
	for i := range out.Cards {
		out.More = out.More || len(out.Cards[i].Ports) > maxParts
		out.Cards[i].Ports = first(out.Cards[i].Ports)
	}
	return out
}

// address are the addresses of an interface, as IncusOS tells them.
type address struct {
	Interface string
	Addresses []string
	State     string
}

// readNetwork reads the state of the network out of the facts of IncusOS.
func readNetwork(raw json.RawMessage) (out []address) {
	var facts struct {
		Network struct {
			State struct {
				Interfaces map[string]struct {
					Addresses []string
					State     string
				}
			}
		}
	}
	_ = json.Unmarshal(raw, &facts)
	for name, i := range facts.Network.State.Interfaces {
		out = append(out, address{name, first(i.Addresses), i.State})
	}
	slices.SortFunc(out, func(a, b address) int { return strings.Compare(a.Interface, b.Interface) })
	return first(out)
}

func loadServer(v *visit) (any, error) {
	name := v.r.PathValue("name")
	found, err := client.Get[client.Server](v.ctx(), v.api, client.Path("provisioning/servers", name), nil)
	if err != nil {
		return nil, err
	}
	p := &serverPage{Server: found, State: stateOf(found.Status, found.StatusDetail, found.Action), Hardware: readHardware(found.Hardware), Network: readNetwork(found.OS),
		HardwareText: indented(found.Hardware), OSText: indented(found.OS)}
	if p.Events, err = listOf[client.Event](v, client.Path("events"), url.Values{"server": {name}, "limit": {"50"}}); err != nil {
		return nil, err
	}
	if p.Warnings, err = listOf[client.Warning](v, client.Path("warnings"), url.Values{"server": {name}}); err != nil {
		return nil, err
	}
	if p.Changes, err = listOf[client.Change](v, client.Path("provisioning/changes"), url.Values{"server": {name}, "limit": {"10"}}); err != nil {
		return nil, err
	}
	if p.History, err = listOf[client.FactsRevision](v, client.Path("provisioning/servers", name, "facts-history"), nil); err != nil {
		return nil, err
	}
	if found.Versions.NeedsUpdate {
		changelog, err := client.Get[client.Changelog](v.ctx(), v.api, client.Path("provisioning/servers", name, "changelog"), nil)
		if err == nil {
			p.Changelog = &changelog
		} // without one, the page is as good
	}
	p.Objects, err = client.Get[client.ObjectCounts](v.ctx(), v.api, client.Path("inventory/counts"), url.Values{"server": {name}})
	if optional(err) != nil {
		return nil, err
	}
	if v.may(access.RoleOperator) {
		if p.Channels, err = listOf[client.Channel](v, client.Path("provisioning/channels"), nil); err != nil {
			return nil, err
		}
	}
	p.HasSystem = found.Type != lifecycle.TypeUnknown
	return p, nil
}

// networkPage is the data of the form that changes the network of a server.
type networkPage struct {
	Server string
	Config string // as JSON
}

func (p *networkPage) title() string { return "Network of " + p.Server }

func loadNetwork(v *visit) (any, error) {
	name := v.r.PathValue("name")
	var shown struct {
		Config json.RawMessage `json:"config"`
	}
	if _, err := v.api.Send(v.ctx(), http.MethodGet, client.Path("provisioning/servers", name, "system/network"), nil, nil, &shown); err != nil {
		return nil, err
	}
	return &networkPage{Server: name, Config: indented(shown.Config)}, nil
}

// changePage is the data of the page of a change.
type changePage struct {
	client.Change
	Final bool
	Text  string // the meaning of the status
}

func (p *changePage) title() string { return "Change of " + p.Section + " of " + p.Server }

// changeTexts explain each status of a change.
var changeTexts = map[string]string{
	"sending":      "The change is being sent to the server.",
	"waiting":      "The server has the new configuration. The control plane looks for it, and confirms the change as soon as it answers as it should.",
	"confirming":   "The server answers as it should. The change is being confirmed.",
	"rolling back": "The change was not confirmed in time. The server undoes it.",
	"done":         "The change is confirmed. The server keeps its new configuration.",
	"rolled back":  "The server has its former configuration again.",
	"refused":      "The server refused the change. It has its former configuration.",
	"not sent":     "The server was not asked. It has its former configuration.",
	"lost":         "The outcome is not known. Look at the server, and at its network.",
}

func loadChange(v *visit) (any, error) {
	found, err := client.Get[client.Change](v.ctx(), v.api, client.Path("provisioning/changes", v.r.PathValue("uuid")), nil)
	return &changePage{Change: found, Final: !found.EndedAt.IsZero(), Text: changeTexts[found.Status]}, err
}
