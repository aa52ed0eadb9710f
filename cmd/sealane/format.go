package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"text/template"

	"github.com/spf13/cobra"
)

// row is one line of a list, by the names that templates use.
type row map[string]string

// list is what ls shows: Docker's tables, templates and JSON lines.
type list struct {
	heads   row      // title of each column, by name
	columns []string // names of those that are shown unless a template says otherwise
	rows    []row
}

// listFlags are the flags of every ls.
type listFlags struct {
	filters filters
	format  string
	quiet   bool
	noTrunc bool
}

func (f *listFlags) declare(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.VarP(&f.filters, "filter", "f", "show only what matches (the same key: either, different keys: all)")
	flags.StringVar(&f.format, "format", "", `"table", "table TEMPLATE", "json" or a Go template`)
	flags.BoolVarP(&f.quiet, "quiet", "q", false, "show ids only")
	flags.BoolVar(&f.noTrunc, "no-trunc", false, "show whole ids")
}

// id is an id as it is to be shown.
func (f *listFlags) id(id string) string {
	const shown = 12
	if f.noTrunc {
		return id
	}
	return id[:min(shown, len(id))]
}

// print shows a list as the flags say.
func (f *listFlags) print(w io.Writer, l list) error {
	format := f.format
	if f.quiet && format == "" {
		format = "{{.ID}}"
	}
	if format == "" || format == "table" {
		format = "table {{." + strings.Join(l.columns, "}}\t{{.") + "}}"
	}
	columns, table := strings.CutPrefix(format, "table ")
	if format == "json" {
		columns = "{{json .}}"
	}
	t, err := parseTemplate(columns)
	if err != nil {
		return err
	}
	rows := l.rows
	if table {
		tw := tabwriter.NewWriter(w, 10, 1, 3, ' ', 0)
		defer tw.Flush()
		w = tw
		rows = append([]row{l.heads}, rows...)
	}
	for _, r := range rows {
		if err := t.Execute(w, r); err != nil {
			return usage("--format: %w", err)
		}
		fmt.Fprintln(w)
	}
	return nil
}

// parseTemplate reads a Go template with Docker's functions. \t and \n may be written so.
func parseTemplate(text string) (*template.Template, error) {
	text = strings.NewReplacer(`\t`, "\t", `\n`, "\n").Replace(text)
	t, err := template.New("format").Option("missingkey=error").Funcs(template.FuncMap{
		"json": jsonText, "join": strings.Join, "split": strings.Split, "lower": strings.ToLower, "upper": strings.ToUpper,
	}).Parse(text)
	if err != nil {
		return nil, usage("--format: %w", err)
	}
	return t, nil
}

// jsonText is a value in one line of JSON.
func jsonText(v any) (string, error) {
	var b strings.Builder
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	err := e.Encode(v)
	return strings.TrimSuffix(b.String(), "\n"), err
}

// printObjects shows what inspect found: one JSON array, or a line by template for each.
func printObjects[T any](w io.Writer, format string, objects []T) error {
	switch format {
	case "":
		e := json.NewEncoder(w)
		e.SetEscapeHTML(false)
		e.SetIndent("", "    ")
		return e.Encode(objects)
	case "json":
		text, err := jsonText(objects)
		if err == nil {
			_, err = fmt.Fprintln(w, text)
		}
		return err
	}
	t, err := parseTemplate(format)
	if err != nil {
		return err
	}
	for _, o := range objects {
		if err := printObject(w, t, o); err != nil {
			return err
		}
	}
	return nil
}

// printObject takes names in a template as Go's, and where there are none as those of the JSON.
func printObject(w io.Writer, t *template.Template, o any) error {
	var line bytes.Buffer
	err := t.Execute(&line, o)
	if err != nil {
		text, jerr := json.Marshal(o)
		var raw any
		if jerr == nil {
			jerr = json.Unmarshal(text, &raw)
		}
		line.Reset()
		if jerr != nil || t.Execute(&line, raw) != nil {
			return usage("--format: %w", err)
		}
	}
	fmt.Fprintln(&line)
	_, err = line.WriteTo(w)
	return err
}

// inspect is the command of this name for one kind of object: it goes on after what is not found.
func inspect[T any](c *cli, use, short string, find func(*cobra.Command, string) (T, error)) *cobra.Command {
	format := ""
	cmd := &cobra.Command{
		Use: use, Short: short, Args: atLeast(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			objects, status := []T{}, 0
			for _, ref := range args {
				o, err := find(cmd, ref)
				if err == nil {
					objects = append(objects, o)
				}
				status = max(status, c.report(err))
			}
			if err := printObjects(c.out, format, objects); err != nil {
				return err
			}
			if status > 0 {
				return &exit{status: status}
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&format, "format", "", `"json" or a Go template`)
	return cmd
}
