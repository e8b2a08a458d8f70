package opscenter

import "context"

type principalKey struct{}

// By returns a context in which what is done is recorded as asked for by somebody.
func WithPrincipal(ctx context.Context, principal string) context.Context {
	return context.WithValue(ctx, principalKey{}, principal)
}

// Principal returns who asks for what is done in a context; empty: nobody has said.
func Principal(ctx context.Context) string {
	who, _ := ctx.Value(principalKey{}).(string)
	return who
}
