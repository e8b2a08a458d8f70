package facts_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/opscenter/internal/facts"
)

// TestSecretNames: the names of secrets in IncusOS's APIs, its services' and applications' too,
// and others that look like them.
func TestSecretNames(t *testing.T) {
	for _, name := range []string{"password", "wakeonlan_password", "private_key", "preshared_key", "encryption_key", "encryption_recovery_keys", "drive_recovery_keys", "pool_recovery_keys",
		"server_token", "token", "auth_key", "setup_key", "tls_client_key", "tls_server_key", "key", "keys", "keyring", "keyrings", "api_tokens", "join_token", "client_secret", "Password", "API_KEY", "passphrase"} {
		require.True(t, facts.IsSecretName(name), name)
	}
	for _, name := range []string{"public_key", "tpm_public_key", "public_keys", "name", "encryption_key_status", "monkey", "turkeys", "token_count", "keyboard", "hwaddr", "settings", "running", "addresses", "bus", "passed", ""} {
		require.False(t, facts.IsSecretName(name), name)
	}
}
