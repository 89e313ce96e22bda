// Package export_alphorn_plugin_guest is what the generated exports call: whoever registers.
package export_alphorn_plugin_guest

import (
	"alphorn/internal/bindings/alphorn_plugin_guest"
	witTypes "alphorn/internal/wit/types"
)

type (
	none   = witTypes.Unit
	result = witTypes.Result[none, string]
)

// What the package alphorn sets. It can't be imported from here: it imports this one.
var (
	Start     func(alphorn_plugin_guest.StartInfo) result
	OnMessage func(alphorn_plugin_guest.Delivery) witTypes.Result[none, alphorn_plugin_guest.Failure]
	OnTimer   func(timer, missed uint32) result
	OnEvent   func(alphorn_plugin_guest.Event)
	Stop      func(alphorn_plugin_guest.StopReason) witTypes.Result[witTypes.Option[[]byte], string]
)
