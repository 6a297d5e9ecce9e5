"""The demo model server, for a gate that has no real model server behind it yet.

No inference happens: every prompt gets the same few words, which say so. The protocols are the
real ones, OpenAI's and Anthropic's, so that a client behaves as it would before a real server.
"""

from tensorgate.demo.answers import MODEL
from tensorgate.demo.server import demo

__all__ = ["MODEL", "demo"]
