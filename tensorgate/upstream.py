"""Which model server answers at an address, and which models it lists.

Only GETs of small self-descriptions, with no credential, no proxy and no redirect followed. What
comes back is a stranger's: read up to 1 MiB, and made printable before anybody sees it.
"""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Self

from authz.logs import printable
from tensorgate.ports import Address

LARGEST: Final = 1024 * 1024
REQUEST_SECONDS: Final = 1.5
SHOWN_MODELS: Final = 5
MOST_MODELS: Final = 1000
LONGEST_NAME: Final = 200

# What a listing calls the owner of its models, as each server has it.
OWNERS: Final = {
    "llamacpp": "llama.cpp",
    "vllm": "vLLM",
    "sglang": "SGLang",
    "library": "Ollama",
    "tensorrt_llm": "TensorRT-LLM",
    "organization_owner": "LM Studio",
    "lmdeploy": "LMDeploy",
    "infinity": "Infinity",
    "tabbyapi": "TabbyAPI",
    "tensorgate-demo": "demo",
}
# How a server of the KServe v2 protocol names itself.
V2_NAMES: Final = {"triton": "Triton", "mlserver": "MLServer", "kserve": "KServe"}


@dataclass(frozen=True, slots=True)
class Upstream:
    """What was found. `server` is for people; `models` are names as the server lists them."""

    address: Address
    server: str
    models: tuple[str, ...] = ()
    wants_credential: bool = False

    def __str__(self) -> str:
        shown = f"{self.server} at {self.address}"
        if self.wants_credential:
            return f"{shown} · it wants a credential of its own for its list of models"
        if not self.models:
            return f"{shown} · it lists no models"
        more = len(self.models) - SHOWN_MODELS
        names = ", ".join(printable(name) for name in self.models[:SHOWN_MODELS])
        return f"{shown} · models: {names}{f' (+{more})' if more > 0 else ''}"


@dataclass(frozen=True, slots=True)
class Silent:
    """Nothing that speaks HTTP answered; `why` in a few words."""

    address: Address
    why: str

    def __str__(self) -> str:
        return f"{self.address} does not answer yet ({self.why})"


@dataclass(frozen=True, slots=True)
class _Reply:
    status: int
    server: str
    body: Mapping[str, Any]  # {} for anything but a JSON object with status 200


@dataclass(frozen=True, slots=True)
class _Sign:
    """A path whose answer gives a server away. `name` reads the answer: server, version."""

    path: str
    name: Callable[[Mapping[str, Any]], tuple[str, object] | None]


def _llama_cpp(body: Mapping[str, Any]) -> tuple[str, object] | None:
    return ("llama.cpp", body.get("build_info")) if "default_generation_settings" in body else None


def _ollama(body: Mapping[str, Any]) -> tuple[str, object] | None:
    return ("Ollama", body["version"]) if "version" in body else None


def _sglang(body: Mapping[str, Any]) -> tuple[str, object] | None:
    return ("SGLang", body.get("version")) if "model_path" in body else None


def _hugging_face(body: Mapping[str, Any]) -> tuple[str, object] | None:
    if "model_id" not in body:
        return None
    # Text Embeddings Inference says what kind of model it serves, Text Generation never does
    return ("TEI" if isinstance(body.get("model_type"), dict) else "TGI", body.get("version"))


def _kserve(body: Mapping[str, Any]) -> tuple[str, object] | None:
    name = body.get("name")
    if not isinstance(name, str) or "extensions" not in body:
        return None
    return V2_NAMES.get(name.lower(), name), body.get("version")


def _vllm(body: Mapping[str, Any]) -> tuple[str, object] | None:
    return ("vLLM", body["version"]) if "version" in body else None


# The more particular first: /version alone says little.
SIGNS: Final = (
    _Sign("/props", _llama_cpp),
    _Sign("/api/version", _ollama),
    _Sign("/get_server_info", _sglang),
    _Sign("/info", _hugging_face),
    _Sign("/v2", _kserve),
    _Sign("/version", _vllm),
)
# Where a server that its listing gave away tells its version.
VERSION_AT: Final = {
    "llama.cpp": ("/props", "build_info"),
    "Ollama": ("/api/version", "version"),
    "SGLang": ("/get_server_info", "version"),
    "vLLM": ("/version", "version"),
    "TensorRT-LLM": ("/version", "version"),
}


def probe(address: Address, seconds: float = 5.0) -> Upstream | Silent:
    """Ask around, in at most about `seconds` (plus name resolution). Never raises."""
    deadline = time.monotonic() + seconds

    def get(path: str) -> _Reply | str:
        left = deadline - time.monotonic()
        return _get(address, path, min(left, REQUEST_SECONDS)) if left > 0 else "no answer in time"

    listing = get("/v1/models")
    if isinstance(listing, str):
        return Silent(address, listing)
    models, owner = _listed(listing.body)
    known = OWNERS.get(owner.lower()) or ("llama.cpp" if listing.server == "llama.cpp" else None)
    if known:
        path, member = VERSION_AT.get(known, ("", ""))
        reply = get(path) if path else ""
        version = "" if isinstance(reply, str) else reply.body.get(member)
        server = _named(known, version)
    else:
        server, models = _recognise(get, listing, models)
    return Upstream(address, server, models, listing.status in {401, 403} and not models)


class ProbeThread(threading.Thread):
    """A probe beside other work. A daemon: name resolution may hang, and must hold nothing up."""

    def __init__(self, address: Address) -> None:
        super().__init__(name="probe", daemon=True)
        self._address = address
        self._found: Upstream | Silent | None = None

    @classmethod
    def asking(cls, address: Address | None) -> Self | None:
        """A probe that has begun, None for no address."""
        if address is None:
            return None
        thread = cls(address)
        thread.start()
        return thread

    def run(self) -> None:
        """Probe once."""
        self._found = probe(self._address)

    def answer(self, seconds: float = 6.0) -> Upstream | Silent:
        """What was found, waited for at most `seconds` from now."""
        self.join(seconds)
        return self._found or Silent(self._address, "no answer in time")


def _recognise(
    get: Callable[[str], _Reply | str], listing: _Reply, models: tuple[str, ...]
) -> tuple[str, tuple[str, ...]]:
    """The first sign that fits, and its models where /v1/models had none."""
    for sign in SIGNS:
        reply = get(sign.path)
        named = None if isinstance(reply, str) else sign.name(reply.body)
        if isinstance(reply, str) or named is None:
            continue
        if not models and isinstance(name := reply.body.get("model_id"), str):
            models = (name,)
        elif not models and named[0] == "Ollama":
            tags = get("/api/tags")
            models = () if isinstance(tags, str) else _names(tags.body.get("models"), "name")
        return _named(*named), models
    header = printable(listing.server)[:40]
    return f"a server that calls itself {header}" if header else "an HTTP server", models


def _get(address: Address, path: str, timeout: float) -> _Reply | str:
    """One GET; text is why there was no HTTP answer."""
    connection = http.client.HTTPConnection(address.host, address.port, timeout=timeout)
    try:
        connection.request("GET", path, headers={"accept": "application/json"})
        response = connection.getresponse()
        raw = response.read(LARGEST + 1) if response.status == http.client.OK else b""
        return _Reply(response.status, response.getheader("server", ""), _object(raw))
    except TimeoutError:
        return "no answer in time"
    except http.client.HTTPException:
        return "what answers there does not speak HTTP"
    except OSError as fault:
        return (fault.strerror or "cannot be reached").lower()
    finally:
        connection.close()


def _object(raw: bytes) -> Mapping[str, Any]:
    if len(raw) > LARGEST:
        return {}
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _listed(body: Mapping[str, Any]) -> tuple[tuple[str, ...], str]:
    """The names of an OpenAI listing, and the owner of the first."""
    rows = body.get("data")
    first = rows[0] if isinstance(rows, list) and rows and isinstance(rows[0], dict) else {}
    owner = first.get("owned_by")
    return _names(rows, "id"), owner if isinstance(owner, str) else ""


def _names(rows: object, member: str) -> tuple[str, ...]:
    if not isinstance(rows, list):
        return ()
    named = (row.get(member) for row in rows[:MOST_MODELS] if isinstance(row, dict))
    return tuple(n for n in named if isinstance(n, str) and 0 < len(n) <= LONGEST_NAME)


def _named(server: str, version: object) -> str:
    known = isinstance(version, str) and version
    return printable(f"{server} {version}" if known else server)[:60]
