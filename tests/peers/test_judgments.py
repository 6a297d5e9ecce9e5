"""What judges a fleet finds what is wrong: made-up moments, books and answers."""

from __future__ import annotations

from pathlib import Path

import pytest
from load.bookserver import Entry, read_book
from load.fleetgate import choosing, most_committed
from load.paced import Answered, Ask, percentile
from load.seen import had_room, most_within


def test_the_most_in_any_span_is_found_wherever_it_lies() -> None:
    assert most_within([], 60) == 0
    assert most_within([0, 59.9, 1, 200, 201], 60) == 3
    assert most_within([0, 60], 60) == 1  # a span excludes its start
    assert most_within([0, 100, 100, 159, 160.5], 60) == 3


@pytest.mark.parametrize(
    ("sent", "ended", "room"),
    [
        (50.0, 50.1, False),  # two lie within the minute before
        (60.5, 60.6, True),  # the first has left it, and none came
        (60.5, 70.5, False),  # one came before it was answered
        (9.0, 9.5, True),
    ],
)
def test_a_refusal_is_right_if_the_minute_was_full_at_some_moment_of_it(
    sent: float, ended: float, room: bool
) -> None:
    refused = Answered("key", sent, ended, 429, "rate_limit_exceeded")
    admitted = [0, 11_000_000, 70_000_000]
    assert had_room(refused, admitted, 2, above=0.0) is room


def entry(came: float, ended: float | None) -> Entry:
    return Entry(f"request-{came}", "key", came, input=2, output=0, ended=ended)


def test_what_is_committed_are_holds_of_what_runs_and_charges_of_what_ran() -> None:
    assert most_committed([], 5000) == 0
    assert most_committed([entry(0, 1), entry(2, 3)], 5000) == 6000
    assert most_committed([entry(0, 2), entry(1, 3), entry(2.5, None)], 5000) == 11_000
    assert most_committed([entry(0, 1), entry(1, 2)], 5000) == 6000  # one ends as the other begins


def test_a_book_is_read_and_a_request_that_came_twice_is_found(tmp_path: Path) -> None:
    file = tmp_path / "book"
    file.write_text("came 1000000000 r1 k1 7 2\nwent 2500000000 r1\ncame 3000000000 r2 k1 8 3\n")
    first, second = read_book(file)
    assert (first.came, first.ended, first.nanousd) == (1.0, 2.5, 7 * 500 + 2 * 1500)
    assert (second.request_id, second.ended) == ("r2", None)
    file.write_text(file.read_text() + "came 4000000000 r1 k1 7 2\n")
    with pytest.raises(AssertionError, match="r1 reached the server twice"):
        read_book(file)


def test_each_is_asked_as_often_as_its_weight_says() -> None:
    choose = choosing([lambda: Ask("often", b""), lambda: Ask("rare", b"")], [3, 1])
    assert [choose().label for _ in range(8)].count("rare") == 2


def test_a_percentile_is_one_of_the_values() -> None:
    assert percentile([], 99) == 0
    assert percentile([3.0, 1.0, 2.0], 50) == 2.0
    assert percentile([float(n) for n in range(101)], 99) == 99.0
