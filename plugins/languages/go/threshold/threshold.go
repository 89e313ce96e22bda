// Threshold raises an alarm when a sensor's value is over a limit, and when none comes any more.
package main

import (
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"time"

	"alphorn"
)

const key = "alarm"

// What is kept, and handed over: the same JSON in every language.
type alarm struct {
	High    bool `json:"high"`
	Missing bool `json:"missing"`
	// The last value; nil: there was none.
	Value *float64 `json:"value"`
}

func (a alarm) name() string {
	switch {
	case a.Missing:
		return "missing"
	case a.High:
		return "high"
	default:
		return "normal"
	}
}

type threshold struct {
	topic, alarmTopic               string
	limit, hysteresis, missingAfter float64
	alarm                           alarm
	// Fires when nothing has come for too long; 0: it does not run.
	timer uint32
}

func (t *threshold) Start(info alphorn.Start) error {
	if err := t.configure(); err != nil {
		return err
	}
	// The version before, in whatever language, says how things are; else the store does.
	source, before := "the version before", info.HandedOver
	if before == nil {
		kept, err := alphorn.Get(key)
		if err != nil {
			return err
		}
		source, before = "the store", kept
	}
	if before == nil {
		source = "nobody"
	} else if err := json.Unmarshal(before, &t.alarm); err != nil {
		return fmt.Errorf("what %s says is no alarm: %w", source, err)
	}
	alphorn.Info(t.alarm.name(), " as ", source, " says")
	if err := alphorn.Subscribe(t.topic, 1); err != nil {
		return err
	}
	return t.waitForNext()
}

func (t *threshold) OnMessage(message alphorn.Delivery) error {
	var reading struct{ Value *float64 }
	if err := json.Unmarshal(message.Payload, &reading); err != nil {
		return alphorn.Drop(fmt.Errorf("not a reading: %w", err))
	}
	if reading.Value == nil {
		return alphorn.Drop(fmt.Errorf("not a reading: it has no `value`"))
	}
	// What is high has to come down further than it had to rise.
	limit := t.limit
	if t.alarm.High {
		limit -= t.hysteresis
	}
	if err := t.changeTo(alarm{High: *reading.Value > limit, Value: reading.Value}); err != nil {
		return err
	}
	return t.waitForNext()
}

func (t *threshold) OnTimer(timer, missed uint32) error {
	return t.changeTo(alarm{High: t.alarm.High, Missing: true, Value: t.alarm.Value})
}

func (t *threshold) Stop(alphorn.StopReason) ([]byte, error) {
	return json.Marshal(t.alarm)
}

// Keeps it, and tells of it if it is called something else now.
func (t *threshold) changeTo(next alarm) error {
	kept, err := json.Marshal(next)
	if err != nil {
		return err
	}
	if err := alphorn.Set(key, kept); err != nil {
		return err
	}
	if next.name() != t.alarm.name() {
		report, err := json.Marshal(map[string]any{"alarm": next.name(), "value": next.Value})
		if err != nil {
			return err
		}
		properties := &alphorn.Properties{ContentType: "application/json"}
		err = alphorn.PublishMessage(alphorn.Message{Topic: t.alarmTopic, Payload: report, QoS: 1, Properties: properties})
		if err != nil {
			return err
		}
	}
	// Not before: a call that fails has changed nothing.
	t.alarm = next
	return nil
}

func (t *threshold) waitForNext() (err error) {
	alphorn.Cancel(t.timer)
	t.timer = 0
	if t.missingAfter > 0 {
		t.timer, err = alphorn.After(time.Duration(t.missingAfter * float64(time.Second)))
	}
	return err
}

func (t *threshold) configure() error {
	for key, text := range map[string]*string{"topic": &t.topic, "alarm": &t.alarmTopic} {
		value, ok := alphorn.Config(key)
		if !ok {
			return fmt.Errorf("config `%s` is missing", key)
		}
		*text = value
	}
	t.missingAfter = 60
	for key, number := range map[string]*float64{"limit": &t.limit, "hysteresis": &t.hysteresis, "missing_after": &t.missingAfter} {
		value, ok := alphorn.Config(key)
		if !ok && key == "limit" {
			return fmt.Errorf("config `limit` is missing")
		}
		if !ok {
			continue
		}
		parsed, err := strconv.ParseFloat(value, 64)
		if err != nil || math.IsInf(parsed, 0) || math.IsNaN(parsed) {
			return fmt.Errorf("config `%s` is %q; it has to be a number", key, value)
		}
		*number = parsed
	}
	return nil
}

func init() { alphorn.Register(&threshold{}) }

func main() {}
