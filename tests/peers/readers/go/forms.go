// Reads forms as net/http does it (mime and mime/multipart). Lines in and out as in ../forms.py.
package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"io"
	"mime"
	"mime/multipart"
	"os"
)

type asked struct {
	Type  string `json:"type"`
	Body  []byte `json:"body"`
	Chunk int    `json:"chunk"`
}

type seen struct {
	Fields [][2]any `json:"fields,omitempty"`
	Error  string   `json:"error,omitempty"`
}

// chunks gives at most so many bytes at a time, as a network does.
type chunks struct {
	rest *bytes.Reader
	size int
}

func (c chunks) Read(into []byte) (int, error) {
	if c.size > 0 && len(into) > c.size {
		into = into[:c.size]
	}
	return c.rest.Read(into)
}

func read(a asked) seen {
	media, params, err := mime.ParseMediaType(a.Type)
	if err != nil {
		return seen{Error: err.Error()}
	}
	if media != "multipart/form-data" || params["boundary"] == "" {
		return seen{Error: "no form"}
	}
	body := io.Reader(chunks{bytes.NewReader(a.Body), a.Chunk})
	form, err := multipart.NewReader(body, params["boundary"]).ReadForm(32 << 20)
	if err != nil {
		return seen{Error: err.Error()}
	}
	defer form.RemoveAll()
	fields := [][2]any{}
	for name, values := range form.Value {
		for _, value := range values {
			fields = append(fields, [2]any{name, value})
		}
	}
	for name, files := range form.File {
		for range files {
			fields = append(fields, [2]any{name, nil})
		}
	}
	return seen{Fields: fields}
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
		if err := out.Encode(map[string]seen{"go": read(a)}); err != nil {
			panic(err)
		}
	}
}
