package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/updates"
	"github.com/opscenter-go/sdk/poller"
)

// environmentPrefix begins the variables of the settings: OPSCENTER_SOURCE_ROOT is -source-root.
const environmentPrefix = "OPSCENTER_"

// noSource is the -source of a feed that is filled by uploads alone.
const noSource = "none"

// config has the settings.
type config struct {
	listen, url, data, socket, trust string
	updates, source, sourceRoot      string
	interval                         time.Duration
	level, format                    string
	demo                             bool
}

// flags returns a set with a flag for each setting. The names are those of the file, too.
func (c *config) flags(output io.Writer) *flag.FlagSet {
	flags := flag.NewFlagSet("controlplane", flag.ContinueOnError)
	flags.SetOutput(output)
	flags.String("config", "", "YAML `file` with settings, each under the name of its flag")
	flags.StringVar(&c.listen, "listen", "127.0.0.1:7443", "`address` for servers and operators")
	flags.StringVar(&c.url, "url", "", "`URL` that servers use (default: https:// and the address of -listen)")
	flags.StringVar(&c.data, "data", "", "`directory` for the store and the certificates (default: in memory)")
	flags.StringVar(&c.socket, "socket", "", "`path` of a Unix socket for operators, mode 0600")
	flags.DurationVar(&c.interval, "interval", poller.DefaultInterval, "`time` between two polls of a server")
	flags.StringVar(&c.trust, "trust", "", "PEM `file` with the certificates of operators")
	flags.StringVar(&c.updates, "updates", "", "`directory` for the files of updates, and of installation images (default: there is no update feed, and there are no images)")
	flags.StringVar(&c.source, "source", updates.DefaultSource, "`URL` where updates are published, or none: they are uploaded; holds until PUT /1.0/system/updates")
	flags.StringVar(&c.sourceRoot, "source-root", "", "PEM `file` with the root certificate under which -source, and uploads, are signed (default: that of IncusOS)")
	flags.BoolVar(&c.demo, "demo", false, "fill the control plane with a simulated fleet in motion; everything is in memory, and -log-level is error by default")
	c.level, c.format = "info", "text"
	flags.Var(choice{&c.level, []string{"debug", "info", "warn", "error"}}, "log-level", "least `level` that is logged: debug, info, warn or error")
	flags.Var(choice{&c.format, []string{"text", "json"}}, "log-format", "`format` of the log: text or json")
	flags.Usage = func() {
		fmt.Fprintf(output, "Usage of controlplane. A flag is over its environment variable, as %s for -source-root, and that is over the file of -config:\n", variable("source-root"))
		flags.PrintDefaults()
	}
	return flags
}

// choice is a flag with some possible values.
type choice struct {
	value *string
	of    []string
}

func (c choice) String() string {
	if c.value == nil { // as package flag makes one
		return ""
	}
	return *c.value
}

func (c choice) Set(value string) error {
	if !slices.Contains(c.of, value) {
		return fmt.Errorf("%s is wanted", strings.Join(c.of, ", "))
	}
	*c.value = value
	return nil
}

// variable is the environment variable of a setting.
func variable(name string) string {
	return environmentPrefix + strings.ToUpper(strings.ReplaceAll(name, "-", "_"))
}

// load returns the settings: of flags, else of the environment, else of the file, else the defaults. An empty variable counts as none.
// unknown are the variables that begin as ours do, and are no setting. Errors: flag.ErrHelp, and those that name the setting.
func load(args, environ []string, output io.Writer) (c config, unknown []string, err error) {
	flags := c.flags(output)
	if err := flags.Parse(args); err != nil {
		return c, nil, err
	}
	if flags.NArg() > 0 {
		return c, nil, fmt.Errorf("argument %q is not known", flags.Arg(0))
	}
	given := map[string]bool{}
	flags.Visit(func(f *flag.Flag) { given[f.Name] = true })
	set := func(name, value, source string) error {
		if given[name] {
			return nil
		}
		given[name] = true
		if err := flags.Set(name, value); err != nil {
			return fmt.Errorf("%s: invalid value %q: %w", source, value, err)
		}
		return nil
	}

	settings := map[string]string{} // by their variables
	flags.VisitAll(func(f *flag.Flag) { settings[variable(f.Name)] = f.Name })
	for _, entry := range environ {
		name, value, _ := strings.Cut(entry, "=")
		switch setting, known := settings[name]; {
		case !strings.HasPrefix(name, environmentPrefix) || value == "":
		case !known:
			unknown = append(unknown, name)
		default:
			if err := set(setting, value, name); err != nil {
				return c, nil, err
			}
		}
	}
	if path := flags.Lookup("config").Value.String(); path != "" {
		if err := readFile(path, flags, set); err != nil {
			return c, nil, fmt.Errorf("-config %s: %w", path, err)
		}
	}
	if c.demo && !given["log-level"] {
		c.level = "error" // the demo has troubles all the time
	}
	return c, unknown, c.check()
}

// readFile sets what a file says. It refuses what it does not know by its name, and shows no value of that: it may be a secret.
func readFile(path string, flags *flag.FlagSet, set func(name, value, source string) error) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	decoder := yaml.NewDecoder(bytes.NewReader(data))
	var document yaml.Node
	switch err := decoder.Decode(&document); {
	case errors.Is(err, io.EOF):
		return nil
	case err != nil:
		return err
	}
	if err := decoder.Decode(&yaml.Node{}); !errors.Is(err, io.EOF) {
		return errors.New("more than one document")
	}
	root := document.Content[0]
	if root.Kind == yaml.ScalarNode && root.Tag == "!!null" { // comments alone
		return nil
	}
	if root.Kind != yaml.MappingNode {
		return errors.New("settings are wanted, as NAME: VALUE")
	}
	seen := map[string]bool{}
	for i := 0; i < len(root.Content); i += 2 {
		key, value := root.Content[i], root.Content[i+1]
		where := fmt.Sprintf("line %d: %s", key.Line, key.Value)
		switch {
		case key.Value == "config" || flags.Lookup(key.Value) == nil:
			return fmt.Errorf("line %d: setting %q is not known", key.Line, key.Value)
		case seen[key.Value]:
			return fmt.Errorf("%s: is there twice", where)
		case value.Kind != yaml.ScalarNode || value.Tag == "!!null":
			return fmt.Errorf("%s: one value is wanted", where)
		}
		seen[key.Value] = true
		if err := set(key.Value, value.Value, where); err != nil {
			return err
		}
	}
	return nil
}

// check refuses settings that can't be, before anything is made.
func (c *config) check() error {
	if c.interval <= 0 {
		return fmt.Errorf("-interval is %s, it must be positive", c.interval)
	}
	host, err := listenHost(c.listen)
	if err != nil {
		return err
	}
	if c.url == "" && unspecified(host) {
		return fmt.Errorf("-listen %s names no address that a server could use: -url is required", c.listen)
	}
	if c.url != "" {
		if err := opscenter.CheckURL("-url", c.url); err != nil {
			return err
		}
		if u, err := url.Parse(c.url); err != nil || strings.Trim(u.Path, "/") != "" {
			return fmt.Errorf("-url %s: must have no path", c.url)
		}
	}
	if c.demo && (c.data != "" || c.updates != "") {
		return errors.New("-demo keeps everything in memory: -data and -updates can't be set with it")
	}
	if c.updates == "" && c.sourceRoot != "" {
		return errors.New("-source-root wants -updates")
	}
	return nil
}

func listenHost(listen string) (string, error) {
	host, _, err := net.SplitHostPort(listen)
	if err != nil {
		return "", fmt.Errorf("-listen: %w", err)
	}
	return host, nil
}

// unspecified reports whether a host to listen on stands for all addresses.
func unspecified(host string) bool {
	address, err := netip.ParseAddr(host)
	return host == "" || err == nil && address.Unmap().IsUnspecified()
}

// ownURL is where servers reach the control plane.
func (c *config) ownURL(listening net.Addr) (string, error) {
	if c.url != "" {
		return strings.TrimRight(c.url, "/"), nil
	}
	host, err := listenHost(c.listen)
	if err != nil {
		return "", err
	}
	_, port, err := net.SplitHostPort(listening.String()) // the one that port 0 became
	return "https://" + net.JoinHostPort(host, port), err
}

// logger logs as -log-level and -log-format say.
func (c *config) logger(to io.Writer) (*slog.Logger, error) {
	options := &slog.HandlerOptions{}
	var level slog.Level
	if err := level.UnmarshalText([]byte(c.level)); err != nil {
		return nil, fmt.Errorf("-log-level: %w", err)
	}
	options.Level = level
	if c.format == "json" {
		return slog.New(slog.NewJSONHandler(to, options)), nil
	}
	return slog.New(slog.NewTextHandler(to, options)), nil
}

// feedSettings are those of the update feed, which hold until operators set others.
func (c *config) feedSettings() (*updates.Settings, error) {
	settings := &updates.Settings{Source: c.source}
	if c.source == noSource {
		settings.Source = ""
	}
	if c.sourceRoot != "" {
		root, err := os.ReadFile(c.sourceRoot)
		if err != nil {
			return nil, fmt.Errorf("-source-root: %w", err)
		}
		settings.Root = string(root)
	}
	return settings, nil
}
