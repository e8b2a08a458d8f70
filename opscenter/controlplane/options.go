package controlplane

import (
	"crypto/x509"
	"fmt"
	"log/slog"
	"net/url"
	"strings"
	"time"

	"github.com/opscenter-go/sdk/internal/defaults"
	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/accesstoken"
	"github.com/opscenter-go/sdk/opscenter/audit"
	"github.com/opscenter-go/sdk/opscenter/cluster"
	"github.com/opscenter-go/sdk/opscenter/httpapi"
	"github.com/opscenter-go/sdk/opscenter/image"
	"github.com/opscenter-go/sdk/opscenter/incusos"
	"github.com/opscenter-go/sdk/opscenter/inventory"
	"github.com/opscenter-go/sdk/opscenter/rollout"
	"github.com/opscenter-go/sdk/opscenter/system"
	"github.com/opscenter-go/sdk/opscenter/updates"
	"github.com/opscenter-go/sdk/opscenter/webui"
	"github.com/opscenter-go/sdk/poller"
)

// Defaults of Options.
const (
	DefaultDrainTimeout = 2 * time.Second
	DefaultStopTimeout  = 30 * time.Second
)

// Options of New. The zero value is a control plane without operators' API, update feed and installation images.
type Options struct {
	// URL is where servers reach the control plane, as "https://control.example:7443": https, without a path. Installation images and
	// servers that are reset contain it. Without it there are neither images nor factory resets.
	URL string
	// PubliclyTrusted says that servers' systems trust the certificate of the endpoint. Default: images and servers that
	// are reset are told to pin it.
	PubliclyTrusted bool
	// Logger gets what all parts log whose own options have no Logger. Default: nothing is logged.
	Logger *slog.Logger

	// Trust has the certificates of administrators (access.RoleAdmin). They open the operators' API. Default: none.
	Trust []*x509.Certificate
	// Socket is the path of a Unix socket for administrators, which New makes with mode 0600: those who can open it may do
	// everything over the operators' API. New removes a socket that an earlier run left there. Default: there is none.
	Socket string

	// WebUI serves the web page (package webui) at /, beside the API. People log in with access tokens (ControlPlane.AccessTokens), or
	// are admitted as by the API. HTTP.Origins and HTTP.MaxStreams hold for the page, too. Default: there is no page.
	WebUI bool
	// Sessions are the options of the sessions of the page.
	Sessions webui.SessionOptions
	// UpdatesDir is the directory for the files of the update feed. It belongs to one store. To use it again with a new store
	// in memory, set the same Updates.Owner in each run; otherwise New returns updates.ErrNotOwner. Default: there is no update
	// feed, and a server that is freshly installed finds no application.
	UpdatesDir string
	// Files are another place for the files of the update feed, instead of UpdatesDir. They stay the caller's, to be closed after the run.
	Files updates.Files
	// ImagesDir is the directory for installation images, unpacked. Default: "images" in UpdatesDir. Without both
	// directories there are no images.
	ImagesDir string

	// DrainTimeout is how long requests under way may take to end when the run ends. Default 2 s.
	DrainTimeout time.Duration
	// StopTimeout bounds how long all parts may take to end, and how long the flush and the rest may take then. It should be
	// more than Poller.Grace and DrainTimeout. Default 30 s.
	StopTimeout time.Duration

	// The options of the parts. New sets what connects the parts: Rollouts.Poller, Systems.Audit and
	// Images.Audit must be unset, and so must be Rollouts, Inventory, System, Audit, Updates, Images and AccessTokens of HTTP. New sets
	// each Logger and Client.Certificate where they are nil. If Images.ServerURL is empty, New sets it and Images.Certificate. If
	// Systems.Provider.ServerURL is empty, New sets Systems.Provider. New sets ClientCertificate, Clusters, Adopt and Forward of
	// HTTP where they are nil.
	//
	// HTTP.Authorize admits principals beside those of Trust and Socket. Where one of the three or WebUI is set, access tokens admit
	// principals, too. Bases are the options of the store in ImagesDir.
	Registry     opscenter.Options
	Client       incusos.Options
	Poller       poller.Options
	Rollouts     rollout.Options
	Systems      system.Options
	Inventory    inventory.Options
	Clusters     cluster.Options
	Audit        audit.Options
	AccessTokens accesstoken.Options
	Updates      updates.Options
	Images       image.Options
	Bases        image.StoreOptions
	HTTP         httpapi.Options
}

// withDefaults returns the options in force, or opscenter.ErrInvalidOptions.
func (o Options) withDefaults() (Options, error) {
	err := defaults.Fill(opscenter.ErrInvalidOptions,
		defaults.Of("DrainTimeout", &o.DrainTimeout, DefaultDrainTimeout), defaults.Of("StopTimeout", &o.StopTimeout, DefaultStopTimeout))
	if err != nil {
		return o, err
	}
	for name, set := range map[string]bool{
		"Rollouts.Poller": o.Rollouts.Poller != nil, "Systems.Audit": o.Systems.Audit != nil, "Images.Audit": o.Images.Audit != nil,
		"HTTP.Rollouts": o.HTTP.Rollouts != nil, "HTTP.Inventory": o.HTTP.Inventory != nil, "HTTP.System": o.HTTP.System != nil,
		"HTTP.Audit": o.HTTP.Audit != nil, "HTTP.Updates": o.HTTP.Updates != nil, "HTTP.Images": o.HTTP.Images != nil, "HTTP.AccessTokens": o.HTTP.AccessTokens != nil,
	} {
		if set {
			return o, fmt.Errorf("%s is set, and the control plane sets it: %w", name, opscenter.ErrInvalidOptions)
		}
	}
	if o.UpdatesDir != "" && o.Files != nil {
		return o, fmt.Errorf("UpdatesDir and Files are both set: %w", opscenter.ErrInvalidOptions)
	}
	if o.URL != "" {
		if o.URL, err = cleanURL(o.URL); err != nil {
			return o, err
		}
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	for _, logger := range []**slog.Logger{&o.Registry.Logger, &o.Poller.Logger, &o.Rollouts.Logger, &o.Systems.Logger,
		&o.Inventory.Logger, &o.Clusters.Logger, &o.Updates.Logger, &o.HTTP.Logger} {
		if *logger == nil {
			*logger = o.Logger
		}
	}
	return o, nil
}

// cleanURL returns the URL without a slash at its end. It wants what the provider of IncusOS takes: an https URL without a path.
func cleanURL(raw string) (string, error) {
	if err := opscenter.CheckURL("URL", raw); err != nil {
		return "", err
	}
	if u, err := url.Parse(raw); err != nil || strings.Trim(u.Path, "/") != "" {
		return "", fmt.Errorf("URL %s: must have no path: %w", raw, opscenter.ErrInvalidURL)
	}
	return strings.TrimRight(raw, "/"), nil
}
