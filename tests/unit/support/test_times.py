"""Durations and times are read in every usual spelling; anything else is an error at once, however long it is."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from webapp.support.times import parse_duration, parse_time

VIETNAM = ZoneInfo("Asia/Ho_Chi_Minh")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("0s", 0), ("30s", 30), ("010m", 600), ("72h", 259_200), (" 7d ", 604_800), ("3650d", 315_360_000)],
)
def test_a_duration_is_a_whole_number_and_a_unit(text: str, seconds: int) -> None:
    assert parse_duration(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "10",
        "m",
        "-1m",
        "+1m",
        "1.5h",
        "1e3s",
        "10 m",
        "10M",
        "1w",
        "1h30m",
        "٣s",
        "3651d",
        "315360001s",
        "9" * 5000,
    ],
)
def test_anything_else_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match=r"30s, 10m, 72h or 7d"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-11-23", datetime(2026, 11, 22, 17, tzinfo=UTC)),
        ("20261123", datetime(2026, 11, 22, 17, tzinfo=UTC)),
        ("2026-11-23T10:00", datetime(2026, 11, 23, 3, tzinfo=UTC)),
        (" 2026-11-23 10:00:00.123456 ", datetime(2026, 11, 23, 3, 0, 0, 123456, tzinfo=UTC)),
        ("2026-11-23T10:00:00Z", datetime(2026, 11, 23, 10, tzinfo=UTC)),
        ("2026-11-23T10:00:00+02:00", datetime(2026, 11, 23, 8, tzinfo=UTC)),
        ("2026-11-23T10:00:00-0530", datetime(2026, 11, 23, 15, 30, tzinfo=UTC)),
        # In a query string a + is a blank.
        ("2026-11-23T10:00:00 02:00", datetime(2026, 11, 23, 8, tzinfo=UTC)),
        ("2026-11-23T10:00 02", datetime(2026, 11, 23, 8, tzinfo=UTC)),
    ],
)
def test_a_time_without_a_zone_is_in_the_one_that_is_set(text: str, expected: datetime) -> None:
    found = parse_time(text, VIETNAM)

    assert (found, found.utcoffset()) == (expected, timedelta(0))


def test_a_time_is_in_summer_time_when_its_zone_is() -> None:
    assert [parse_time(f"2026-{month}-01T12:00", ZoneInfo("Europe/Berlin")).hour for month in ("01", "07")] == [11, 10]


@pytest.mark.parametrize(
    "text", ["", "yesterday", "23/11/2026", "2026-13-01", "2026-02-30", "1790000000", "2026-11-23T25:00", "10:00"]
)
def test_anything_else_is_no_time(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not an ISO 8601 date or time, such as 2026-11-23"):
        parse_time(text, VIETNAM)


@pytest.mark.parametrize("text", ["0001-01-01", "9999-12-31T23:59:59-12:00"])
def test_a_time_outside_the_years_that_can_be_stored_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="lies outside the years"):
        parse_time(text, VIETNAM)


@pytest.mark.parametrize("length", [65, 20_000, 2_000_000])
@pytest.mark.parametrize("part", ["T", "T ", " ", "0", "T 0", "2026-11-23T10:00:00 07:00", "7d", "é"])
def test_a_long_text_is_refused_without_being_searched(part: str, length: int) -> None:
    text = f"2026-11-23T10:00:00 {part * (length // len(part))}x"
    started = time.process_time()

    with pytest.raises(ValueError, match="is not an ISO 8601 date or time") as caught:
        parse_time(text, VIETNAM)
    with pytest.raises(ValueError, match=r"30s, 10m, 72h or 7d"):
        parse_duration(text)

    assert len(str(caught.value)) < 200
    assert time.process_time() - started < 1
