package alphorn

import (
	"alphorn/internal/bindings/alphorn_plugin_guest"
	"alphorn/internal/bindings/export_alphorn_plugin_guest"
	_ "alphorn/internal/bindings/wit_exports"
	wit_types "alphorn/internal/wit/types"
)

// Plugin is what the host calls, one call at a time: only Start has to be there. An error
// means that the instance can't work.
type Plugin interface {
	// Start is called first: subscriptions and timers are asked for here.
	Start(info Start) error
}

// A plugin that gets messages has OnMessage. An error tries the message again later, one made
// by Drop gives it up.
type onMessage interface {
	OnMessage(message Delivery) error
}

// One with timers has OnTimer. `missed` counts the periods without a call. An error is logged.
type onTimer interface {
	OnTimer(timer, missed uint32) error
}

// One that cares for what happens outside has OnEvent.
type onEvent interface {
	OnEvent(event Event)
}

// One that hands something over has Stop. What it returns goes to the next version at a swap;
// an error refuses the swap.
type stop interface {
	Stop(reason StopReason) ([]byte, error)
}

// Start says why an instance starts, and what the version before handed over (nil: nothing).
type Start struct {
	Reason          StartReason
	PreviousVersion string
	HandedOver      []byte
}

// Delivery is an inbound message.
type Delivery struct {
	Message
	// 1 for the first, then counting up.
	Attempt uint32
	// It may have been handled before.
	Redelivered bool
}

// As the WIT package has them, Event with a method for each case.
type (
	StartReason = alphorn_plugin_guest.StartReason
	StopReason  = alphorn_plugin_guest.StopReason
	Event       = alphorn_plugin_guest.Event
)

const (
	StartFirst    = alphorn_plugin_guest.StartReasonFirst
	StartRestart  = alphorn_plugin_guest.StartReasonRestart
	StartSwap     = alphorn_plugin_guest.StartReasonSwap
	StartRollback = alphorn_plugin_guest.StartReasonRollback

	StopShutdown = alphorn_plugin_guest.StopReasonShutdown
	StopSwap     = alphorn_plugin_guest.StopReasonSwap
	StopRemoved  = alphorn_plugin_guest.StopReasonRemoved

	LinkUp              = alphorn_plugin_guest.EventLinkUp
	LinkDown            = alphorn_plugin_guest.EventLinkDown
	SubscriptionRefused = alphorn_plugin_guest.EventSubscriptionRefused
	PublishDropped      = alphorn_plugin_guest.EventPublishDropped
	PublishQuarantined  = alphorn_plugin_guest.EventPublishQuarantined
)

type dropped struct{ error }

// Drop makes of an error one that gives the message up.
func Drop(why error) error {
	return dropped{why}
}

// Register names the plugin. It belongs into init: the host calls nothing before.
func Register(plugin Plugin) {
	export_alphorn_plugin_guest.Start = func(info alphorn_plugin_guest.StartInfo) wit_types.Result[wit_types.Unit, string] {
		collect()
		return plain(plugin.Start(Start{
			Reason:          info.Reason,
			PreviousVersion: info.PreviousVersion.SomeOr(""),
			HandedOver:      info.HandedOver.SomeOr(nil),
		}))
	}
	export_alphorn_plugin_guest.OnMessage = func(delivery alphorn_plugin_guest.Delivery) wit_types.Result[wit_types.Unit, alphorn_plugin_guest.Failure] {
		collect()
		return outcome(handle(plugin, delivery))
	}
	export_alphorn_plugin_guest.OnTimer = func(timer, missed uint32) wit_types.Result[wit_types.Unit, string] {
		collect()
		if plugin, ok := plugin.(onTimer); ok {
			return plain(plugin.OnTimer(timer, missed))
		}
		return plain(nil)
	}
	export_alphorn_plugin_guest.OnEvent = func(event Event) {
		collect()
		if plugin, ok := plugin.(onEvent); ok {
			plugin.OnEvent(event)
		}
	}
	export_alphorn_plugin_guest.Stop = func(reason StopReason) wit_types.Result[wit_types.Option[[]byte], string] {
		collect()
		plugin, ok := plugin.(stop)
		if !ok {
			return wit_types.Ok[wit_types.Option[[]byte], string](wit_types.None[[]byte]())
		}
		handedOver, err := plugin.Stop(reason)
		switch {
		case err != nil:
			return wit_types.Err[wit_types.Option[[]byte]](err.Error())
		case handedOver == nil:
			return wit_types.Ok[wit_types.Option[[]byte], string](wit_types.None[[]byte]())
		default:
			return wit_types.Ok[wit_types.Option[[]byte], string](wit_types.Some(handedOver))
		}
	}
}

func handle(plugin Plugin, delivery alphorn_plugin_guest.Delivery) error {
	if plugin, ok := plugin.(onMessage); ok {
		return plugin.OnMessage(Delivery{lift(delivery.Message), delivery.Attempt, delivery.Redelivered})
	}
	return nil
}

func plain(err error) wit_types.Result[wit_types.Unit, string] {
	if err != nil {
		return wit_types.Err[wit_types.Unit](err.Error())
	}
	return wit_types.Ok[wit_types.Unit, string](wit_types.Unit{})
}

func outcome(err error) wit_types.Result[wit_types.Unit, alphorn_plugin_guest.Failure] {
	switch err := err.(type) {
	case nil:
		return wit_types.Ok[wit_types.Unit, alphorn_plugin_guest.Failure](wit_types.Unit{})
	case dropped:
		return wit_types.Err[wit_types.Unit](alphorn_plugin_guest.MakeFailureDrop(err.Error()))
	default:
		return wit_types.Err[wit_types.Unit](alphorn_plugin_guest.MakeFailureRetry(err.Error()))
	}
}
