// Reads JSON as Go's servers do: encoding/json into structs whose fields are tagged with the names
// that are asked for, so that Go's own rules hold: names match in any case, the last one counts, and
// what stands twice is merged. Whole bodies (json.Unmarshal), and the first value of a body, as
// net/http's frameworks read it (json.Decoder). Lines in and out as in ../jsons.py.
package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"reflect"
	"strings"
)

type asked struct {
	Paths  [][]string `json:"paths"`
	Bodies [][]byte   `json:"bodies"`
}

type seen struct {
	Seen  []any  `json:"seen,omitempty"`
	Error string `json:"error,omitempty"`
}

var anything = reflect.TypeOf((*any)(nil)).Elem()

// structOf is the struct that has these paths: a pointer to another one, or anything, by name.
func structOf(paths [][]string) reflect.Type {
	inner := map[string][][]string{}
	names := []string{}
	for _, path := range paths {
		if _, known := inner[path[0]]; !known {
			names = append(names, path[0])
		}
		inner[path[0]] = append(inner[path[0]], path[1:])
	}
	fields := []reflect.StructField{}
	for at, name := range names {
		kind := anything
		if len(inner[name][0]) > 0 {
			kind = reflect.PointerTo(structOf(inner[name]))
		}
		tag := reflect.StructTag(fmt.Sprintf("json:%q", name))
		fields = append(fields, reflect.StructField{Name: fmt.Sprintf("F%d", at), Type: kind, Tag: tag})
	}
	return reflect.StructOf(fields)
}

func find(value reflect.Value, path []string) any {
	for _, name := range path {
		if value.Kind() == reflect.Pointer {
			if value.IsNil() {
				return nil
			}
			value = value.Elem()
		}
		for at := range value.NumField() {
			if value.Type().Field(at).Tag.Get("json") == name {
				value = value.Field(at)
				break
			}
		}
	}
	switch found := value.Interface().(type) {
	case map[string]any, []any:
		return "(compound)"
	default:
		return found
	}
}

func read(body []byte, kind reflect.Type, paths [][]string, whole bool) seen {
	into := reflect.New(kind)
	decoder := json.NewDecoder(bytes.NewReader(body))
	decoder.UseNumber()
	var err error
	if whole && !json.Valid(body) {
		err = json.Unmarshal(body, into.Interface()) // it says why
	} else {
		err = decoder.Decode(into.Interface())
	}
	if err != nil {
		return seen{Error: err.Error()}
	}
	if strings.TrimSpace(string(body)) == "null" {
		return seen{Error: "null"}
	}
	values := []any{}
	for _, path := range paths {
		values = append(values, find(into.Elem(), path))
	}
	return seen{Seen: values}
}

func main() {
	lines := bufio.NewReaderSize(os.Stdin, 1<<20)
	out := json.NewEncoder(os.Stdout)
	for {
		line, err := lines.ReadBytes('\n')
		if err != nil {
			return
		}
		var a asked
		if err := json.Unmarshal(line, &a); err != nil {
			panic(err)
		}
		kind := structOf(a.Paths)
		answer := map[string][]seen{"go": {}, "go, first value": {}}
		for _, body := range a.Bodies {
			answer["go"] = append(answer["go"], read(body, kind, a.Paths, true))
			answer["go, first value"] = append(answer["go, first value"], read(body, kind, a.Paths, false))
		}
		if err := out.Encode(answer); err != nil {
			panic(err)
		}
	}
}
