// render CHART [-n NAMESPACE] [-k VERSION] [-f VALUES.yaml] [-set KEY=VALUE]...: a chart's objects as Helm gives them, a YAML stream.
// render -json: the YAML stream on standard input as a JSON list, in its order.
//
// It has what the chart in this repository needs of Helm: templates with sprig's functions, include, required, toYaml and
// toJson, .Values, .Release, .Chart, .Capabilities.KubeVersion and .Files.Get. Built with Debian's Go packages alone.
package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"sort"
	"strings"
	"text/template"

	"github.com/Masterminds/sprig"
	"sigs.k8s.io/yaml"
)

type files string

// Get is .Files.Get.
func (f files) Get(name string) string {
	text, err := os.ReadFile(filepath.Join(string(f), name))
	if err != nil {
		return ""
	}
	return string(text)
}

type settings []string

func (s *settings) String() string     { return strings.Join(*s, ",") }
func (s *settings) Set(v string) error { *s = append(*s, v); return nil }

func main() {
	namespace := flag.String("n", "default", "namespace")
	version := flag.String("k", "v1.20.2", "version of Kubernetes")
	values := flag.String("f", "", "values")
	asJSON := flag.Bool("json", false, "YAML on standard input to JSON")
	var sets settings
	flag.Var(&sets, "set", "one value")
	// The chart stands first, as with Helm.
	arguments := os.Args[1:]
	chart := ""
	if len(arguments) > 0 && !strings.HasPrefix(arguments[0], "-") {
		chart, arguments = arguments[0], arguments[1:]
	}
	flag.CommandLine.Parse(arguments)
	var err error
	if *asJSON {
		err = convert(os.Stdin, os.Stdout)
	} else {
		err = render(os.Stdout, chart, *namespace, *version, *values, sets)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "render:", err)
		os.Exit(1)
	}
}

func read(path string) (map[string]interface{}, error) {
	value := map[string]interface{}{}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	if err := yaml.Unmarshal(text, &value); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return value, nil
}

// merge lays one tree of values over another.
func merge(below, above map[string]interface{}) {
	for key, value := range above {
		inner, ok := value.(map[string]interface{})
		if outer, both := below[key].(map[string]interface{}); ok && both {
			merge(outer, inner)
			continue
		}
		below[key] = value
	}
}

// set reads a.b.c=VALUE, the value as YAML. A key that the chart does not know is an error: a test would prove nothing.
func set(values map[string]interface{}, setting string) error {
	name, text, found := strings.Cut(setting, "=")
	if !found {
		return fmt.Errorf("-set %s: no =", setting)
	}
	keys := strings.Split(name, ".")
	for _, key := range keys[:len(keys)-1] {
		inner, ok := values[key].(map[string]interface{})
		if !ok {
			return fmt.Errorf("-set %s: the chart has no %s", setting, key)
		}
		values = inner
	}
	last := keys[len(keys)-1]
	if _, ok := values[last]; !ok {
		return fmt.Errorf("-set %s: the chart has no %s", setting, last)
	}
	var value interface{}
	if err := yaml.Unmarshal([]byte(text), &value); err != nil {
		return err
	}
	values[last] = value
	return nil
}

func render(out io.Writer, chart, namespace, version, file string, sets []string) error {
	about, err := read(filepath.Join(chart, "Chart.yaml"))
	if err != nil {
		return err
	}
	values, err := read(filepath.Join(chart, "values.yaml"))
	if err != nil {
		return err
	}
	if file != "" {
		above, err := read(file)
		if err != nil {
			return err
		}
		merge(values, above)
	}
	for _, setting := range sets {
		if err := set(values, setting); err != nil {
			return err
		}
	}
	// .Chart has the names of Helm's own type.
	named := map[string]interface{}{}
	for key, value := range about {
		named[strings.ToUpper(key[:1])+key[1:]] = value
	}
	data := map[string]interface{}{
		"Values":       values,
		"Chart":        named,
		"Release":      map[string]interface{}{"Name": "netpolc", "Namespace": namespace, "Service": "Helm"},
		"Capabilities": map[string]interface{}{"KubeVersion": map[string]interface{}{"Version": version}},
		"Files":        files(chart),
	}

	all := template.New("chart").Option("missingkey=zero")
	functions := sprig.TxtFuncMap()
	delete(functions, "env")
	delete(functions, "expandenv")
	functions["include"] = func(name string, data interface{}) (string, error) {
		var text bytes.Buffer
		err := all.ExecuteTemplate(&text, name, data)
		return text.String(), err
	}
	functions["required"] = func(message string, value interface{}) (interface{}, error) {
		if value == nil || value == "" {
			return value, fmt.Errorf("%s", message)
		}
		return value, nil
	}
	functions["toYaml"] = func(value interface{}) (string, error) {
		text, err := yaml.Marshal(value)
		return strings.TrimSuffix(string(text), "\n"), err
	}
	functions["toJson"] = func(value interface{}) (string, error) {
		text, err := json.Marshal(value)
		return string(text), err
	}
	all.Funcs(functions)

	paths, err := filepath.Glob(filepath.Join(chart, "templates", "*"))
	if err != nil {
		return err
	}
	sort.Strings(paths)
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if _, err := all.New(filepath.Base(path)).Parse(string(text)); err != nil {
			return err
		}
	}
	for _, path := range paths {
		name := filepath.Base(path)
		var text bytes.Buffer
		if strings.HasPrefix(name, "_") {
			continue
		}
		if err := all.ExecuteTemplate(&text, name, data); err != nil {
			return err
		}
		if name == "NOTES.txt" || strings.TrimSpace(text.String()) == "" {
			continue
		}
		fmt.Fprintf(out, "---\n# Source: %s\n%s\n", name, strings.ReplaceAll(text.String(), "<no value>", ""))
	}
	return nil
}

var separator = regexp.MustCompile(`(?m)^---.*$`)

func convert(in io.Reader, out io.Writer) error {
	text, err := io.ReadAll(bufio.NewReader(in))
	if err != nil {
		return err
	}
	list := []interface{}{}
	for _, part := range separator.Split(string(text), -1) {
		var value interface{}
		if err := yaml.UnmarshalStrict([]byte(part), &value); err != nil {
			return err
		}
		if value != nil {
			list = append(list, value)
		}
	}
	return json.NewEncoder(out).Encode(list)
}
