"""LOG_FORMAT=json: every record is one object on one line, with its request, and without secrets."""

from __future__ import annotations

import json
import logging
import sys
from typing import TYPE_CHECKING, Any, NoReturn

import pytest
from hypothesis import given
from hypothesis import strategies as st

from webapp.support import log, log_context
from webapp.support.log_context import LogContext
from webapp.support.log_json import JsonFormatter
from webapp.support.settings import load_settings

if TYPE_CHECKING:
    from collections.abc import Iterator

SECRETS = ["the-callback-token", 'it\'s a "secret"\\ndeed', "mật khẩu"]


@pytest.fixture(autouse=True)
def no_request() -> Iterator[None]:
    log_context.current.set(None)
    yield
    log_context.current.set(None)


def fail(words: str) -> NoReturn:
    raise ValueError(words)


def written(message: str, *parameters: object, formatter: logging.Formatter | None = None, **extra: Any) -> str:
    """What is written for one record."""
    record = logging.LogRecord(
        "webapp.room", logging.WARNING, __file__, 1, message, parameters, extra.pop("exc_info", None)
    )
    record.created = 1795514400.123456
    record.__dict__ |= extra
    return (formatter or JsonFormatter()).format(record)


def test_a_record_is_an_object_that_begins_with_the_time() -> None:
    assert json.loads(written("said %s", "b")) == {
        "timestamp": "2026-11-24T10:00:00.123Z",
        "event": "said b",
        "level": "warning",
        "logger": "webapp.room",
    }


def test_fields_stand_under_their_own_names() -> None:
    found = json.loads(written("GET", fields=lambda: {"milliseconds": 1.5, "effect": "settled", "remote_addr": None}))

    assert (found["milliseconds"], found["effect"], found["remote_addr"]) == (1.5, "settled", None)


def test_a_traceback_is_inside_the_object() -> None:
    try:
        fail("first\nsecond")
    except ValueError:
        line = written("unexpected", exc_info=sys.exc_info())

    assert "\n" not in line
    assert json.loads(line)["exception"].endswith("ValueError: first\nsecond")
    assert "Traceback" in json.loads(line)["exception"]


@pytest.mark.parametrize("secret", SECRETS)
@pytest.mark.parametrize("spelling", [str, repr, json.dumps], ids=["plain", "repr", "json"])
def test_no_secret_is_shown_however_it_is_quoted(
    secret: str, spelling: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    for form in ("json", "text"):
        formatter = log.formatter(load_settings(esms_secret_key=secret, log_format=form))
        try:
            fail(spelling(secret))
        except ValueError:
            line = written("asked with %s", spelling(secret), formatter=formatter, exc_info=sys.exc_info())
        for shown in (line, *(json.loads(line).values() if form == "json" else ())):
            assert spelling(secret).strip("'\"") not in shown
            assert secret not in shown
        assert line.count("***") == 2


def test_every_line_of_a_request_has_its_id_and_its_call() -> None:
    context = LogContext("4f3c/req-1")
    log_context.current.set(context)
    assert json.loads(written("read"))["request_id"] == "4f3c/req-1"

    context.reference_id = "abc-1"
    found = json.loads(written("stored"))
    assert (found["request_id"], found["reference_id"]) == ("4f3c/req-1", "abc-1")

    log_context.current.set(None)
    assert "request_id" not in json.loads(written("idle"))


def test_a_request_without_an_id_gets_one_of_its_own() -> None:
    ids = []
    for _ in range(2):
        log_context.current.set(LogContext())
        ids += [json.loads(written("a"))["request_id"], json.loads(written("b"))["request_id"]]

    assert ids[0] == ids[1] != ids[2] == ids[3]
    assert all(len(one) == 16 for one in ids)


@pytest.mark.parametrize(
    "given", ["", " ", "a b", 'a"b', "a\nb", "a\x1b[2J", "é", "a,b", "<b>", "${x}", "a%0ab", "x" * 129, "a\\b", "'"]
)
def test_an_id_that_could_inject_something_is_replaced(given: str) -> None:
    log_context.current.set(LogContext(given))

    assert len(json.loads(written("a"))["request_id"]) == 16
    assert "request_id" not in written("a", formatter=log.Formatter())


def test_the_longest_id_of_a_proxy_is_kept() -> None:
    log_context.current.set(LogContext("x" * 128))

    assert json.loads(written("a"))["request_id"] == "x" * 128


def test_a_line_of_text_ends_with_the_id_that_a_proxy_gave_and_with_no_other() -> None:
    log_context.current.set(LogContext("req-1"))
    try:
        fail("x")
    except ValueError:
        first, *further = written("read", formatter=log.Formatter(), exc_info=sys.exc_info()).split("\n")
    assert first.endswith("WARNING webapp.room: read request_id=req-1")
    assert further

    log_context.current.set(LogContext())
    assert written("read", formatter=log.Formatter()).endswith(": read")


@given(message=st.text(), parameter=st.text(st.characters(exclude_categories=())))
def test_any_text_stays_on_its_line(message: str, parameter: str) -> None:
    line = written(message.replace("%", "%%") + "%s", parameter)

    assert line.isprintable()
    if "***" not in line:
        assert json.loads(line)["event"].encode("utf-16", "surrogatepass") == (message + parameter).encode(
            "utf-16", "surrogatepass"
        )
