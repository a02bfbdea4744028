"""Durations and times are read in every usual spelling; anything else is an error at once, however long it is."""

from __future__ import annotations

import re
import time
import unicodedata
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
        ("2026-11-23T10:00:00z", datetime(2026, 11, 23, 10, tzinfo=UTC)),
        # The midnight that ends a day.
        ("2026-11-23T24:00", datetime(2026, 11, 23, 17, tzinfo=UTC)),
        ("2026-12-31T24:00:00Z", datetime(2027, 1, 1, tzinfo=UTC)),
        ("20261123T240000.000+02:00", datetime(2026, 11, 23, 22, tzinfo=UTC)),
        ("2026-11-23T24:00 02:00", datetime(2026, 11, 23, 22, tzinfo=UTC)),
        ("23/11/2026 24:00", datetime(2026, 11, 23, 17, tzinfo=UTC)),
        # In a query string a + is a blank.
        ("2026-11-23T10:00:00 02:00", datetime(2026, 11, 23, 8, tzinfo=UTC)),
        ("2026-11-23T10:00 02", datetime(2026, 11, 23, 8, tzinfo=UTC)),
        ("2026-11-23 10:00:00 02:00", datetime(2026, 11, 23, 8, tzinfo=UTC)),
        # With the day first, as in Viet Nam.
        ("23/11/2026", datetime(2026, 11, 22, 17, tzinfo=UTC)),
        ("3/4/2026", datetime(2026, 4, 2, 17, tzinfo=UTC)),
        ("23/11/2026 14:30", datetime(2026, 11, 23, 7, 30, tzinfo=UTC)),
        ("23-11-2026, 9:05:10", datetime(2026, 11, 23, 2, 5, 10, tzinfo=UTC)),
        ("23.11.2026T14:30:00.5Z", datetime(2026, 11, 23, 14, 30, 0, 500_000, tzinfo=UTC)),
        ("23/11/2026 14:30 02:00", datetime(2026, 11, 23, 12, 30, tzinfo=UTC)),
        # As eSMS's SendDate.
        ("2026/11/23 14:30:00", datetime(2026, 11, 23, 7, 30, tzinfo=UTC)),
        ("2026/1/3", datetime(2026, 1, 2, 17, tzinfo=UTC)),
    ],
)
def test_a_time_without_a_zone_is_in_the_one_that_is_set(text: str, expected: datetime) -> None:
    found = parse_time(text, VIETNAM)

    assert (found, found.utcoffset()) == (expected, timedelta(0))


def test_a_time_is_in_summer_time_when_its_zone_is() -> None:
    assert [parse_time(f"2026-{month}-01T12:00", ZoneInfo("Europe/Berlin")).hour for month in ("01", "07")] == [11, 10]


@pytest.mark.parametrize(
    ("now", "today"),
    [
        (datetime(2026, 11, 23, 16, 59, 59, tzinfo=UTC), 23),
        (datetime(2026, 11, 23, 17, tzinfo=UTC), 24),
    ],
)
@pytest.mark.parametrize(
    ("text", "days_ago"),
    [("today", 0), (" Yesterday ", 1), ("hôm nay", 0), (unicodedata.normalize("NFD", "Hôm Qua"), 1)],
)
def test_today_is_the_day_in_the_zone_that_is_set(text: str, days_ago: int, now: datetime, today: int) -> None:
    begin_of_today = datetime(2026, 11, today, tzinfo=VIETNAM)

    assert parse_time(text, VIETNAM, now) == begin_of_today - timedelta(days=days_ago)


@pytest.mark.parametrize("text", ["today", "yesterday", "hôm nay"])
def test_programs_do_not_say_today(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not a date or time such as .* 23/11/2026 14:30$"):
        parse_time(text, VIETNAM)


@pytest.mark.parametrize(
    "text",
    [
        *("", "tomorrow", "2 days ago", "1790000000", "10:00", "23/11", "23/11-2026", "\u0662\u0663/11/2026"),
        *("23/11/20261", "2026-11-23+07:00", "2026-11-23-05:00", "2026-11-23x10:00", "2026-11-23\u011110:00"),
    ],
)
def test_anything_else_is_no_time(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not a date or time such as 2026-11-23, .* today or yesterday$"):
        parse_time(text, VIETNAM, datetime.now(UTC))


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("11/23/2026", "there is no month 23: the day comes first"),
        ("23/11/26", "the year must have four digits"),
        ("30/02/2026", "there is no such day, or no such time"),
        ("00/11/2026", "there is no such day, or no such time"),
        ("23/11/2026 25:00", "there is no such day, or no such time"),
        ("23/11/2026 2:30 CH", "there is no such day, or no such time"),
        ("2026/02/30", "there is no such day, or no such time"),
        ("2026-13-01", "there is no such day, or no such time"),
        ("2026-02-30", "there is no such day, or no such time"),
        ("2026-11-23T25:00", "there is no such day, or no such time"),
        ("2026-11-23T24:00:01", "there is no such day, or no such time"),
        ("2026-11-23T10:00:60", "there is no such day, or no such time"),
        ("9999-12-31T24:00", "there is no such day, or no such time"),
    ],
)
def test_a_date_that_cannot_be_is_refused_in_words(text: str, hint: str) -> None:
    with pytest.raises(ValueError, match=re.escape(f"14:30 ({hint})")):
        parse_time(text, VIETNAM)


@pytest.mark.parametrize("text", ["0001-01-01", "9999-12-31T23:59:59-12:00"])
def test_a_time_outside_the_years_that_can_be_stored_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="lies outside the years"):
        parse_time(text, VIETNAM)


@pytest.mark.parametrize("length", [65, 20_000, 2_000_000])
@pytest.mark.parametrize(
    "part", ["T", "T ", " ", "0", "T 0", "2026-11-23T10:00:00 07:00", "7d", "é", "23/11/2026 ", "1/"]
)
def test_a_long_text_is_refused_without_being_searched(part: str, length: int) -> None:
    text = f"2026-11-23T10:00:00 {part * (length // len(part))}x"
    started = time.process_time()

    with pytest.raises(ValueError, match="is not a date or time") as caught:
        parse_time(text, VIETNAM)
    with pytest.raises(ValueError, match=r"30s, 10m, 72h or 7d"):
        parse_duration(text)

    assert len(str(caught.value)) < 200
    assert time.process_time() - started < 1
