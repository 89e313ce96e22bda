// Package alphorn is what a plugin in Go imports: a thin layer over the WIT package
// `alphorn:plugin`, which says what each call means.
//
//	func init() { alphorn.Register(&hello{}) }
//
//	func main() {}
//
// What a plugin is handed may be kept: Go's collector owns it. The one thing to know of that
// collector is in memory.go.
package alphorn

import (
	"errors"
	"fmt"
	"time"

	"alphorn/internal/bindings/alphorn_plugin_guest"
	"alphorn/internal/bindings/alphorn_plugin_host"
	"alphorn/internal/bindings/alphorn_plugin_mqtt"
	"alphorn/internal/bindings/alphorn_plugin_state"
	"alphorn/internal/bindings/alphorn_plugin_timers"
	"alphorn/internal/bindings/alphorn_plugin_types"
	wit_types "alphorn/internal/wit/types"
)

// Message is what is published, and what arrives.
type Message struct {
	Topic   string
	Payload []byte
	// 0 or 1.
	QoS    int
	Retain bool
	// MQTT 5 only; nil costs nothing.
	Properties *Properties
}

// Properties of MQTT 5. What is empty, or 0, is not there.
type Properties struct {
	ContentType     string
	ResponseTopic   string
	CorrelationData []byte
	// Seconds.
	MessageExpiry uint32
	// The payload is declared to be text.
	UTF8           bool
	UserProperties []UserProperty
}

// UserProperty is a pair of the application's own.
type UserProperty = alphorn_plugin_types.UserProperty

// Why the host refused something: errors.Is finds these in what the calls return.
var (
	ErrNotGranted  = errors.New("not granted")
	ErrInvalid     = errors.New("invalid")
	ErrTooLarge    = errors.New("too large")
	ErrRateLimited = errors.New("the publish rate is used up")
	ErrFull        = errors.New("full")
	ErrHeld        = errors.New("held")
	ErrUnsupported = errors.New("unsupported")
)

// Publish hands a message to the host, at QoS 1.
func Publish(topic string, payload []byte) error {
	return PublishMessage(Message{Topic: topic, Payload: payload, QoS: 1})
}

// PublishMessage hands a message to the host.
func PublishMessage(message Message) error {
	out := alphorn_plugin_types.Message{
		Topic:      message.Topic,
		Payload:    message.Payload,
		Qos:        qos(message.QoS),
		Retain:     message.Retain,
		Properties: message.Properties.lower(),
	}
	taken := alphorn_plugin_mqtt.Publish(out)
	if taken.IsOk() {
		return nil
	}
	refusal := taken.Err()
	what := "publish to " + message.Topic
	switch refusal.Tag() {
	case alphorn_plugin_mqtt.PublishErrorNotGranted:
		return refused(what, ErrNotGranted, refusal.NotGranted())
	case alphorn_plugin_mqtt.PublishErrorInvalidTopic:
		return refused(what, ErrInvalid, refusal.InvalidTopic())
	case alphorn_plugin_mqtt.PublishErrorTooLarge:
		return refused(what, ErrTooLarge, fmt.Sprint("the limit is ", refusal.TooLarge(), " bytes"))
	case alphorn_plugin_mqtt.PublishErrorRateLimited:
		return refused(what, ErrRateLimited, fmt.Sprint("for ", refusal.RateLimited(), " ms"))
	case alphorn_plugin_mqtt.PublishErrorOutboxFull:
		return refused(what, ErrFull, "the outbox")
	case alphorn_plugin_mqtt.PublishErrorHeld:
		return refused(what, ErrHeld, refusal.Held())
	case alphorn_plugin_mqtt.PublishErrorUnsupported:
		return refused(what, ErrUnsupported, refusal.Unsupported())
	default:
		return fmt.Errorf("%s: %s", what, refusal.Other())
	}
}

// Subscribe asks for messages that match the filter; they arrive at OnMessage.
func Subscribe(filter string, quality int) error {
	return subscribed("subscribe to "+filter, alphorn_plugin_mqtt.Subscribe(filter, qos(quality)))
}

// Unsubscribe gives a filter back.
func Unsubscribe(filter string) error {
	return subscribed("unsubscribe from "+filter, alphorn_plugin_mqtt.Unsubscribe(filter))
}

func subscribed(what string, asked wit_types.Result[wit_types.Unit, alphorn_plugin_mqtt.SubscribeError]) error {
	if asked.IsOk() {
		return nil
	}
	refusal := asked.Err()
	switch refusal.Tag() {
	case alphorn_plugin_mqtt.SubscribeErrorNotGranted:
		return refused(what, ErrNotGranted, refusal.NotGranted())
	case alphorn_plugin_mqtt.SubscribeErrorInvalidFilter:
		return refused(what, ErrInvalid, refusal.InvalidFilter())
	case alphorn_plugin_mqtt.SubscribeErrorLimitReached:
		return refused(what, ErrFull, fmt.Sprint("the limit is ", refusal.LimitReached(), " subscriptions"))
	default:
		return fmt.Errorf("%s: %s", what, refusal.Other())
	}
}

// Link is the connection as the plugin sees it.
func Link() alphorn_plugin_mqtt.LinkState {
	return alphorn_plugin_mqtt.Link()
}

// Every starts a timer that fires each period; its number reaches OnTimer.
func Every(period time.Duration) (uint32, error) {
	return timer(alphorn_plugin_timers.Every(milliseconds(period)))
}

// After starts a timer that fires once.
func After(delay time.Duration) (uint32, error) {
	return timer(alphorn_plugin_timers.After(milliseconds(delay)))
}

// Cancel ends a timer.
func Cancel(timer uint32) {
	alphorn_plugin_timers.Cancel(timer)
}

func timer(started wit_types.Result[uint32, string]) (uint32, error) {
	if started.IsErr() {
		return 0, errors.New("timer: " + started.Err())
	}
	return started.Ok(), nil
}

// Not less than asked for.
func milliseconds(duration time.Duration) uint32 {
	rounded := (duration + time.Millisecond - 1) / time.Millisecond
	return uint32(min(max(rounded, 0), 1<<32-1))
}

// Config is a value of the plugin's `[config]` table, and whether there is one.
func Config(key string) (string, bool) {
	value := alphorn_plugin_host.Config(key)
	return value.SomeOr(""), value.IsSome()
}

// ConfigOr is a value of that table, or what is meant without one.
func ConfigOr(key, otherwise string) string {
	return alphorn_plugin_host.Config(key).SomeOr(otherwise)
}

// ConfigKeys are the keys of that table.
func ConfigKeys() []string {
	return alphorn_plugin_host.ConfigKeys()
}

// Identity says who and where the plugin is.
func Identity() alphorn_plugin_host.About {
	return alphorn_plugin_host.Identity()
}

// Get is a value of the durable state, and nil if there is none.
func Get(key string) ([]byte, error) {
	found := alphorn_plugin_state.Get(key)
	if found.IsErr() {
		return nil, stateError(key, found.Err())
	}
	return found.Ok().SomeOr(nil), nil
}

// Set puts a value into the durable state.
func Set(key string, value []byte) error {
	if set := alphorn_plugin_state.Set(key, value); set.IsErr() {
		return stateError(key, set.Err())
	}
	return nil
}

// Remove takes a key out of it.
func Remove(key string) error {
	if removed := alphorn_plugin_state.Remove(key); removed.IsErr() {
		return stateError(key, removed.Err())
	}
	return nil
}

// Keys are all that begin with the prefix.
func Keys(prefix string) ([]string, error) {
	var keys []string
	after := wit_types.None[string]()
	for {
		// The host answers in pages; an empty one is the end.
		page := alphorn_plugin_state.Keys(prefix, after)
		if page.IsErr() {
			return nil, stateError(prefix, page.Err())
		}
		if len(page.Ok()) == 0 {
			return keys, nil
		}
		keys = append(keys, page.Ok()...)
		after = wit_types.Some(keys[len(keys)-1])
	}
}

func stateError(key string, refusal alphorn_plugin_state.StateError) error {
	what := "state " + key
	switch refusal.Tag() {
	case alphorn_plugin_state.StateErrorNotGranted:
		return refused(what, ErrNotGranted, "the configuration gives it none")
	case alphorn_plugin_state.StateErrorTooLarge:
		return refused(what, ErrTooLarge, fmt.Sprint("the limit is ", refusal.TooLarge(), " bytes"))
	case alphorn_plugin_state.StateErrorFull:
		return refused(what, ErrFull, "the plugin's share")
	default:
		return fmt.Errorf("%s: %s", what, refusal.Other())
	}
}

// Debug, Info, Warn and Error write a line to the host's log, put together as fmt.Sprint does.
// What is printed goes there, too.
func Debug(values ...any) {
	alphorn_plugin_host.Log(alphorn_plugin_host.LevelDebug, fmt.Sprint(values...))
}
func Info(values ...any) {
	alphorn_plugin_host.Log(alphorn_plugin_host.LevelInfo, fmt.Sprint(values...))
}
func Warn(values ...any) {
	alphorn_plugin_host.Log(alphorn_plugin_host.LevelWarn, fmt.Sprint(values...))
}
func Error(values ...any) {
	alphorn_plugin_host.Log(alphorn_plugin_host.LevelError, fmt.Sprint(values...))
}

func refused(what string, why error, words string) error {
	return fmt.Errorf("%s: %w: %s", what, why, words)
}

func qos(quality int) alphorn_plugin_types.Qos {
	if quality == 0 {
		return alphorn_plugin_types.QosAtMostOnce
	}
	return alphorn_plugin_types.QosAtLeastOnce
}

func (properties *Properties) lower() wit_types.Option[alphorn_plugin_types.Properties] {
	if properties == nil {
		return wit_types.None[alphorn_plugin_types.Properties]()
	}
	correlation := wit_types.None[[]byte]()
	if properties.CorrelationData != nil {
		correlation = wit_types.Some(properties.CorrelationData)
	}
	return wit_types.Some(alphorn_plugin_types.Properties{
		ContentType:     unless(properties.ContentType, ""),
		ResponseTopic:   unless(properties.ResponseTopic, ""),
		CorrelationData: correlation,
		MessageExpiry:   unless(properties.MessageExpiry, 0),
		Utf8:            properties.UTF8,
		UserProperties:  properties.UserProperties,
	})
}

func unless[T comparable](value, none T) wit_types.Option[T] {
	if value == none {
		return wit_types.None[T]()
	}
	return wit_types.Some(value)
}

func lift(message alphorn_plugin_guest.Message) Message {
	lifted := Message{Topic: message.Topic, Payload: message.Payload, QoS: int(message.Qos), Retain: message.Retain}
	if message.Properties.IsSome() {
		properties := message.Properties.Some()
		lifted.Properties = &Properties{
			ContentType:     properties.ContentType.SomeOr(""),
			ResponseTopic:   properties.ResponseTopic.SomeOr(""),
			CorrelationData: properties.CorrelationData.SomeOr(nil),
			MessageExpiry:   properties.MessageExpiry.SomeOr(0),
			UTF8:            properties.Utf8,
			UserProperties:  properties.UserProperties,
		}
	}
	return lifted
}
