package seed

import (
	"fmt"
	"slices"
	"strings"
)

// Kernel configures the consoles of the kernel. Its other settings can't be seeded.
type Kernel struct {
	Version Version   `json:"version"`
	Console []Console `json:"console,omitempty"`
}

// Console is a device on which the server shows its console.
type Console struct {
	// Device is a name such as ttyS0.
	Device string `json:"device"`
	// BaudRate of a serial device, such as 115200; 0: not set.
	BaudRate int `json:"baud_rate,omitempty"`
}

// baudRates are the baud rates that Linux supports.
var baudRates = []int{50, 75, 110, 134, 150, 200, 300, 600, 1200, 1800, 2400, 4800, 9600, 19200, 38400, 57600, 115200, 230400, 460800, 500000, 576000, 921600, 1000000, 1152000, 1500000, 2000000, 2500000, 3000000, 3500000, 4000000}

func (k *Kernel) validate(v *validation) {
	for i, c := range k.Console {
		if c.Device == "" || len(c.Device) > maxText || strings.ContainsAny(c.Device, " \t\n,") {
			v.add(fmt.Sprintf("console[%d].device", i), "%s is not a device such as ttyS0", shown(c.Device))
		}
		if c.BaudRate != 0 && !slices.Contains(baudRates, c.BaudRate) {
			v.add(fmt.Sprintf("console[%d].baud_rate", i), "%d is not a baud rate such as 115200", c.BaudRate)
		}
	}
}
