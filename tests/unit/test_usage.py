"""From Envoy's log entry to how a request ended: hostile entries, dialects, what is relied on."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from moneysupport import ALLOWED, ENDING, entry
from msgspec.structs import replace

from authz.pb.accesslog_entry_pb2 import AccessLogType, HTTPAccessLogEntry
from authz.usage import DECISION, Ending, Usage, read_ending

WHOLE = {"input": "100", "output": "20", "cached_inside": "1", "final": "1", "format": "json"}


def usage_of(**seen: Any) -> tuple[Usage | None, bool]:
    ending = read_ending(entry(ALLOWED, seen))
    return ending.usage, ending.final


def test_an_answer_that_was_read_whole() -> None:
    whole = replace(ENDING, usage=Usage(100, 0, 0, 20), final=True)
    assert read_ending(entry(ALLOWED, WHOLE)) == whole


def grpc_call(dialect: str = "grpc", **ended: dict[str, str]) -> Ending:
    made = entry({**ALLOWED, "dialect": dialect}, {})
    for name, values in ended.items():
        getattr(made.response, f"response_{name}").update(values)
    return read_ending(made)


@pytest.mark.parametrize(
    ("code", "status"),
    [("0", 200), ("5", 404), ("3", 400), ("14", 503), ("2", 500), ("13", 500), ("x", 500)],
)
@pytest.mark.parametrize("place", ["trailers", "headers"])
def test_a_grpc_calls_own_error(place: str, code: str, status: int) -> None:
    """On the wire it is a 200, in the trailers, or in the headers of an answer without a body."""
    ending = grpc_call(**{place: {"grpc-status": code}})
    assert (ending.status, ending.failed) == (status, status != 200)


@pytest.mark.parametrize(("code", "status"), [("1", 499), ("4", 504)])
@pytest.mark.parametrize("place", ["trailers", "headers"])
def test_a_call_that_its_client_ended_is_not_free(place: str, code: str, status: int) -> None:
    """A client's `grpc-timeout` makes the server end the call, whatever it has done by then."""
    ending = grpc_call(**{place: {"grpc-status": code}})
    assert (ending.status, ending.answered, ending.failed) == (status, False, False)
    assert (ending.reached, ending.complete) == (True, False)


def test_a_servers_word_of_grpc_counts_in_a_grpc_call_alone() -> None:
    assert not grpc_call("openai", headers={"grpc-status": "5"}).failed
    assert not grpc_call().failed


def test_nothing_at_all() -> None:
    ending = read_ending(HTTPAccessLogEntry())
    assert (ending.request_id, ending.outcome, ending.hold_id) == ("", "", None)
    assert ending.account_id == ""
    assert (ending.reached, ending.answered, ending.running) == (False, False, False)
    assert (ending.status, ending.duration_us, ending.usage, ending.final) == (0, 0, None, False)


# -- tokens


def test_the_same_prompt_is_the_same_in_both_dialects() -> None:
    openai = usage_of(input="1000", cached="900", cached_inside="1", output="7", final="1")
    anthropic = usage_of(input="100", cached="900", cached_inside="0", output="7", final="1")
    assert openai == anthropic == (Usage(100, 900, 0, 7), True)


def test_what_was_written_to_a_cache_is_counted_beside_the_input() -> None:
    found, _ = usage_of(input="5", cached="10", cache_write="20", cached_inside="0", output="1")
    assert found == Usage(5, 10, 20, 1)


def test_more_cached_than_there_was_is_not_less_than_nothing() -> None:
    found, _ = usage_of(input="10", cached="900", cached_inside="1", output="1")
    assert found == Usage(0, 10, 0, 1)


NO_COUNTS = [
    *("", "-1", "+1", " 1", "1.0", "1e3", "0x10", "NaN", "Infinity", "٣", "1_000", "null"),
    *("9" * 13, "1" * 400, 5, 5.5, True, None, ["1"], {"n": "1"}),
]


@pytest.mark.parametrize("value", NO_COUNTS)
def test_a_count_that_is_none_is_left_out(value: Any) -> None:
    assert usage_of(input=value, output=value, final="1") == (None, False)
    ending = read_ending(entry(ALLOWED, {"events": value, "content_bytes": value}))
    assert (ending.events, ending.content_bytes) == (0, 0)


@pytest.mark.parametrize("value", ["", "-1", "9" * 13, "x"])
@pytest.mark.parametrize("name", ["input", "output", "cached", "cache_write"])
def test_a_usage_with_a_hole_is_not_the_whole(name: str, value: str) -> None:
    """Else a server that says nonsense of its input would be paid for its output alone."""
    _, final = usage_of(**(WHOLE | {name: value}))
    assert not final


@pytest.mark.parametrize("name", ["input", "output"])
def test_nor_is_one_without_input_or_output(name: str) -> None:
    found, final = usage_of(**{each: v for each, v in WHOLE.items() if each != name})
    assert found is not None
    assert not final


@pytest.mark.parametrize("value", ["0", "", "true", "yes", 1, True])
def test_final_is_said_in_one_way(value: Any) -> None:
    assert not usage_of(**(WHOLE | {"final": value}))[1]


def test_zeros_are_numbers() -> None:
    assert usage_of(input="0", output="0", final="1") == (Usage(0, 0, 0, 0), True)
    assert usage_of(input="999999999999", output="007", final="1") == (
        Usage(999_999_999_999, 0, 0, 7),
        True,
    )


# -- how it ended


@pytest.mark.parametrize(
    ("kind", "flag", "running"),
    [
        (AccessLogType.DownstreamEnd, False, False),
        (AccessLogType.NotSet, False, False),
        (AccessLogType.DownstreamPeriodic, True, True),
        (AccessLogType.DownstreamPeriodic, False, True),  # the flag is on its way out
        (AccessLogType.DownstreamStart, False, True),
        (AccessLogType.UpstreamEnd, False, True),
        (AccessLogType.NotSet, True, True),
    ],
)
def test_which_entries_are_ends(kind: AccessLogType, flag: bool, running: bool) -> None:
    made = entry(ALLOWED, running=flag)
    made.common_properties.access_log_type = kind
    assert read_ending(made).running is running


def test_reached_is_that_a_server_got_some_of_it() -> None:
    assert read_ending(entry(ALLOWED)).reached
    assert not read_ending(entry(ALLOWED, sent=False)).reached


@pytest.mark.parametrize(
    ("details", "got", "failed"),
    [
        ("via_upstream", True, True),
        ("downstream_remote_disconnect", True, True),
        ("upstream_reset_after_response_started{connection_termination}", True, True),
        ("downstream_remote_disconnect", False, False),
        ("response_timeout", False, False),
        ("response_timeout", True, False),
        ("upstream_reset_before_response_started{connection_termination}", False, False),
        ("upstream_reset_before_response_started{connection_failure}", False, False),
        ("stream_idle_timeout", False, False),
        ("ext_authz_denied", False, False),
        ("", True, False),
    ],
)
def test_only_an_error_of_the_servers_own_is_one(details: str, got: bool, failed: bool) -> None:
    ending = read_ending(entry(ALLOWED, status=503, details=details, got=got))
    assert ending.failed is failed


@pytest.mark.parametrize(
    ("status", "failed"), [(200, False), (302, False), (399, False), (400, True)]
)
def test_which_statuses_are_errors(status: int, failed: bool) -> None:
    assert read_ending(entry(ALLOWED, status=status)).failed is failed


def test_a_status_that_no_row_can_hold_is_unknown() -> None:
    assert read_ending(entry(ALLOWED, status=4_000_000_000)).status == 0
    assert read_ending(entry(ALLOWED, status=0)).status == 0


def test_time_is_counted_from_when_the_request_was_there() -> None:
    """A slow upload is the client's, and over before the request is admitted."""
    slow = read_ending(entry(ALLOWED, upload_ms=30_000, duration_ms=32_500))
    assert slow.duration_us == 2_500_000
    assert read_ending(entry(ALLOWED, upload_ms=10, duration_ms=3)).duration_us == 0


@pytest.mark.parametrize(
    ("first_ms", "first_us"),
    [
        ("1795000000260", 250_000),  # the request was there 10 ms after its start
        ("1795000000010", 1),
        ("1794000000000", 1),  # a clock that was set back
        ("1796000000000", 1_000_000),  # and one that was set forward: no longer than all of it
        ("9" * 16, 0),
        ("1795000000260.5", 0),
        ("-5", 0),
        ("", 0),
    ],
)
def test_the_first_token_is_counted_from_there_too(first_ms: str, first_us: int) -> None:
    made = entry(ALLOWED, WHOLE | {"first_ms": first_ms})
    made.common_properties.start_time.FromSeconds(1_795_000_000)
    assert read_ending(made).first_us == first_us
    assert read_ending(entry(ALLOWED, WHOLE)).first_us == 0


def test_a_decision_is_read_as_text_only() -> None:
    made = entry({"outcome": "allowed", "hold_id": ""})
    assert read_ending(made).hold_id is None
    made.common_properties.metadata.filter_metadata[DECISION].update(
        {"hold_id": 5, "account_id": 7, "outcome": []}
    )
    ending = read_ending(made)
    assert (ending.hold_id, ending.account_id, ending.outcome) == (None, "", "")


@pytest.mark.parametrize("value", ["", "0", "true", 1, None])
def test_that_output_is_hidden_is_said_in_one_way(value: Any) -> None:
    assert read_ending(entry({**ALLOWED, "hides_output": "1"}, WHOLE)).hides_output
    assert not read_ending(entry({**ALLOWED, "hides_output": value}, WHOLE)).hides_output
    assert not read_ending(entry(ALLOWED, {**WHOLE, "hides_output": "1"})).hides_output


def test_an_encoded_answer() -> None:
    assert read_ending(entry(ALLOWED, {"format": "other", "encoded": "gzip"})).encoded
    assert not read_ending(entry(ALLOWED, {"format": "json"})).encoded


VALUES = st.one_of(st.text(max_size=15), st.floats(), st.booleans(), st.none())
SEEN = st.dictionaries(
    st.sampled_from(
        [
            *("input", "cached", "cache_write", "output", "final", "cached_inside", "events"),
            *("content_bytes", "format", "encoded", "hold_id", "account_id", "outcome"),
        ]
    ),
    st.one_of(VALUES, st.integers(0, 10**13).map(str)),
)


@given(SEEN, SEEN)
def test_no_entry_is_too_much(decision: Any, seen: Any) -> None:
    made = entry(decision, seen)
    ending = read_ending(made)
    if ending.usage is not None:
        counts = (
            ending.usage.input,
            ending.usage.cached_input,
            ending.usage.cache_write,
            ending.usage.output,
        )
        assert all(0 <= each < 10**12 for each in counts)
    assert ending.events >= 0
    assert not ending.final or ending.usage is not None
