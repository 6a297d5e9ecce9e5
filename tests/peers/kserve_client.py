"""Triton's own client, run in its venv: a call a line on stdin, how it ended a line on stdout.

A call is a JSON object: `over` (http or grpc), `url`, `what`, `model`, `key` and, for `infer`,
`numbers`, `tensor` (its name), `parameters` and `options` of the client's own. What comes back is
{"value": …} or {"status": …, "message": …}.
"""

from __future__ import annotations

import json
import queue
import sys
from contextlib import suppress
from typing import Any

import numpy as np
import tritonclient.grpc as over_grpc
import tritonclient.http as over_http
from tritonclient.utils import InferenceServerException

JSON: dict[str, Any] = {"binary_data": False}
_clients: dict[tuple[str, str], Any] = {}


def client(call: dict[str, Any]) -> Any:
    module = over_grpc if call["over"] == "grpc" else over_http
    at = (call["over"], call["url"])
    if at not in _clients:
        _clients[at] = module.InferenceServerClient(call["url"])
    return _clients[at]


def tensors(call: dict[str, Any]) -> list[Any]:
    numbers = np.array(call["numbers"], dtype=np.float32)
    module = over_grpc if call["over"] == "grpc" else over_http
    given = module.InferInput(call.get("tensor", "numbers"), list(numbers.shape), "FP32")
    # mlserver reads no tensors behind the JSON
    return [given.set_data_from_numpy(numbers, **({} if module is over_grpc else JSON))]


def outputs(call: dict[str, Any]) -> Any:
    return None if call["over"] == "grpc" else [over_http.InferRequestedOutput("doubled", **JSON)]


def stream(server: Any, call: dict[str, Any], headers: dict[str, str]) -> Any:
    """A bidirectional call; the first thing that the server says to it."""
    said: queue.Queue[Any] = queue.Queue()
    server.start_stream(callback=lambda result, error: said.put(error or result), headers=headers)
    try:
        with suppress(InferenceServerException):  # it has ended already; the callback knows why
            server.async_stream_infer(call["model"], tensors(call))
        first = said.get(timeout=10)
    finally:
        server.stop_stream(cancel_requests=True)
    if isinstance(first, InferenceServerException):
        raise first
    return "answered"


def run(call: dict[str, Any]) -> Any:
    server = client(call)
    headers = {"authorization": f"Bearer {call['key']}"} if call.get("key") else {}
    match call["what"]:
        case "infer":
            result = server.infer(
                call["model"],
                tensors(call),
                outputs=outputs(call),
                headers=headers,
                parameters=call.get("parameters"),
                **call.get("options", {}),
            )
            return result.as_numpy("doubled").tolist()
        case "stream":
            return stream(server, call, headers)
        case "model_ready":
            return server.is_model_ready(call["model"], headers=headers)
        case "live" | "ready" as which:
            return getattr(server, f"is_server_{which}")(headers=headers)
        case "metadata":
            found = server.get_server_metadata(headers=headers)
        case _:
            found = server.get_model_metadata(call["model"], headers=headers)
    return found["name"] if isinstance(found, dict) else found.name


def main() -> None:
    print("ready", flush=True)
    for line in sys.stdin:
        try:
            ended = {"value": run(json.loads(line))}
        except InferenceServerException as fault:
            message = fault.message()
            if not isinstance(message, str):
                message = json.dumps(message)
            ended = {"status": str(fault.status()), "message": message}
        print(json.dumps(ended), flush=True)


if __name__ == "__main__":
    main()
