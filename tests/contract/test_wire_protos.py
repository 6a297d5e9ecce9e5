"""The same bytes, read by our protobuf code and by envoy-data-plane: they must mean the same.

The real bytes in data/ are Envoy's own, see capture_wire.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest
from betterproto2 import WIRE_LEN_DELIM, encode_varint
from contract.wire_peers import messages, our_reading, their_class, their_reading
from contract.wire_samples import CHAT, CHECKS, ENTRIES, LOGS, RESPONSES
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st

from authz.pb.accesslog_entry_pb2 import AccessLogType, HTTPAccessLogEntry, ResponseFlags
from authz.pb.accesslog_pb2 import StreamAccessLogsMessage
from authz.pb.auth_pb2 import CheckRequest, CheckResponse

if TYPE_CHECKING:
    import betterproto2
    from google.protobuf.message import Message

# envoy-data-plane says so of a field that Envoy still sends.
pytestmark = pytest.mark.filterwarnings(
    "ignore:AccessLogCommon.intermediate_log_entry is deprecated:DeprecationWarning"
)

DATA: Final = Path(__file__).parent / "data"
AUTHZ: Final = "envoy.filters.http.ext_authz"
SAMPLES: Final = [
    pytest.param(kind, sample, id=f"{kind.DESCRIPTOR.name}: {name}")
    for kind, samples in (
        (CheckRequest, CHECKS),
        (CheckResponse, RESPONSES),
        (HTTPAccessLogEntry, ENTRIES),
        (StreamAccessLogsMessage, LOGS),
    )
    for name, sample in samples.items()
]
REAL: Final = sorted(DATA.glob("*.binpb"))


def read_alike(kind: type[Message], wire: bytes) -> Message:
    """Assert that both readings of some bytes agree and that ours loses nothing; return ours."""
    ours = kind.FromString(wire)
    theirs = their_class(kind.DESCRIPTOR).parse(wire)
    assert our_reading(ours) == their_reading(theirs, kind.DESCRIPTOR)
    # Compared whole, also what our .proto leave out: we hand it on as it came.
    assert their_class(kind.DESCRIPTOR).parse(ours.SerializeToString()) == theirs
    return ours


def real_entries(name: str) -> list[HTTPAccessLogEntry]:
    batches = [
        StreamAccessLogsMessage.FromString(path.read_bytes())
        for path in REAL
        if path.name.startswith(f"log-{name}-")
    ]
    return [
        HTTPAccessLogEntry.FromString(each)
        for batch in batches
        for each in batch.http_logs.log_entry
    ]


class TestRealBytes:
    @pytest.mark.parametrize(
        "path", [p for p in REAL if "tagged" not in p.name], ids=lambda p: p.stem
    )
    def test_are_read_alike(self, path: Path) -> None:
        kind = CheckRequest if path.stem.startswith("check") else StreamAccessLogsMessage
        assert our_reading(read_alike(kind, path.read_bytes()))

    def test_of_a_check(self) -> None:
        check = CheckRequest.FromString((DATA / "check-allowed.binpb").read_bytes()).attributes
        assert check.request.http.raw_body == CHAT
        assert check.request.http.size == len(CHAT)
        assert check.request.http.path == "/v1/chat/completions?beta=true"
        assert check.request.http.headers["x-request-id"]
        assert check.request.http.headers["x-odd"] == "!(,twice", "not UTF-8, joined"
        assert check.source.address.socket_address.address == "127.0.0.1"
        assert check.context_extensions == {"route": "models"}

    def test_of_a_streamed_answer(self) -> None:
        running, ended = (entry.common_properties for entry in real_entries("streamed"))
        assert running.access_log_type == AccessLogType.DownstreamPeriodic
        assert not running.HasField("duration")
        assert ended.access_log_type == AccessLogType.DownstreamEnd
        assert ended.duration.ToMilliseconds() > 1000
        assert ended.stream_id == running.stream_id
        for entry in (running, ended):
            assert entry.metadata.filter_metadata[AUTHZ]["hold_id"] == "hold_1"
            assert entry.HasField("upstream_remote_address")

    def test_of_a_client_that_left(self) -> None:
        (entry,) = real_entries("disconnected")
        assert entry.response.response_code_details == "downstream_remote_disconnect"
        assert entry.common_properties.response_flags == ResponseFlags(
            downstream_connection_termination=True
        )

    def test_of_a_denial_and_of_a_failure(self) -> None:
        (denied,), (failed,) = real_entries("denied"), real_entries("unavailable")
        for entry in (denied, failed):
            flags = entry.common_properties.response_flags
            assert flags.unauthorized_details.reason
            assert not entry.common_properties.HasField("upstream_remote_address")
        assert denied.response.response_code.value == 429
        assert denied.common_properties.metadata.filter_metadata[AUTHZ]["outcome"] == "denied"
        assert failed.response.response_code.value == 503
        assert AUTHZ not in failed.common_properties.metadata.filter_metadata

    def test_that_are_not_utf_8_in_a_custom_tag_do_no_harm(self) -> None:
        wire = (DATA / "log-tagged-0.binpb").read_bytes()
        with pytest.raises(UnicodeDecodeError):
            their_class(StreamAccessLogsMessage.DESCRIPTOR).parse(wire)
        (entry,) = real_entries("tagged")
        assert entry.request.path == "/tagged"


@pytest.mark.parametrize(("kind", "sample"), SAMPLES)
def test_written_bytes_are_read_alike(kind: type[Message], sample: betterproto2.Message) -> None:
    read_alike(kind, bytes(sample))


@pytest.mark.parametrize(
    "kind", [CheckRequest, CheckResponse, HTTPAccessLogEntry, StreamAccessLogsMessage]
)
@settings(max_examples=60, deadline=None)
@given(draw=st.data())
def test_generated_bytes_are_read_alike_both_ways(kind: type[Message], draw: st.DataObject) -> None:
    ours = draw.draw(messages(kind.DESCRIPTOR))
    wire = ours.SerializeToString()
    read_alike(kind, wire)
    back = bytes(their_class(kind.DESCRIPTOR).parse(wire))
    assert our_reading(kind.FromString(back)) == our_reading(ours)


@given(
    entry=messages(HTTPAccessLogEntry.DESCRIPTOR),
    unknown=st.dictionaries(st.integers(100, 2**29 - 1), st.binary(max_size=9), max_size=4),
)
@settings(max_examples=25, deadline=None)
def test_fields_of_a_later_envoy_are_kept_and_do_no_harm(
    entry: HTTPAccessLogEntry, unknown: dict[int, bytes]
) -> None:
    later = b"".join(
        encode_varint(number << 3 | WIRE_LEN_DELIM) + encode_varint(len(value)) + value
        for number, value in unknown.items()
    )
    read = HTTPAccessLogEntry.FromString(later + entry.SerializeToString())
    assert our_reading(read) == our_reading(entry)
    theirs = their_class(HTTPAccessLogEntry.DESCRIPTOR).parse(read.SerializeToString())
    assert theirs._unknown_fields == later


def test_an_entry_that_cannot_be_read_takes_no_other_along() -> None:
    good = bytes(ENTRIES["streamed"])
    bad = good.replace(b"completion_tokens", b"completion\xfftokens")
    batch = StreamAccessLogsMessage(http_logs={"log_entry": [good, bad, good]})
    first, second, third = StreamAccessLogsMessage.FromString(
        batch.SerializeToString()
    ).http_logs.log_entry
    with pytest.raises(DecodeError):
        HTTPAccessLogEntry.FromString(second)
    assert HTTPAccessLogEntry.FromString(first) == HTTPAccessLogEntry.FromString(third)


def test_metadata_is_numbers_and_text_only() -> None:
    """What nobody can unpack is never met: MessageToDict would raise on it."""
    entry = HTTPAccessLogEntry.FromString(bytes(ENTRIES["streamed"]))
    told = MessageToDict(entry.common_properties.metadata)
    assert told["filterMetadata"]["usage"]["completion_tokens"] == 4096
    assert "typedFilterMetadata" not in told
