package system

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"strings"

	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/seed"
)

// resetSeeds returns the seed files for a factory reset, without network and provider. They are the files that the
// caller asks for, and the files that bring the server back as it was.
func (m *Manager) resetSeeds(ctx context.Context, info *opscenter.ServerInfo, options ResetOptions) (map[string]json.RawMessage, error) {
	given := map[string]json.RawMessage{}
	if options.TokenSeed != "" {
		found, err := m.registry.TokenSeeds().Get(ctx, options.Token, options.TokenSeed)
		if err != nil {
			return nil, err
		}
		maps.Copy(given, found.Files)
		delete(given, seed.FileInstall) // an install seed is for media: a server with it boots as an installer
	}
	maps.Copy(given, options.Seeds)
	if given[seed.FileInstall] != nil {
		return nil, fmt.Errorf("seed install: the server would boot as an installer: %w", ErrInvalid)
	}
	read, err := seed.FromFiles(given)
	if err == nil {
		err = read.Validate(seed.Rules{AllowUnmanaged: options.Force})
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	if err := m.fillSeed(ctx, read, info); err != nil {
		return nil, err
	}
	if read.Applications == nil && options.WipeExistingSeeds && !options.Force {
		return nil, fmt.Errorf("server %q: its applications are not known, and without its seeds it would come back with Incus: %w", info.Name, opscenter.ErrBlocked)
	}
	if err := m.checkOffered(ctx, info, read.Applications, options.Force); err != nil {
		return nil, err
	}
	return read.Raw()
}

// fillSeed adds the applications and update settings that the server has now, where the seed gives none.
func (m *Manager) fillSeed(ctx context.Context, s *seed.Seed, info *opscenter.ServerInfo) error {
	primary := ""
	for _, a := range info.State.Versions.Applications {
		if a.Primary {
			primary = a.Name
		}
	}
	if s.Applications == nil && primary != "" {
		names := []string{primary}
		for _, a := range info.State.Versions.Applications {
			// An application that the channel does not offer would keep the server from coming back.
			if !a.Primary && !seed.IsPrimary(a.Name) && (len(info.Available) == 0 || info.Available[a.Name] != "") {
				names = append(names, a.Name)
			}
		}
		s.Applications = seed.ApplicationsOf(names...)
	}
	if s.Incus == nil && (s.Applications == nil || strings.HasPrefix(s.Applications.Primary(), "incus")) {
		s.Incus = &seed.Incus{}
	}
	if s.Update != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, m.options.LookTimeout)
	defer cancel()
	raw, err := m.os.ReadSystem(ctx, info.Target(), "update")
	if err != nil {
		return fmt.Errorf("server %q, its update settings: %w", info.Name, err)
	}
	var current struct {
		Config *seed.Update `json:"config"`
	}
	if err := json.Unmarshal(raw, &current); err != nil || current.Config == nil {
		if u := info.State.Update; u != nil {
			s.Update = &seed.Update{AutoReboot: u.AutoReboot, Channel: u.Channel, CheckFrequency: u.CheckFrequency}
		}
		return nil
	}
	s.Update = current.Config
	return nil
}

// checkOffered returns opscenter.ErrBlocked if the update feed lacks an application for which the server would wait.
func (m *Manager) checkOffered(ctx context.Context, info *opscenter.ServerInfo, wanted *seed.Applications, force bool) error {
	channel, err := m.registry.Channels().Get(ctx, info.Channel)
	if err != nil || channel.Architectures == nil || force { // no feed lists its offer
		return err
	}
	for _, name := range wanted.Names() {
		if channel.Offers(info.State.Architecture)[name] == "" {
			return fmt.Errorf("server %q would wait for application %s, which channel %s does not offer: %w", info.Name, name, info.Channel, opscenter.ErrBlocked)
		}
	}
	return nil
}
