package alphorn

import (
	"runtime"
	"runtime/debug"
	"runtime/metrics"

	witRuntime "alphorn/internal/wit/runtime"
)

// Go's collector asks WASI for the time. While the host puts arguments or results into the
// plugin's memory the plugin may ask nobody: it would trap. Memory is allocated then, so a
// collection could begin, or one that is under way could end. So none begins by itself: one
// runs as a whole at the beginning of a call, when enough has gathered.
func init() {
	debug.SetGCPercent(-1)
}

// What may gather before it is worth a collection, in bytes. The more is in use, the more.
const least = 2 << 20

// All that was ever allocated, and what is in use.
var samples = []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}, {Name: "/gc/heap/live:bytes"}}

// How much may have been allocated until the next collection.
var next uint64 = least

// Collects, if enough has gathered.
func collect() {
	// What the host has put here is in Go's own values by now.
	witRuntime.Unpin()
	metrics.Read(samples[:1])
	if samples[0].Value.Uint64() < next {
		return
	}
	runtime.GC()
	metrics.Read(samples)
	next = samples[0].Value.Uint64() + max(least, samples[1].Value.Uint64())
}
