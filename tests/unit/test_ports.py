"""Addresses as people write them, and what is said of a port that is taken."""

import os
import socket

import pytest

from tensorgate import ports
from tensorgate.ports import Address


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("127.0.0.1:8000", "127.0.0.1", 8000),
        ("gpu-a.internal:1", "gpu-a.internal", 1),
        ("model_server:65535", "model_server", 65535),
        ("[::1]:8000", "::1", 8000),
        ("[0:0::1]:8000", "::1", 8000),
    ],
)
def test_an_address_is_read_and_written_in_one_way(text: str, host: str, port: int) -> None:
    address = ports.parse_address(text)
    assert address == Address(host, port)
    assert ports.parse_address(str(address)) == address


@pytest.mark.parametrize(
    "text",
    [
        *("", "8000", ":8000", "host", "host:", "host:0", "host:65536", "host:8000/v1", "host:+1"),
        *("host:٣", "::1:8000", "[::1]", "[host]:1", "a b:1", "user@host:1", "-a:1", "a..b:1"),
        *("host\n:1", "host:1\n", "http://host:1", "é:1"),
    ],
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        ports.parse_address(text)


@pytest.mark.parametrize(("text", "ip"), [("localhost", "127.0.0.1"), ("::", "::")])
def test_an_ip_is_read(text: str, ip: str) -> None:
    assert ports.parse_ip(text) == ip


@pytest.mark.parametrize("text", ["", "gate.example.org", "127.0.0.1:80", "300.1.1.1", "[::1]"])
def test_what_is_no_ip_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not an IP address"):
        ports.parse_ip(text)


def test_a_wildcard_is_reached_by_loopback_and_shown_as_something_that_can_be_called() -> None:
    assert ports.reach("0.0.0.0") == "127.0.0.1"
    assert ports.reach("::") == "::1"
    assert ports.reach("10.1.2.3") == "10.1.2.3"
    assert ports.public_face("127.0.0.1") == "127.0.0.1"
    assert ports.public_face("0.0.0.0") != "0.0.0.0"


def test_a_free_port_is_free_and_a_taken_one_names_who_listens() -> None:
    address = Address("127.0.0.1", ports.free_port("127.0.0.1"))
    assert ports.why_not(address) is None
    with socket.create_server(("127.0.0.1", address.port)):
        why = ports.why_not(address)
        assert why is not None
        assert why.startswith("taken by ")
        assert why.endswith(f"(pid {os.getpid()})")
        # a wildcard listener cannot have it either
        assert ports.why_not(Address("0.0.0.0", address.port)) == why
    assert ports.why_not(address) is None
    assert ports.holder(address.port) is None


def test_a_connection_that_lingers_does_not_take_a_port() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = Address("127.0.0.1", server.getsockname()[1])
        client = socket.create_connection(server.getsockname())
        accepted, _ = server.accept()
        accepted.close()  # the listener's side closes first: TIME_WAIT is at its port
        client.close()
    assert ports.why_not(address) is None


def test_one_that_shares_its_port_still_holds_it() -> None:
    with socket.socket() as envoy_like:
        envoy_like.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        envoy_like.bind(("127.0.0.1", 0))
        envoy_like.listen()
        assert ports.why_not(Address("127.0.0.1", envoy_like.getsockname()[1])) is not None


def test_an_address_that_is_not_of_this_machine_is_said_so() -> None:
    assert ports.why_not(Address("192.0.2.1", 8080)) == "cannot assign requested address"
