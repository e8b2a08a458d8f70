package jsonsecret_test

import (
	"bytes"
	"encoding/json"
	"testing"

	"github.com/opscenter-go/sdk/internal/jsonsecret"
)

// FuzzHide: Hide returns a valid document without secrets, and hiding twice changes nothing.
func FuzzHide(f *testing.F) {
	f.Add([]byte(`{"a":{"secret":"s3cr3t-value"},"list":[{"secret":["s3cr3t-value"]}]}`))
	f.Add([]byte(`{"secret":{"secret":"x"}}`))
	f.Add([]byte(`[1,"secret",null]`))
	f.Add([]byte(`"a" {"secret":"s3cr3t-value"}`))
	isSecret := func(name string) bool { return name == "secret" }
	f.Fuzz(func(t *testing.T, data []byte) {
		shown, err := jsonsecret.Hide(data, isSecret)
		if err != nil {
			return
		}
		if !json.Valid(shown) {
			t.Fatalf("%q is not a JSON document", shown)
		}
		again, err := jsonsecret.Hide(shown, isSecret)
		if err != nil || !bytes.Equal(again, shown) {
			t.Fatalf("hiding %q again gives %q (%v)", shown, again, err)
		}
		for _, value := range jsonsecret.Values(data, isSecret) {
			if len(value) > 8 && !bytes.Contains([]byte(jsonsecret.Hidden), []byte(value)) && bytes.Count(shown, []byte(value)) > bytes.Count(data, []byte(value)) {
				t.Fatalf("%q is shown in %q", value, shown)
			}
		}
	})
}
