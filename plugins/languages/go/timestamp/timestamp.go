// Timestamp publishes the local time once a second.
package main

import (
	"errors"
	"time"

	"alphorn"
)

type timestamp struct {
	topic string
	qos   int
	zone  *time.Location
}

func (t *timestamp) Start(alphorn.Start) error {
	t.topic = alphorn.ConfigOr("topic", "test/date")
	switch alphorn.ConfigOr("qos", "0") {
	case "0":
	case "1":
		t.qos = 1
	default:
		return errors.New("config `qos` can be \"0\" or \"1\"")
	}
	// Only its zone is of interest.
	zoned, err := time.Parse("-07:00", alphorn.ConfigOr("utc_offset", "+00:00"))
	if err != nil {
		return errors.New("config `utc_offset` has to be like \"+09:00\" or \"-03:30\"")
	}
	t.zone = zoned.Location()
	_, err = alphorn.Every(time.Second)
	return err
}

func (t *timestamp) OnTimer(timer, missed uint32) error {
	now := time.Now().In(t.zone).Format("2006-01-02T15:04:05")
	alphorn.Info("try to publish: ", now)
	// A refusal is for the log: the next second brings a newer time.
	return alphorn.PublishMessage(alphorn.Message{Topic: t.topic, Payload: []byte(now), QoS: t.qos})
}

func init() { alphorn.Register(&timestamp{}) }

func main() {}
