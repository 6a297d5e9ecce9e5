"""Which headers pass the gate, in either direction, and which browsers may see. Pure data."""

from __future__ import annotations

from typing import Final

from authz.credential import CREDENTIAL_HEADERS

# By which servers, and routers in front of them, pick another model, adapter, worker or peer than
# the body says, go on though the client has left, or leave the usage out of their answers.
STEERING_PREFIXES: Final = (
    "x-ai-eg-",  # Envoy AI Gateway: the model
    "x-aibrix-",
    "x-amzn-sagemaker-",  # vLLM, DJL, MMS: the model, the adapter, the session
    "x-bf-",  # Bifrost: whose credential, what is sent on
    "x-data-parallel-",  # vLLM, SGLang, llm-d: the worker
    "x-dp-",  # Dynamo: the worker
    "x-dynamo-",
    "x-encoder-",  # llm-d: addresses of peers
    "x-gateway-",  # Kubernetes' inference gateway: the model, the server
    "x-kv-cache-",  # llm-d: the address of a peer
    "x-litellm-",
    "x-llm-d-",  # llm-d: addresses of peers, and whatever else it will be steered by
    "x-override-",  # SGLang: members of the body: its peer, its priority, its worker
    "x-portkey-",
    "x-prefill",  # llm-d: the address of a peer; Dynamo: the worker
    "x-smg-",  # SGLang's router: the worker
    "x-vsr-",  # vLLM's semantic router: the model
)
STEERING: Final = (
    "mm-model-id",  # ModelMesh: the model
    "mm-model-id-bin",
    "mm-vmodel-id",
    "mm-vmodel-id-bin",
    "config-profile",  # AIBrix
    "external-filter",
    "model",
    "routing-strategy",
    "target-pod",
    "target-pod-ip",
    "seldon-internal-model",  # Seldon: the model
    "seldon-model",
    "serve-multiplexed-model-id",  # Ray Serve; with underscores Envoy refuses it
    "x-body-compressed",  # SGLang: the body is to be read as another
    "x-enable-local-updates",  # Dynamo
    "x-goog-fieldmask",  # Gemini: the members of the answer
    "x-conversation-id",  # llama.cpp: a stream that outlives its client
    "x-label-selector",  # KubeAI: which models there are
    "x-selected-model",  # vLLM's semantic router
    "x-session-id",  # vLLM: the worker
    "x-worker-instance-id",
)

# A client's own, gone before anything looks at the request: what only we or Envoy may say, what
# could steer a server past the path and the model that were checked, and the dashboard's cookie.
FORGED_PREFIXES: Final = ("x-tensorgate-", "x-envoy-", *STEERING_PREFIXES)
NOT_ACCEPTED: Final = (
    "cookie",
    "x-http-method",
    "x-http-method-override",
    "x-method-override",
    "x-original-url",
    "x-request-id",
    "x-rewrite-url",
    *STEERING,
)

# Gone before the model server: credentials, what makes servers compress (the gate could not read
# their usage), and what makes them judge browsers (the gate does).
NOT_UPSTREAM: Final = (
    *CREDENTIAL_HEADERS,
    "proxy-authorization",
    "accept-encoding",
    "origin",
    "x-envoy-auth-partial-body",
    "x-tensorgate-upstream",  # what the service tells Envoy
)

# A model server's own, which a client would take for ours. Its `retry-after` is a standard word
# and may pass.
SERVERS_PREFIXES: Final = (
    "x-tensorgate-",
    "x-ratelimit-",
    "anthropic-ratelimit-",
    "x-budget-",
    "x-envoy-",
    "access-control-",
)
SERVERS_NAMES: Final = (
    "set-cookie",
    "ratelimit",
    "ratelimit-policy",
    "retry-after-ms",
    "x-should-retry",
    "x-key-expires",
    "x-request-id",
    "request-id",
)

EXPOSED: Final = (
    "x-request-id",
    "request-id",
    "x-tensorgate-reason",
    "x-tensorgate-hold-usd",
    "x-ratelimit-limit-requests",
    "x-ratelimit-remaining-requests",
    "x-ratelimit-reset-requests",
    "anthropic-ratelimit-requests-limit",
    "anthropic-ratelimit-requests-remaining",
    "anthropic-ratelimit-requests-reset",
    "ratelimit",
    "ratelimit-policy",
    "x-budget-limit-usd",
    "x-budget-remaining-usd",
    "x-budget-reset",
    "x-key-expires",
    "retry-after",
    "retry-after-ms",
    "x-should-retry",
    "www-authenticate",
)

# What pages may send. `*` does not cover Authorization, and browsers differ in whether they know
# it at all: so what the SDKs send stands here by name.
FROM_BROWSERS: Final = (
    *CREDENTIAL_HEADERS,
    "content-type",
    "accept",
    "anthropic-version",
    "anthropic-beta",
    "anthropic-dangerous-direct-browser-access",
    "openai-beta",
    "openai-organization",
    "openai-project",
    "idempotency-key",
    "x-requested-with",
    "x-stainless-arch",
    "x-stainless-custom-poll-interval",
    "x-stainless-helper-method",
    "x-stainless-lang",
    "x-stainless-os",
    "x-stainless-package-version",
    "x-stainless-poll-helper",
    "x-stainless-retry-count",
    "x-stainless-runtime",
    "x-stainless-runtime-version",
    "x-stainless-timeout",
    "*",
)
