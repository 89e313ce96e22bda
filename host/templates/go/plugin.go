// Counts the seconds, and greets whoever sends a name.
package main

import (
	"fmt"
	"strconv"
	"time"

	"alphorn"
)

type plugin struct {
	greeting string
	seconds  int
}

func (p *plugin) Start(info alphorn.Start) error {
	p.greeting = alphorn.ConfigOr("greeting", "Hello")
	if err := alphorn.Subscribe("{{name}}/in", 1); err != nil {
		return err
	}
	_, err := alphorn.Every(time.Second)
	return err
}

func (p *plugin) OnTimer(timer, missed uint32) error {
	p.seconds++
	return alphorn.Publish("{{name}}/count", []byte(strconv.Itoa(p.seconds)))
}

// A message whose handling fails is tried again, unless the error is one of alphorn.Drop.
func (p *plugin) OnMessage(message alphorn.Delivery) error {
	return alphorn.Publish("{{name}}/out", fmt.Appendf(nil, "%s, %s!", p.greeting, message.Payload))
}

func init() { alphorn.Register(&plugin{}) }

func main() {}
