package opscenter_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/opscenter-go/sdk/opscenter"
)

// A token admits a number of servers until it expires. Its UUID is the secret.
func ExampleRegistry_CreateToken() {
	ctx := context.Background()
	registry := exampleRegistry(opscenter.Options{})
	defer registry.Close()
	token, err := registry.CreateToken(ctx, opscenter.TokenSpec{Description: "rack 1", Uses: 10, ExpireAt: time.Now().Add(time.Hour)})
	check(err)
	check(registry.EditToken(ctx, token.UUID, func(_ *opscenter.Token, spec *opscenter.TokenSpec) error {
		spec.Uses = 12
		return nil
	}))
	token, err = registry.Token(ctx, token.UUID)
	check(err)
	fmt.Println(token.Label(), "admits", token.UsesRemaining, "servers to channel", token.Channel)
	check(registry.RevokeToken(ctx, token.UUID))
	left, err := registry.ListTokens(ctx, opscenter.Page{})
	check(err)
	fmt.Println(len(left.Tokens), "tokens")
	// Output:
	// token "rack 1" admits 12 servers to channel stable
	// 0 tokens
}

// A seed is stored under a name and configures the servers of a token at their first boot. A public seed has a random
// name, by which package httpapi serves images without authentication.
func ExampleTokenSeeds() {
	ctx := context.Background()
	registry := exampleRegistry(opscenter.Options{})
	defer registry.Close()
	token, err := registry.CreateToken(ctx, opscenter.TokenSpec{Uses: 10})
	check(err)
	seeds := registry.TokenSeeds()
	_, err = seeds.Create(ctx, token.UUID, "rack1", opscenter.TokenSeedSpec{Files: map[string]json.RawMessage{"install": json.RawMessage(`{"version":"1"}`)}})
	check(err)
	check(seeds.Edit(ctx, token.UUID, "rack1", func(_ *opscenter.TokenSeed, spec *opscenter.TokenSeedSpec) error {
		spec.Public = true
		return nil
	}))
	list, err := seeds.List(ctx, token.UUID)
	check(err)
	for _, seed := range list {
		fmt.Println(seed.Name, string(seed.Files["install"]))
	}
	seed, err := seeds.Get(ctx, token.UUID, "rack1")
	check(err)
	public, err := seeds.Public(ctx, seed.Public)
	check(err)
	fmt.Println("by its public name:", public.Name)
	check(seeds.Delete(ctx, token.UUID, "rack1", nil))
	_, err = seeds.Get(ctx, token.UUID, "rack1")
	fmt.Println(err)
	// Output:
	// rack1 {"version":"1"}
	// by its public name: rack1
	// seed "rack1" of the token: not found
}

// An image is prepared and can be fetched until it expires. Only a token that still admits servers gets one.
func ExampleTokenSeeds_PrepareImage() {
	ctx := context.Background()
	registry := exampleRegistry(opscenter.Options{})
	defer registry.Close()
	token, err := registry.CreateToken(ctx, opscenter.TokenSpec{})
	check(err)
	usable, err := registry.TokenSeeds().UsableToken(ctx, token.UUID)
	check(err)
	prepared, err := registry.TokenSeeds().PrepareImage(ctx, opscenter.PreparedImage{Token: usable.UUID, Kind: "iso", Architecture: "x86_64", ExpireAt: time.Now().Add(time.Hour)})
	check(err)
	found, err := registry.TokenSeeds().PreparedImage(ctx, token.UUID, prepared.UUID)
	check(err)
	fmt.Println(found.Kind, found.Architecture)
	check(registry.EditToken(ctx, token.UUID, func(_ *opscenter.Token, spec *opscenter.TokenSpec) error {
		spec.Uses = 0
		return nil
	}))
	_, err = registry.TokenSeeds().UsableToken(ctx, token.UUID)
	fmt.Println(errors.Is(err, opscenter.ErrTokenExhausted))
	// Output:
	// iso x86_64
	// true
}
