package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"text/template"

	"github.com/spf13/cobra"

	"github.com/sealane/sealane/api"
)

func (c *cli) eventsCommand() *cobra.Command {
	var f filters
	format := ""
	cmd := &cobra.Command{
		Use: "events [flags]", Short: "Show what happens, from now on", Args: between(0, 0),
		Long: "Show what happens, from now on.\n\nFilters: type (network, endpoint, sandbox, host), event (create, connect, …), network, sandbox, endpoint.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			show, err := c.eventPrinter(format)
			if err != nil {
				return err
			}
			d := api.NewClient(c.socket())
			defer d.Close()
			events, err := d.Events(cmd.Context(), api.Filters(f))
			if err != nil {
				return err
			}
			for e, err := range events {
				if err == nil {
					err = show(e)
				}
				if err != nil {
					return err
				}
			}
			return nil
		},
	}
	cmd.Flags().VarP(&f, "filter", "f", "show only what matches; may be repeated")
	cmd.Flags().StringVar(&format, "format", "", `"json" or a Go template`)
	return cmd
}

func (c *cli) eventPrinter(format string) (func(api.Event) error, error) {
	switch format {
	case "":
		return func(e api.Event) error {
			_, err := fmt.Fprintln(c.out, eventLine(e))
			return err
		}, nil
	case "json":
		format = "{{json .}}"
	}
	var t *template.Template
	t, err := parseTemplate(format)
	return func(e api.Event) error { return printObject(c.out, t, e) }, err
}

// eventLine is TIME TYPE ACTION ID (k=v, …).
func eventLine(e api.Event) string {
	const layout = "2006-01-02T15:04:05.000000000Z07:00"
	line := fmt.Sprintf("%s %s %s %s", e.When().Format(layout), e.Type, e.Action, e.Actor.ID)
	if len(e.Actor.Attributes) == 0 {
		return line
	}
	var attributes []string
	for _, key := range slices.Sorted(maps.Keys(e.Actor.Attributes)) {
		attributes = append(attributes, key+"="+e.Actor.Attributes[key])
	}
	return line + " (" + strings.Join(attributes, ", ") + ")"
}
