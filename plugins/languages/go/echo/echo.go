// Echo sends each message back on its topic with /echo behind it.
package main

import (
	"errors"
	"strings"

	"alphorn"
)

const suffix = "/echo"

type echo struct{}

func (echo) Start(alphorn.Start) error {
	filter, ok := alphorn.Config("filter")
	if !ok {
		return errors.New("config `filter` is missing; it says what to echo, like \"test/#\"")
	}
	return alphorn.Subscribe(filter, 1)
}

func (echo) OnMessage(message alphorn.Delivery) error {
	// The filter may cover the echoes as well: an echo of one would never end.
	if strings.HasSuffix(message.Topic, suffix) {
		return nil
	}
	echo := message.Message
	echo.Topic += suffix
	echo.Retain = false
	return alphorn.PublishMessage(echo)
}

func init() { alphorn.Register(echo{}) }

func main() {}
