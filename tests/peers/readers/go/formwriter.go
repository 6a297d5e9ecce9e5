// Writes a form as Go's clients do: one line of JSON, {"type": CONTENT_TYPE, "body": BASE64}.
package main

import (
	"bytes"
	"encoding/json"
	"mime/multipart"
	"os"
)

func check(err error) {
	if err != nil {
		panic(err)
	}
}

func main() {
	var body bytes.Buffer
	form := multipart.NewWriter(&body)
	check(form.WriteField("model", "whisper-1"))
	file, err := form.CreateFormFile("file", "speech.mp3")
	check(err)
	_, err = file.Write([]byte("ID3\x00\xff\r\n--\r\n"))
	check(err)
	check(form.WriteField("response_format", "json"))
	check(form.Close())
	check(json.NewEncoder(os.Stdout).Encode(map[string]any{
		"type": form.FormDataContentType(),
		"body": body.Bytes(),
	}))
}
