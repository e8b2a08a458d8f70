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

// resetSeeds returns what a server is sent for a factory reset, but for network and provider: what is asked for, and what it needs to come
// back as what it was.
func (m *Manager) resetSeeds(ctx context.Context, info *opscenter.ServerInfo, options ResetOptions) (map[string]json.RawMessage, error) {
	given := map[string]json.RawMessage{}
	if options.TokenSeed != "" {
		found, err := m.registry.TokenSeed(ctx, options.Token, options.TokenSeed)
		if err != nil {
			return nil, err
		}
		maps.Copy(given, found.Files)
	}
	maps.Copy(given, options.Seeds)
	read := &seed.Seed{}
	for name, data := range given {
		if !json.Valid(data) {
			return nil, fmt.Errorf("seed %.40q: it is no JSON: %w", name, ErrInvalid)
		}
		if err := read.Set(name, data); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
		}
	}
	if err := read.Validate(seed.Rules{AllowUnmanaged: options.Force}); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	asItWas(read, info)
	if err := m.served(ctx, info, read.Applications, options.Force); err != nil {
		return nil, err
	}
	out := maps.Clone(given)
	for _, name := range []string{seed.FileApplications, seed.FileIncus, seed.FileUpdate} {
		if out[name] != nil {
			continue
		}
		data, err := read.Encode(name)
		if err != nil {
			return nil, err
		}
		if data != nil {
			out[name] = data
		}
	}
	return out, nil
}

// asItWas adds what a server was, as far as it is known, where nothing else is asked for.
func asItWas(s *seed.Seed, info *opscenter.ServerInfo) {
	primary := ""
	for _, a := range info.State.Versions.Applications {
		if a.Primary {
			primary = a.Name
		}
	}
	if s.Applications == nil && primary != "" {
		names := []string{primary}
		for _, a := range info.State.Versions.Applications {
			// Others are left out that would keep it from coming back.
			if !a.Primary && !seed.IsPrimary(a.Name) && (len(info.Available) == 0 || info.Available[a.Name] != "") {
				names = append(names, a.Name)
			}
		}
		s.Applications = seed.ApplicationsOf(names...)
	}
	if s.Incus == nil && (s.Applications == nil || strings.HasPrefix(s.Applications.Primary(), "incus")) {
		s.Incus = &seed.Incus{}
	}
	if u := info.State.Update; s.Update == nil && u != nil {
		s.Update = &seed.Update{AutoReboot: u.AutoReboot, Channel: u.Channel, CheckFrequency: u.CheckFrequency}
	}
}

// served returns opscenter.ErrBlocked if the update feed has not an application that the server would wait for.
func (m *Manager) served(ctx context.Context, info *opscenter.ServerInfo, wanted *seed.Applications, force bool) error {
	channel, err := m.registry.Channel(ctx, info.Channel)
	if err != nil || channel.Architectures == nil || force { // no feed says what it offers
		return err
	}
	for _, name := range wanted.Names() {
		if channel.Offers(info.State.Architecture)[name] == "" {
			return fmt.Errorf("server %q would wait for application %s, which channel %s does not offer: %w", info.Name, name, info.Channel, opscenter.ErrBlocked)
		}
	}
	return nil
}
