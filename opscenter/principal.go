package opscenter

import "context"

type principalKey struct{}

// WithPrincipal returns a context that names the principal that asks for a change. Package audit records it.
func WithPrincipal(ctx context.Context, principal string) context.Context {
	return context.WithValue(ctx, principalKey{}, principal)
}

// Principal returns the principal of a context. Empty: the context names none.
func Principal(ctx context.Context) string {
	principal, _ := ctx.Value(principalKey{}).(string)
	return principal
}
