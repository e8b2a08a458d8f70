package system

import (
	"bytes"
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/internal/facts"
)

// digest recognizes a configuration without revealing its secrets.
type digest struct {
	Shown  string // hash of the configuration without secrets
	Salt   []byte
	Secret []byte // salted hash of the whole configuration, slow to guess from
}

// digestRounds makes guessing passwords from a digest slow.
const digestRounds = 50_000

func digestOf(config json.RawMessage) (digest, error) {
	shown, err := shownSum(config)
	if err != nil {
		return digest{}, err
	}
	d := digest{Shown: shown, Salt: make([]byte, 16)}
	_, _ = rand.Read(d.Salt)
	d.Secret, err = secretSum(config, d.Salt)
	return d, err
}

// is reports whether a configuration is the one of the digest.
func (d *digest) is(config json.RawMessage) (bool, error) {
	shown, err := shownSum(config)
	if err != nil || shown != d.Shown {
		return false, err
	}
	sum, err := secretSum(config, d.Salt)
	return err == nil && hmac.Equal(sum, d.Secret), err
}

// canonical returns a configuration in a form that does not depend on order and spacing.
func canonical(config json.RawMessage) ([]byte, error) {
	d := json.NewDecoder(bytes.NewReader(config))
	d.UseNumber()
	var all map[string]any
	if err := d.Decode(&all); err != nil {
		return nil, err
	}
	delete(all, "confirmation_timeout")
	return json.Marshal(all)
}

func shownSum(config json.RawMessage) (string, error) {
	redacted, err := facts.RedactSecrets(config)
	if err != nil {
		return "", err
	}
	data, err := canonical(redacted)
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:]), err
}

func secretSum(config json.RawMessage, salt []byte) ([]byte, error) {
	data, err := canonical(config)
	if err != nil {
		return nil, err
	}
	return pbkdf2.Key(sha256.New, string(data), salt, digestRounds, 32)
}

// tag returns the ETag of a configuration. Another process returns another ETag.
func (m *Manager) tag(config json.RawMessage) (string, error) {
	data, err := canonical(config)
	if err != nil {
		return "", err
	}
	h := hmac.New(sha256.New, m.tagKey)
	_, _ = h.Write(data)
	return hex.EncodeToString(h.Sum(nil)[:16]), nil
}

// matches returns opscenter.ErrPrecondition unless tags is empty or contains the ETag of the configuration. Tags are
// in the form of an If-Match header, separated by commas.
func (m *Manager) matches(config json.RawMessage, tags string) error {
	if tags == "" {
		return nil
	}
	have, err := m.tag(config)
	if err != nil {
		return err
	}
	for one := range strings.SplitSeq(tags, ",") {
		if one = strings.Trim(strings.TrimSpace(one), `"`); one == "*" || one == have {
			return nil
		}
	}
	return fmt.Errorf("the configuration of the server was %w", opscenter.ErrPrecondition)
}
