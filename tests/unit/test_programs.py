"""What sessions are called: browsers as they are, tools, and what says nothing of the kind."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from admin.web.programs import RAW_CHARS, program

WEBKIT = "AppleWebKit/537.36 (KHTML, like Gecko)"
MAC = "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7)"
WINDOWS = "Mozilla/5.0 (Windows NT 10.0; Win64; x64)"
LINUX = "Mozilla/5.0 (X11; Linux x86_64"
IPHONE = "Mozilla/5.0 (iPhone; CPU iPhone OS 18_5 like Mac OS X) AppleWebKit/605.1.15"
ANDROID = "Mozilla/5.0 (Linux; Android 10; K)"


@pytest.mark.parametrize(
    ("agent", "said"),
    [
        (f"{LINUX}) {WEBKIT} Chrome/140.0.0.0 Safari/537.36", "Chrome 140 on Linux"),
        (
            f"{LINUX}) {WEBKIT} HeadlessChrome/140.0.7339.185 Safari/537.36",
            "Headless Chrome 140 on Linux",
        ),
        (
            f"{LINUX}) {WEBKIT} Ubuntu Chromium/80.0.3987 Chrome/80.0.3987 Safari/537.36",
            "Chromium 80 on Linux",
        ),
        (f"{WINDOWS} {WEBKIT} Chrome/140.0.0.0 Safari/537.36 Edg/140.0.0.0", "Edge 140 on Windows"),
        (f"{WINDOWS} {WEBKIT} Chrome/138.0.0.0 Safari/537.36 OPR/122.0.0", "Opera 122 on Windows"),
        (f"{LINUX}; rv:142.0) Gecko/20100101 Firefox/142.0", "Firefox 142 on Linux"),
        (
            f"{MAC} AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.6 Safari/605.1.15",
            "Safari 18 on macOS",
        ),
        (
            f"{IPHONE} (KHTML, like Gecko) Version/18.5 Mobile/15E148 Safari/604.1",
            "Safari 18 on iPhone",
        ),
        (
            f"{IPHONE} (KHTML, like Gecko) CriOS/140.0.7339.39 Mobile/15E148 Safari/604.1",
            "Chrome 140 on iPhone",
        ),
        (f"{ANDROID} {WEBKIT} Chrome/140.0.0.0 Mobile Safari/537.36", "Chrome 140 on Android"),
        (
            f"{ANDROID} {WEBKIT} SamsungBrowser/28.0 Chrome/130.0.0.0 Mobile Safari/537.36",
            "Samsung Internet 28 on Android",
        ),
        (
            "Mozilla/5.0 (X11; CrOS x86_64 14541.0.0) AppleWebKit/537.36 (KHTML, like Gecko) "
            "Chrome/139.0.0.0 Safari/537.36",
            "Chrome 139 on ChromeOS",
        ),
        ("curl/8.5.0", "curl 8.5"),
        ("python-httpx/0.28.1", "python-httpx 0.28"),
        ("a test", "a test"),
        ("Mozilla/5.0 (compatible)", "Mozilla/5.0 (compatible)"),
        ("", "unknown program"),
        ("  ", "unknown program"),
        ("x" * 200, "x" * (RAW_CHARS - 1) + "…"),
    ],
)
def test_what_a_session_is_called(agent: str, said: str) -> None:
    assert program(agent) == said


@given(st.text(max_size=256))
def test_anything_has_a_short_name(agent: str) -> None:
    assert 0 < len(program(agent)) <= RAW_CHARS + 20
