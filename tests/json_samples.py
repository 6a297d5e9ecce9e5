"""JSON bodies: what clients of every endpoint send, and what JSON readers do not agree on."""

from __future__ import annotations

import json
from typing import Any, Final

MODEL: Final = "llama-3.1-8b"
_SAID: Final = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Zoë 😀\n"}]
_PARTS: Final = [{"role": "user", "parts": [{"text": 'What is "it"?\t'}]}]
_TENSOR: Final = {"name": "input", "shape": [1, 2], "datatype": "FP32", "data": [1.5, -2e-3]}
_TOOL: Final = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"model": {"type": "string"}}},
    },
}

REAL: Final[dict[str, list[dict[str, Any]]]] = {
    "chat.completions": [
        {"model": MODEL, "messages": _SAID},
        {"model": MODEL, "messages": _SAID, "max_tokens": 100, "stream": True, "temperature": 0.7},
        {
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": '{"model":"x"}'}]},
                {
                    "role": "assistant",
                    "tool_calls": [
                        {
                            "id": "c1",
                            "type": "function",
                            "function": {"name": "weather", "arguments": '{"max_tokens": 1}'},
                        }
                    ],
                },
                {"role": "tool", "tool_call_id": "c1", "content": "sunny"},
            ],
            "tools": [_TOOL],
            "model": MODEL,
            "max_completion_tokens": 64,
            "n": 2,
            "stream": True,
            "stream_options": {"include_usage": False},
            "metadata": {"max_tokens": "9", "Model": "none"},
        },
        {
            "model": MODEL,
            "messages": _SAID,
            "max_tokens": None,
            "stream_options": None,
            "stream": True,
            "lora_path": "poet",
        },
        {
            "model": MODEL,
            "messages": _SAID,
            "chat_template_kwargs": {"enable_thinking": False, "depth": {"chat_template": 1}},
        },
    ],
    "completions": [
        {
            "metadata": {"max_tokens": None, "stream_options": None, "include_usage": False},
            "model": MODEL,
            "prompt": "Once",
            "max_tokens": None,
            "stream": True,
            "stream_options": None,
        },
        {"model": MODEL, "prompt": "Once", "max_tokens": 16, "best_of": 3, "n": 1},
        {"model": MODEL, "prompt": ["a", "b"], "stream": True, "stream_options": {}},
        {"model": MODEL, "prompt": [1, 2, 3], "echo": False, "logprobs": 5},
    ],
    "responses": [
        {"model": MODEL, "input": "Hi", "max_output_tokens": 32, "stream": True},
        {"model": MODEL, "input": [{"role": "user", "content": "Hi"}], "store": False},
    ],
    "embeddings": [{"model": MODEL, "input": ["a", "b"], "encoding_format": "float"}],
    "moderations": [{"model": MODEL, "input": "a"}],
    "rerank": [{"model": MODEL, "query": "q", "documents": ["a", {"text": "b"}], "top_n": 1}],
    "score": [{"model": MODEL, "text_1": "a", "text_2": ["b", "c"]}],
    "images.generations": [{"model": MODEL, "prompt": "a cat", "n": 2, "size": "1024x1024"}],
    "audio.speech": [{"model": MODEL, "input": "Hello", "voice": "alloy"}],
    "messages": [
        {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1024},
        {"model": MODEL, "system": "Be brief.", "messages": [], "stream": True},
    ],
    "messages.count_tokens": [{"model": MODEL, "messages": [{"role": "user", "content": "Hi"}]}],
    "gemini": [
        {"contents": _PARTS, "generationConfig": {"maxOutputTokens": 64, "candidateCount": 2}},
        {"contents": _PARTS, "generation_config": {"max_output_tokens": None, "topK": 1}},
        {"contents": _PARTS, "model": f"models/{MODEL}", "safetySettings": []},
    ],
    "gemini.embed": [{"content": {"parts": [{"text": "a"}]}, "model": f"models/{MODEL}"}],
    "gemini.embed.batch": [
        {"requests": [{"model": f"models/{MODEL}", "content": {"parts": [{"text": "a"}]}}]},
        {"requests": [{"content": {"parts": [{"text": "a"}]}, "outputDimensionality": 8}] * 2},
    ],
    "gemini.count_tokens": [
        {"contents": _PARTS},
        {"generateContentRequest": {"model": f"models/{MODEL}", "contents": _PARTS}},
    ],
    "ollama.chat": [
        {"model": MODEL, "messages": _SAID},
        {"model": MODEL, "messages": _SAID, "stream": False, "options": {"num_predict": 7}},
        {"model": MODEL, "messages": _SAID, "options": {"temperature": 0, "num_ctx": 4096}},
        {"options": None, "model": MODEL, "messages": _SAID, "max_tokens": 12},
        {"format": {"options": {}}, "model": MODEL, "messages": _SAID, "options": {}},
        {"format": {"options": None}, "model": MODEL, "messages": _SAID, "options": None},
    ],
    "ollama.generate": [
        {"model": MODEL, "prompt": "Hi", "options": {}},
        {"model": MODEL, "prompt": "Hi", "options": {"num_predict": None, "seed": 3}},
    ],
    "ollama.embed": [{"model": MODEL, "input": "Hi", "options": {"num_ctx": 2048}}],
    "ollama.embeddings": [{"model": MODEL, "prompt": "Hi"}],
    "ollama.show": [{"model": MODEL}, {"name": MODEL, "verbose": True}],
    "v2.infer": [
        {"inputs": [_TENSOR], "outputs": [{"name": "output"}], "id": "7"},
        {"parameters": {"lora_name": "poet", "max_tokens": 3}, "inputs": [_TENSOR]},
    ],
    "v2.generate": [
        {"text_input": "Hi", "parameters": {"max_tokens": 20, "stream": True}},
        {"text_input": "Hi", "max_tokens": 20, "parameters": {"best_of": 2, "max_tokens": 9}},
        {"text_input": "Hi"},
    ],
    "v1.predict": [{"instances": [[1.0, 2.0]], "signature_name": "serving_default"}],
    "native.generate": [
        {"inputs": "Hi", "parameters": {"max_new_tokens": 20, "best_of": 2, "adapter_id": "poet"}},
        {"inputs": "Hi", "parameters": {"do_sample": True}, "stream": True},
        {"text": "Hi", "sampling_params": {"max_new_tokens": 8, "n": 2}, "lora_path": "poet"},
        {"inputs": "Hi", "parameters": None},
        {"inputs": "Hi"},
    ],
    "native.completion": [
        {"prompt": "Hi", "n_predict": 12, "stream": True},
        {"prompt": "Hi", "max_tokens": 12, "model": MODEL},
    ],
    "native.infill": [{"input_prefix": "a", "input_suffix": "b", "prompt": "", "n_predict": 4}],
    "native.embedding": [{"content": "Hi"}],
    "native.tokenize": [{"content": "Hi", "add_special": True}],
}
"""By the name of an endpoint, or by the beginning of the names of some."""


def real(name: str) -> list[dict[str, Any]]:
    """The bodies of an endpoint: of the entry with the longest beginning of its name."""
    alike = {
        "native.completions": "native.completion",
        "native.embeddings": "native.embedding",
        "native.reranking": "rerank",
        "native.detokenize": "native.tokenize",
        "native.apply_template": "native.tokenize",
        "gemini.generate": "gemini",
    }
    name = alike.get(name, name)
    if name.startswith("v1."):
        name = "v1.predict"
    found = [
        entry for entry in REAL if name == entry or name.startswith((f"{entry}.", f"{entry}_"))
    ]
    return REAL[max(found, key=len)]


# ── JSON texts: each is put in as a value, and is a body of its own ──────────────────────────────

AGREED: Final = [
    *(
        "0",
        "-0",
        "1",
        "-1",
        "0.0",
        "-0.0",
        "1.5",
        "1e2",
        "1E+2",
        "1e-2",
        "-1.25e-7",
        "123456789012",
    ),
    *("9007199254740993", "9223372036854775807", "-9223372036854775808", "18446744073709551615"),
    *("1e308", "2.2250738585072014e-308", "5e-324", "0.1234567890123456789012345678901234567890"),
    *("true", "false", "null", '""', '"a"', '"\\u0000"', '"\\u00e9"', '"\\uD83D\\uDE00"', '"é😀"'),
    *('"\\"\\\\\\/\\b\\f\\n\\r\\t"', '"\\\\u0041"', '"\u007f\u0080\u2028\u2029\ufeff\uffff"'),
    *(
        "[]",
        "{}",
        "[[]]",
        "[1,2]",
        '{"":0}',
        '{"a":{"a":{}}}',
        "[{},{}]",
        ' [ 1 , "x" ] ',
        "\t1\r\n",
    ),
    *('{"model":"inner"}', '{"Model":1,"MODEL":2}', '{"\\u0000":1}', '{"max_tokens":"x"}', '"}"'),
    *(
        '"\\"model\\":\\"x\\""',
        '"{\\"model\\":\\"x\\"}"',
        "[" * 60 + "]" * 60,
        '{"a":' * 60 + "1" + "}" * 60,
    ),
]
"""JSON that every reader takes."""

DOUBTED: Final = [
    # numbers beyond what a double or a 64-bit integer holds
    *("18446744073709551616", "-9223372036854775809", "1" * 100, "-" + "9" * 400, "1" * 4000),
    *(
        "1e309",
        "-1e400",
        "1e-400",
        "1e999999999",
        "0e999",
        "1" + "0" * 400 + "e-400",
        "0." + "1" * 2000,
    ),
    # no numbers
    *(
        "01",
        "-01",
        "+1",
        ".5",
        "1.",
        "1.e2",
        "1e",
        "1e+",
        "--1",
        "- 1",
        "0x10",
        "1_000",
        "1 2",
        "0b1",
    ),
    *("NaN", "-NaN", "Infinity", "-Infinity", "nan", "inf", "1f", "1n", "\uff11", "1\u00a0"),
    # literals
    *("True", "FALSE", "nul", "nulll", "undefined", "None", "truefalse", "tru", "'a'", "a", "`a`"),
    # strings: escapes, surrogates, control characters
    *(
        '"\\x41"',
        '"\\a"',
        '"\\u12"',
        '"\\u00G0"',
        '"\\U0041"',
        '"\\\'"',
        '"\\',
        '"a',
        'a"',
        '"\\u"',
    ),
    *(
        '"\\ud800"',
        '"\\udc00"',
        '"\\ud800\\ud800"',
        '"\\ud83d\\u0041"',
        '"\\ude00\\ud83d"',
        '"\\uD83D"',
    ),
    *('"\x00"', '"\x01"', '"\n"', '"\t"', '"\r\n"', '"\x1f"', '"\\\n"', '"\\\x00"', '"\\ud83dé"'),
    # structure
    *(
        "[",
        "]",
        "{",
        "}",
        "[1,]",
        "[,1]",
        "[1 2]",
        "[1,,2]",
        "[1}",
        '{"a":1]',
        '{"a":1,}',
        "{,}",
        "{a:1}",
    ),
    *(
        '{"a"}',
        '{"a":}',
        '{"a" 1}',
        '{"a"::1}',
        "{1:1}",
        "{null:1}",
        "{'a':1}",
        '{"a":1 "b":2}',
        '{"a";1}',
    ),
    *('{"a":1,"a":2}', '{"a":1,"\\u0061":2}', '{"__proto__":{"model":"x"}}', '{"constructor":1}'),
    # comments, spaces that are none, marks of byte order
    *(
        "/**/1",
        "1/**/",
        "//\n1",
        "#\n1",
        "1#",
        "<!--1-->",
        "\u00a01",
        "\u20281",
        "\u0085 1",
        "\x0c1",
        "\x0b1",
    ),
    *(
        "\ufeff1",
        "\u200b1",
        "\u00ad1",
        "1;",
        "1\x00",
        "\x001",
        "1\x1a",
        "[1]]",
        "{}}",
        "1 //",
        '""""',
        "[]1",
    ),
    # depth
    *(
        "[" * 200 + "]" * 200,
        "[" * 1100 + "]" * 1100,
        '{"a":' * 1100 + "1" + "}" * 1100,
        "[" * 5000,
    ),
    *("[" * 1000 + "]" * 1000, "[" * 1024 + "]" * 1024, '{"a":[' * 500 + "1" + "]}" * 500),
]
"""What some reader refuses or reads in its own way."""

BYTES: Final = [
    *(b'"\xff"', b'"\xc0\x80"', b'"\xc0\xaf"', b'"\xc1\x81"', b'"\xe0\x80\xaf"', b'"\xed\xa0\x80"'),
    *(
        b'"\xed\xb0\x80"',
        b'"\xed\xa0\xbd\xed\xb8\x80"',
        b'"\xf0\x80\x80\xaf"',
        b'"\xf4\x90\x80\x80"',
    ),
    *(
        b'"\xf8\x88\x80\x80\x80"',
        b'"\xe2\x82"',
        b'"\xc3',
        b'"\x80"',
        b'"\xc3"',
        b'"\xfe\xff"',
        b"\xff1",
    ),
    *(b'{"\xff":1}', b'{"\xed\xa0\x80":1}', b"\xef\xbb\xbf1", b"\xef\xbb1", b'"\xef\xbf\xbe"'),
]
"""What is no UTF-8."""

TWICE: Final = [
    lambda name: name,
    lambda name: name.upper(),
    lambda name: name.title(),
    lambda name: name.replace("s", "\N{LATIN SMALL LETTER LONG S}"),
    lambda name: name.replace("k", "\N{KELVIN SIGN}"),
    lambda name: name + "\0",
    lambda name: name + "\0x",
    lambda name: "\0" + name,
    lambda name: name + "\ud800",
    lambda name: name + " ",
    lambda name: name.replace("m", "\N{FULLWIDTH LATIN SMALL LETTER M}"),
    lambda name: name.replace("i", "\N{LATIN SMALL LETTER DOTLESS I}"),
    lambda name: name.replace("i", "\N{LATIN CAPITAL LETTER I WITH DOT ABOVE}"),
    lambda name: f"x.{name}",
    lambda name: name.replace("_", "-"),
    lambda name: name[:1] + name.title().replace("_", "")[1:],
    lambda name: "",
]
"""A second member whose name is made from the first one's."""

FRAMES: Final = [
    *(b"%s ", b" %s", b"\n\t%s\r\n", b"%s%s", b"%s\n%s", b"%s,", b"%s]", b"%s}", b"[%s]", b"(%s)"),
    *(
        b"\xef\xbb\xbf%s",
        b"%s\0",
        b"\0%s",
        b"%s\x1a",
        b"%s//",
        b"/**/%s",
        b"data: %s",
        b")]}',\n%s",
    ),
    *(
        b"\x0c%s",
        b"\xc2\xa0%s",
        b"%s null",
        b"null %s",
        b'%s{"model":"x"}',
        b'{"model":"x"}%s',
        b"\x1e%s",
    ),
    *(b"callback(%s)", b"%s%%", b'"%s"', b"\xff\xfe%s", b"%s\xff"),
]
"""What may stand around a body."""

CODINGS: Final = ("utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-8-sig", "utf-7")


def written(body: dict[str, Any], *, ascii_only: bool = False) -> bytes:
    """A body as JSON."""
    return json.dumps(body, ensure_ascii=ascii_only).encode("utf-8")
