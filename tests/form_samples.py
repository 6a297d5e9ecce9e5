"""Forms for tests: as real clients write them, and those that parsers read in different ways.

A sample is (content type, body).
"""

from __future__ import annotations

from typing import Final

Sample = tuple[str, bytes]

WANTED: Final = frozenset({"model", "n", "stream", "response_format", "prompt"})
B: Final = "form-7MA4YWxk"
TYPE: Final = f"multipart/form-data; boundary={B}"
CD: Final = b"Content-Disposition: form-data; "
MODEL: Final = CD + b'name="model"\r\n\r\nm-1'
FILE: Final = (
    CD + b'name="file"; filename="a.mp3"\r\nContent-Type: audio/mpeg\r\n\r\nID3\x00\xff\r\n\x80'
)


def form(*parts: bytes, boundary: str = B, end: bytes = b"\r\n") -> bytes:
    """A body of parts, each of them headers, an empty line and content."""
    delimiter = b"--" + boundary.encode()
    return (
        b"".join(delimiter + b"\r\n" + part + b"\r\n" for part in parts) + delimiter + b"--" + end
    )


def text(name: str, value: str) -> bytes:
    return CD + f'name="{name}"\r\n\r\n{value}'.encode()


def quoted(boundary: str) -> str:
    return f'multipart/form-data; boundary="{boundary}"'


def bare(boundary: str) -> str:
    return f"multipart/form-data; boundary={boundary}"


_WEBKIT: Final = "----WebKitFormBoundary7MA4YWxkTrZu0gW9"
_GECKO: Final = "----geckoformboundary4a6d2e5d1c0b8f3e7a9c6b1d"
_OLD_GECKO: Final = "---------------------------293582696224464"
_CURL: Final = "------------------------1418c61ae176de10abcdef"
_UNDICI: Final = "----formdata-undici-022831673709"
_GUID: Final = "0f3b2c6e-7d8a-4b7e-9f51-2a6c3d4e5f60"
_APACHE: Final = "AbC_-dEfGhIjKlMnOpQrStUvWxYz0123456-_"
_DART: Final = "dart-http-boundary-.xR+f_oVhJmnNB7o7vGFSi1LlZbdY9.2RzNvAUqkAZPS3x5a+"

# As the clients write them, byte for byte but for their random numbers; the model is m-1.
CLIENTS: Final[dict[str, Sample]] = {
    "Chrome": (bare(_WEBKIT), form(MODEL, FILE, boundary=_WEBKIT)),
    "Firefox": (bare(_GECKO), form(MODEL, FILE, boundary=_GECKO)),
    "Firefox of old": (bare(_OLD_GECKO), form(MODEL, FILE, boundary=_OLD_GECKO)),
    "a browser's file input left empty": (
        bare(_WEBKIT),
        form(
            MODEL,
            CD + b'name="mask"; filename=""\r\nContent-Type: application/octet-stream\r\n\r\n',
            boundary=_WEBKIT,
        ),
    ),
    "a Mac's screenshot": (
        bare(_WEBKIT),
        form(
            MODEL,
            CD
            + 'name="image"; filename="Ekran görüntüsü 3.00\N{NARROW NO-BREAK SPACE}ÖS Å….png"\r\n'
            "Content-Type: image/png\r\n\r\n".encode()
            + b"\x89PNG\r\n\x1a\n",
            boundary=_WEBKIT,
        ),
    ),
    "a recorder's blob": (
        bare(_WEBKIT),
        form(
            MODEL,
            CD
            + b'name="file"; filename="blob"\r\nContent-Type: audio/webm;codecs=opus\r\n\r\n\x1a',
            CD
            + b'name="b"; filename="c"\r\nContent-Type: video/mp4; codecs="avc1.4, mp4a"\r\n\r\n',
            boundary=_WEBKIT,
        ),
    ),
    "curl": (
        bare(_CURL),
        form(
            MODEL,
            FILE,
            CD + b'name="metadata"\r\nContent-Type: application/json\r\n\r\n{"model":"other"}',
            boundary=_CURL,
        ),
    ),
    "undici": (bare(_UNDICI), form(MODEL, FILE, boundary=_UNDICI)),
    "undici of old": (bare(_UNDICI), form(MODEL, FILE, boundary=_UNDICI, end=b"")),
    ".NET": (
        quoted(_GUID),
        form(
            b"Content-Type: text/plain; charset=utf-8\r\n" + CD + b"name=model\r\n\r\nm-1",
            CD + b"name=file; filename=a.mp3; filename*=utf-8''a%C3%A9%20b.mp3\r\n\r\nID3",
            boundary=_GUID,
        ),
    ),
    "Apache HttpClient": (
        f"multipart/form-data; charset=UTF-8; boundary={_APACHE}",
        form(
            CD
            + b'name="model"\r\nContent-Type: text/plain; charset=ISO-8859-1\r\n'
            + b"Content-Transfer-Encoding: 8bit\r\n\r\nm-1",
            CD
            + b'name="file"; filename="a.mp3"\r\nContent-Type: application/octet-stream\r\n'
            + b"Content-Transfer-Encoding: binary\r\n\r\nID3",
            boundary=_APACHE,
        ),
    ),
    "Spring": (
        f"multipart/form-data;boundary={_APACHE};charset=UTF-8",
        form(MODEL, boundary=_APACHE),
    ),
    "OkHttp": (
        bare(_GUID),
        form(
            CD + b'name="model"\r\nContent-Length: 3\r\n\r\nm-1',
            CD + b'name="n"\r\nContent-Length: 0\r\n\r\n',
            boundary=_GUID,
        ),
    ),
    "Dart": (
        bare(_DART),
        form(
            b'content-disposition: form-data; name="model"\r\n\r\nm-1',
            b"content-type: audio/mpeg\r\n"
            b'content-disposition: form-data; name="file"; filename="a.mp3"\r\n\r\nID3',
            boundary=_DART,
        ),
    ),
    "Ruby": (
        "multipart/form-data; boundary=-----------RubyMultipartPost-a1b2c3",
        form(MODEL, FILE, boundary="-----------RubyMultipartPost-a1b2c3", end=b"\r\n\r\n"),
    ),
    "openai, lists and objects": (
        TYPE,
        form(
            MODEL,
            text("timestamp_granularities[]", "word"),
            text("timestamp_granularities[]", "segment"),
            text("chunking_strategy[type]", "server_vad"),
        ),
    ),
}

# Contents that come close to a boundary and are none, to nobody.
CONTENTS: Final[dict[str, bytes]] = {
    "empty": b"",
    "a CR at the end": b"x\r",
    "a LF at the end": b"x\n",
    "line ends": b"\r\n\r\n\n\r\r\n",
    "headers": MODEL,
    "half a boundary": b"\r\n--" + B[:-1].encode(),
    "half a boundary at the end": b"x\r\n--",
    "half a boundary behind a CR": b"x\r\r\n--form-",
    "another case": b"\r\n--" + B.swapcase().encode() + b"--\r\n",
    "a boundary without its dashes": b"\r\n" + B.encode() + b"--\r\n",
    "a boundary with one dash": b"\r\n-" + B.encode() + b"\r\n",
    "dashes": b"\r\n------\r\n",
    "any byte": bytes(range(256)),
}

_D: Final = b"--" + B.encode()
_OTHER: Final = CD + b'name="model"\r\n\r\nother'

# Some of the readers that the tests drive read each of these in another way than others do.
DISPUTED: Final[dict[str, Sample]] = {
    "a boundary behind a LF": (
        TYPE,
        form(MODEL, CD + b'name="x"\r\n\r\na\n' + _D + b"\r\n" + _OTHER),
    ),
    "a boundary behind a CR": (
        TYPE,
        form(MODEL, CD + b'name="x"\r\n\r\na\r' + _D + b"\r\n" + _OTHER),
    ),
    "a boundary with spaces behind it": (
        TYPE,
        form(MODEL, CD + b'name="x"\r\n\r\na\r\n' + _D + b" \t\r\n" + _OTHER),
    ),
    "a boundary with a LF behind it": (
        TYPE,
        form(MODEL, CD + b'name="x"\r\n\r\na\r\n' + _D + b"\n" + _OTHER),
    ),
    "a boundary that goes on": (
        TYPE,
        form(MODEL, CD + b'name="n"\r\n\r\na\r\n' + _D + b"x\r\n\r\n"),
    ),
    "a part behind the last boundary": (TYPE, form(MODEL) + form(_OTHER)),
    "a preamble with a boundary of its own": (
        TYPE,
        b"x\n" + _D + b"\r\n" + _OTHER + b"\r\n" + form(MODEL),
    ),
    "no last boundary": (TYPE, form(MODEL)[: -len(_D) - 6]),
    "name twice": (TYPE, form(CD + b'name="model"; name="x"\r\n\r\nm')),
    "name twice, one in capitals": (TYPE, form(CD + b'Name="model"; name="x"\r\n\r\nm')),
    "name*": (TYPE, form(CD + b"name=\"x\"; name*=utf-8''model\r\n\r\nm")),
    "name* alone": (TYPE, form(CD + b"name*=utf-8''model\r\n\r\nm")),
    "name in pieces": (TYPE, form(CD + b'name*0="mod"; name*1="el"\r\n\r\nm')),
    "name without a closing quote": (TYPE, form(CD + b'name="model\r\n\r\nm')),
    "an escaped letter": (TYPE, form(CD + b'name="mo\\del"\r\n\r\nm')),
    "an escaped quote": (TYPE, form(CD + b'name="x\\"; name="model"\r\n\r\nm')),
    "name in single quotes": (TYPE, form(CD + b"name='model'\r\n\r\nm")),
    "name with spaces around =": (TYPE, form(CD + b'name = "model"\r\n\r\nm')),
    "disposition twice": (TYPE, form(CD + b'name="model"\r\n' + CD + b'name="x"\r\n\r\nm')),
    "another disposition": (
        TYPE,
        form(MODEL, b'Content-Disposition: attachment; name="n"\r\n\r\n1'),
    ),
    "a folded header": (TYPE, form(b'Content-Disposition: form-data;\r\n name="model"\r\n\r\nm')),
    "a LF inside the headers": (TYPE, form(CD + b'name="x"\n' + CD + b'name="model"\r\n\r\nm')),
    "headers that end with LFs": (TYPE, form(CD + b'name="model"\n\nm\r\n\r\nx')),
    "headers without any line": (TYPE, form(b"\r\n" + MODEL)),
    "a space before the colon": (
        TYPE,
        form(MODEL, b'Content-Disposition : form-data; name="n"\r\n\r\n1'),
    ),
    "base64": (TYPE, form(CD + b'name="model"\r\nContent-Transfer-Encoding: base64\r\n\r\nbS0x')),
    "quoted-printable": (
        TYPE,
        form(CD + b'name="model"\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\nm=2D1'),
    ),
    "Latin-1": (
        TYPE,
        form(CD + b'name="model"\r\nContent-Type: text/plain; charset=iso-8859-1\r\n\r\n\xc3\xa9'),
    ),
    "UTF-16": (
        TYPE,
        form(CD + b'name="model"\r\nContent-Type: text/plain; charset=utf-16le\r\n\r\nm\0'),
    ),
    "not UTF-8": (TYPE, form(CD + b'name="model"\r\n\r\nm\xff')),
    "a byte order mark": (TYPE, form(CD + b'name="model"\r\n\r\n\xef\xbb\xbfm')),
    "a file without a name": (TYPE, form(CD + b'name="model"; filename=""\r\n\r\nm')),
    "a file by its type": (
        TYPE,
        form(CD + b'name="model"\r\nContent-Type: application/octet-stream\r\n\r\nm'),
    ),
    "a file by filename*": (TYPE, form(CD + b"name=\"model\"; filename*=utf-8''a\r\n\r\nm")),
    "two boundaries in the type": (
        f"multipart/form-data; boundary={B}; boundary=other",
        form(MODEL) + form(_OTHER, boundary="other"),
    ),
    "boundary* in the type": (
        f"multipart/form-data; boundary={B}; boundary*=utf-8''other",
        form(MODEL) + form(_OTHER, boundary="other"),
    ),
    "an escaped letter in the boundary": (
        quoted("a\\b"),
        form(MODEL, boundary="ab") + form(_OTHER, boundary="a\\b"),
    ),
    "a charset in the type": (
        TYPE + "; charset=latin-1",
        form(CD + b'name="model"\r\n\r\n\xc3\xa9'),
    ),
    "a comma behind the boundary": (TYPE + ",x", form(MODEL)),
    "another media type": (TYPE.replace("form-data", "mixed"), form(MODEL)),
    "a space before the boundary's =": (TYPE.replace("y=", "y ="), form(MODEL)),
}
