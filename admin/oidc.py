"""OpenID Connect: asking one provider who somebody is (authorization code, PKCE, state, nonce).

The provider is the one that the settings name, by its discovery document. What comes back counts
only if it was asked for by this browser (state), is signed by the provider, is for us, is fresh
and answers this very question (nonce). Who that is here is told by issuer and subject alone.
"""

from __future__ import annotations

import logging
import math
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Lock
from time import monotonic
from typing import Any, Final
from urllib.parse import urlsplit

import httpx2
from authlib.common.errors import AuthlibBaseError
from authlib.integrations.httpx_client import OAuth2Client
from authlib.oidc.core import CodeIDToken
from joserfc import jwt
from joserfc.errors import InvalidKeyIdError, JoseError
from joserfc.jwk import KeySet
from joserfc.jws import JWSRegistry

from admin.settings import AdminSettings
from admin.signins import Flow, Identity, ProviderError

WELL_KNOWN: Final = "/.well-known/openid-configuration"
SCOPE: Final = "openid email"
SECONDS: Final = 5.0
KEPT_SECONDS: Final = 3600.0
"""How long the provider's document and keys are kept; an unknown key has them read anew."""

PAUSE_SECONDS: Final = 3.0
"""Who asks so soon after it could not be read is told so: visitors must not queue for it."""

LEEWAY_SECONDS: Final = 60
SIGNED_BY: Final = frozenset(
    {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}
)
"""Never `none`, and never a secret that both sides have."""

_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Known:
    document: Mapping[str, Any]
    keys: KeySet
    read: float = field(default_factory=monotonic)


class Provider:
    """The one provider. Thread-safe; each question is bounded in time."""

    def __init__(self, settings: AdminSettings, redirect_uri: str) -> None:
        self._issuer = settings.oidc_issuer or ""
        self._client_id = settings.oidc_client_id or ""
        self._secret = settings.oidc_client_secret()
        self._redirect_uri = redirect_uri
        self._lock = Lock()
        self._known: _Known | None = None
        self._failed = -math.inf

    def begin(self, *, after: str = "", invite: str = "", session: str = "") -> tuple[str, Flow]:
        """Where to send the browser, and what it has to keep. Raises ProviderError."""
        state, nonce, verifier = (secrets.token_urlsafe(32) for _ in range(3))
        flow = Flow(state, nonce, verifier, after, invite, session)
        with self._asking() as client:
            url, _ = client.create_authorization_url(
                self._read().document["authorization_endpoint"],
                state=flow.state,
                nonce=flow.nonce,
                code_verifier=flow.verifier,
            )
        return str(url), flow

    def finish(self, flow: Flow, code: str) -> Identity:
        """Whom the provider vouches for. Raises ProviderError."""
        with self._asking() as client:
            token = client.fetch_token(
                self._read().document["token_endpoint"],
                code=code,
                code_verifier=flow.verifier,
                grant_type="authorization_code",
            )
            claims = self._claims(token, flow.nonce)
        email = claims.get("email")
        verified = isinstance(email, str) and claims.get("email_verified") is True
        return Identity(self._issuer, str(claims["sub"]), email if verified else None)

    def _claims(self, token: Mapping[str, Any], nonce: str) -> Mapping[str, Any]:
        """The claims of an ID token that is signed, for us, fresh, and the answer to `nonce`."""
        try:
            signed = self._verified(token["id_token"], self._read())
        except InvalidKeyIdError:
            signed = self._verified(token["id_token"], self._read(anew=True))
        claims = CodeIDToken(
            signed.claims,
            signed.header,
            {
                "iss": {"essential": True, "value": self._issuer},
                "sub": {"essential": True},
                "aud": {"essential": True, "value": self._client_id},
                "exp": {"essential": True},
            },
            {
                "nonce": nonce,
                "client_id": self._client_id,
                "access_token": token.get("access_token"),
            },
        )
        claims.validate(leeway=LEEWAY_SECONDS)
        return dict(claims)

    @staticmethod
    def _verified(id_token: str, known: _Known) -> jwt.Token:
        said = known.document.get("id_token_signing_alg_values_supported") or ["RS256"]
        registry = JWSRegistry(
            algorithms=sorted(SIGNED_BY.intersection(said)), strict_check_header=False
        )
        return jwt.decode(id_token, known.keys, registry=registry)

    def _read(self, *, anew: bool = False) -> _Known:
        """The provider's document and keys, read anew now and then."""
        with self._lock:
            known = self._known
            if known is not None and not anew and monotonic() - known.read < KEPT_SECONDS:
                return known
            if monotonic() - self._failed < PAUSE_SECONDS:
                raise ValueError("it could not be read a moment ago")
            try:
                self._known = self._fetched()
            except Exception:
                self._failed = monotonic()
                raise
            return self._known

    def _fetched(self) -> _Known:
        with httpx2.Client(timeout=SECONDS) as client:
            document = _json(client, self._issuer.rstrip("/") + WELL_KNOWN)
            if document.get("issuer") != self._issuer:
                raise ValueError("the document is of another issuer")
            for name in ("authorization_endpoint", "token_endpoint", "jwks_uri"):
                _check_url(name, document.get(name))
            keys = KeySet.import_key_set({"keys": _json(client, document["jwks_uri"])["keys"]})
        return _Known(document, keys)

    @contextmanager
    def _asking(self) -> Iterator[OAuth2Client]:
        """A client for one question; whatever goes wrong is logged and is one ProviderError."""
        try:
            document = self._read().document
            methods = document.get("token_endpoint_auth_methods_supported")
            basic = methods is None or "client_secret_basic" in methods
            with OAuth2Client(
                self._client_id,
                self._secret,
                token_endpoint_auth_method="client_secret_basic" if basic else "client_secret_post",
                scope=SCOPE,
                redirect_uri=self._redirect_uri,
                code_challenge_method="S256",
                timeout=SECONDS,
            ) as client:
                yield client
        except (
            httpx2.HTTPError,
            httpx2.InvalidURL,
            AuthlibBaseError,
            JoseError,
            ValueError,
            KeyError,
            TypeError,
        ) as fault:
            _log.warning("%s: %s: %.200r", self._issuer, type(fault).__name__, str(fault))
            raise ProviderError(
                "Signing in that way does not work at this moment. "
                "Try again, or sign in by password."
            ) from None


def _json(client: httpx2.Client, url: str) -> dict[str, Any]:
    answer = client.get(url, headers={"accept": "application/json"})
    answer.raise_for_status()
    value = answer.json()
    if not isinstance(value, dict):
        raise TypeError("the provider's document is no object")
    return value


def _check_url(name: str, url: object) -> None:
    parts = urlsplit(url if isinstance(url, str) else "")
    if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in _LOOPBACK):
        raise ValueError(f"{name} is no https URL")
