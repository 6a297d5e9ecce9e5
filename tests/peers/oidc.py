"""Providers of OpenID Connect: a real one in a venv of its own, and one that lies."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

import httpx2
from joserfc import jwt
from joserfc.jwk import RSAKey
from peers.ports import free_port
from peers.process import Child
from peers.venvs import ensure_venv

READY_SECONDS = 60.0


class RealProvider:
    """`oidc-provider-mock`: whoever says who they are is believed, and vouched for."""

    def __init__(self, url: str) -> None:
        self.issuer = url

    def knows(self, subject: str, **claims: object) -> None:
        """Let the provider know what to say of somebody."""
        answer = httpx2.put(f"{self.issuer}/users/{quote(subject)}", json=claims, trust_env=False)
        assert answer.status_code == 204

    def vouch(self, url: str, subject: str) -> str:
        """Sign in at the address that a browser was sent to; where it is sent back to."""
        answer = httpx2.post(url, data={"sub": subject}, trust_env=False)
        assert answer.status_code == 302, answer.text
        return answer.headers["location"]

    def deny(self, url: str) -> str:
        """The same, but its user does not want to."""
        answer = httpx2.post(url, data={"action": "deny"}, trust_env=False)
        return answer.headers["location"]


@contextmanager
def real_provider(folder: Path) -> Iterator[RealProvider]:
    """A running one on a free port."""
    python, port = ensure_venv("oidc"), free_port()
    url = f"http://127.0.0.1:{port}"
    argv = (python, "-m", "oidc_provider_mock", "--port", str(port), "--require-nonce")
    child = Child(argv, log=folder / "provider.log")

    def answers() -> bool:
        try:
            return httpx2.get(f"{url}/jwks", trust_env=False).status_code == 200
        except httpx2.HTTPError:
            return False

    try:
        child.wait_until(answers, seconds=READY_SECONDS, what="answer")
        yield RealProvider(url)
    finally:
        child.end()


class LyingProvider:
    """Serves what it is told: `claims` are put into the next ID token, `header` over its own."""

    def __init__(self, url: str) -> None:
        self.issuer = url
        self.key = RSAKey.generate_key(2048, parameters={"kid": "one"})
        self.signs_with = self.key
        self.claims: dict[str, Any] = {}
        self.header: dict[str, Any] = {"alg": "RS256", "kid": "one"}
        self.id_token: str | None = None
        self.document: dict[str, Any] = {}
        self.asked: dict[str, str] = {}

    def answer(self, path: str) -> Mapping[str, Any]:
        if path == "/.well-known/openid-configuration":
            return {
                "issuer": self.issuer,
                "authorization_endpoint": f"{self.issuer}/authorize",
                "token_endpoint": f"{self.issuer}/token",
                "jwks_uri": f"{self.issuer}/jwks",
                "id_token_signing_alg_values_supported": ["RS256", "HS256", "none"],
            } | self.document
        if path == "/jwks":
            return {"keys": [self.key.as_dict(private=False)]}
        now = int(time.time())
        plain = {"iss": self.issuer, "aud": "gate", "sub": "eve", "iat": now, "exp": now + 60}
        token = self.id_token or jwt.encode(
            self.header, plain | self.claims, self.signs_with, algorithms=["RS256", "HS256"]
        )
        return {"access_token": "a", "token_type": "Bearer", "expires_in": 60, "id_token": token}


@contextmanager
def lying_provider() -> Iterator[LyingProvider]:
    """A running one, in a thread of this process."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer()

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            provider.asked = {name: each[0] for name, each in parse_qs(body.decode()).items()}
            self._answer()

        def _answer(self) -> None:
            body = json.dumps(provider.answer(urlsplit(self.path).path)).encode()
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    provider = LyingProvider(f"http://127.0.0.1:{server.server_port}")
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield provider
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
