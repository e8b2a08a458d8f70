package rolling_test

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/opscenter-go/sdk/opscenter/rolling"
)

// FuzzPolicy: whatever an operator sends is a policy that can be planned with, or is refused;
// and what is accepted comes back from its JSON as it was.
func FuzzPolicy(f *testing.F) {
	f.Add([]byte(`{"goal":"update","soak":"15m","windows":[{"days":["mon"],"start":"22:00","end":"02:30","zone":"Europe/Berlin"}]}`), int64(1774659600))
	f.Add([]byte(`{"waves":[{"percent":10,"soak":"1h"},{"properties":{"a":"b"}}],"retries":-1,"windows":[{"start":"02:30","end":"02:30","zone":"Australia/Lord_Howe"}]}`), int64(0))
	f.Add([]byte(`{"windows":[{"start":"24:00","end":"00:00"}]}`), int64(1<<40))
	f.Fuzz(func(t *testing.T, data []byte, at int64) {
		var p rolling.Policy
		if json.Unmarshal(data, &p) != nil {
			return
		}
		p, err := p.WithDefaults()
		if err != nil {
			return
		}
		again, err := json.Marshal(p)
		if err != nil {
			t.Fatal(err)
		}
		var read rolling.Policy
		if err := json.Unmarshal(again, &read); err != nil {
			t.Fatalf("%s: %v", again, err)
		}
		cal, err := rolling.NewCalendar(p.Windows)
		if err != nil {
			t.Fatal(err)
		}
		now := time.Unix(at%(1<<34), 0)
		if next, ok := cal.Open(now); !ok && !next.IsZero() && !next.After(now) {
			t.Fatalf("closed at %s until %s", now, next)
		} else if !ok && !next.IsZero() {
			if _, open := cal.Open(next); !open {
				t.Fatalf("said to open at %s, and does not: %s", next, again)
			}
		}
	})
}
