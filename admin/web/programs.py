"""Which browser a User-Agent speaks of, as people call it. Pure.

It is what the browser says of itself, which anybody can make up, and a hint for its owner only:
which of a few sessions is which. What no rule knows is shown as it was sent, cut short.
"""

from __future__ import annotations

import re
from typing import Final

RAW_CHARS: Final = 60

# Most browsers name their relatives, too: the first that is there is the one. Those that are built
# on Chromium and do not say so are told by nobody from Chrome.
_BROWSERS: Final = tuple(
    (re.compile(pattern), name)
    for pattern, name in (
        (r"\bEdg(?:e|A|iOS)?/(\d+)", "Edge"),
        (r"\b(?:OPR|OPT|OPX)/(\d+)", "Opera"),
        (r"\bSamsungBrowser/(\d+)", "Samsung Internet"),
        (r"\bVivaldi/(\d+)", "Vivaldi"),
        (r"\bYaBrowser/(\d+)", "Yandex Browser"),
        (r"\b(?:Firefox|FxiOS)/(\d+)", "Firefox"),
        (r"\b(?:Headless)?Chromium/(\d+)", "Chromium"),
        (r"\bHeadlessChrome/(\d+)", "Headless Chrome"),
        (r"\b(?:Chrome|CriOS)/(\d+)", "Chrome"),
        (r"\bVersion/(\d+)[\d.]* (?:Mobile/\w+ )?Safari/", "Safari"),
    )
)
_SYSTEMS: Final = tuple(
    (re.compile(pattern), name)
    for pattern, name in (
        (r"\biPad\b", "iPad"),
        (r"\b(?:iPhone|iPod)\b", "iPhone"),
        (r"\bAndroid\b", "Android"),
        (r"\bWindows\b", "Windows"),
        (r"\bCrOS\b", "ChromeOS"),
        (r"\bMac(?:intosh| OS X)\b", "macOS"),
        (r"\bLinux\b", "Linux"),
        (r"\b(?:Free|Open|Net)BSD\b", "BSD"),
    )
)
_TOOL: Final = re.compile(r"([A-Za-z][\w-]{0,30})/(\d+(?:\.\d+)?)[\w.+-]*")


def program(agent: str) -> str:
    """`Chrome 140 on Linux`, `curl 8.5`; `unknown program` where nothing was sent."""
    if not agent.strip():
        return "unknown program"
    system = next((f" on {name}" for pattern, name in _SYSTEMS if pattern.search(agent)), "")
    if agent.startswith("Mozilla/"):
        for pattern, name in _BROWSERS:
            if found := pattern.search(agent):
                return f"{name} {found[1]}{system}"
    elif tool := _TOOL.fullmatch(agent.split(maxsplit=1)[0]):
        return f"{tool[1]} {tool[2]}{system}"
    return agent if len(agent) <= RAW_CHARS else agent[: RAW_CHARS - 1] + "…"
