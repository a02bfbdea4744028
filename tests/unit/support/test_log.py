"""Log lines: they show no secret, and no sender can forge one."""

from __future__ import annotations

import io
import json
import logging
import re
import sys
from typing import TYPE_CHECKING, NoReturn
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from webapp.support import log, log_context
from webapp.support.log import Formatter, configure
from webapp.support.log_context import LogContext
from webapp.support.log_json import JsonFormatter
from webapp.support.redaction import redact
from webapp.support.settings import load_settings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BEGINNING = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} [A-Z]+ [\w.]+: ")
SECRETS = {
    "CALLBACK_TOKEN": "the-callback-token,the-old-callback-token",
    "API_TOKEN": "the-token-of-the-api,the-old-token-of-the-api",
    "ESMS_API_KEY": "KEY/+=%",
    "ESMS_SECRET_KEY": "secret key&more",
    "DATABASE_URL": "postgresql://user:p%40ss%2Fword%20x@127.0.0.1/calls",
}
SHOWN_NOWHERE = [
    "the-callback-token",
    "the-old-callback-token",
    "the-token-of-the-api",
    "the-old-token-of-the-api",
    "KEY/+=%",
    "secret key&more",
    "p@ss/word x",
]


def line(message: str, *parameters: object, formatter: Formatter | None = None, failed: bool = False) -> str:
    """What is written for one record."""
    exc_info = sys.exc_info() if failed else None
    record = logging.LogRecord("webapp.room", logging.WARNING, __file__, 1, message, parameters, exc_info)
    return (formatter or Formatter()).format(record)


def fail(words: str) -> NoReturn:
    raise ValueError(words)


@pytest.fixture
def secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    monkeypatch.chdir(tmp_path)
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    return load_settings().secrets()


# Secrets


@pytest.mark.parametrize("secret", SHOWN_NOWHERE)
def test_no_secret_is_shown_in_a_message_a_parameter_or_an_error(secrets: tuple[str, ...], secret: str) -> None:
    formatter = Formatter(secrets)
    digits = "".join(f"%{byte:02x}" for byte in secret.encode())
    for spelling in (secret, quote(secret, safe=""), digits, quote(digits, safe="")):
        try:
            fail(f"asked ?ApiKey={spelling}&x=1")
        except ValueError:
            written = line("asked http://host/?ApiKey=%s&x=1", spelling, formatter=formatter, failed=True)
        assert spelling not in written
        assert "ValueError: asked ?ApiKey=***&x=1" in written
        assert "http://host/?ApiKey=***&x=1" in written
        assert redact(f"x{spelling}y", secrets) == "x***y"


@pytest.mark.parametrize(
    "url",
    [
        "/esms/callback/some-token-of-a-person",
        "/esms/callback/some-token%20of-a-person?ReferenceId=a",
        "http://host/esms/callback/some-token-of-a-person",
        "'GET /esms/callback/some-token-of-a-person HTTP/9.9'",
        "/esms/callback/some/token",
    ],
)
def test_text_in_the_place_of_a_callback_token_is_not_shown(url: str) -> None:
    written = line("Invalid request: %s", url)

    assert "some" not in written
    assert "/esms/callback/***" in written


def test_a_longer_secret_that_begins_with_a_shorter_one_is_redacted_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CALLBACK_TOKEN", "aaaaaaaaaaaaaaaa,aaaaaaaaaaaaaaaa-and-more")

    assert redact("aaaaaaaaaaaaaaaa-and-more", load_settings().secrets()) == "***"


def test_a_key_of_three_letters_is_left_for_it_occurs_in_words() -> None:
    assert redact("not many calls, asked with key any4", ["any", "any4"]) == "not many calls, asked with key ***"


# Forging


@pytest.mark.parametrize(
    "separator", ["\n", "\r", "\r\n", "\v", "\f", "\x1c", "\x1d", "\x1e", "\x85", "\u2028", "\u2029"]
)
def test_no_parameter_can_forge_a_line(separator: str) -> None:
    forged = f"x{separator}2026-11-23 10:00:00,000 INFO access: 203.0.113.7 GET /esms/callback/<token> 200 1.0ms"

    beginnings = [bool(BEGINNING.match(written)) for written in line("callback %s", forged).splitlines()]

    assert beginnings[0]
    assert not any(beginnings[1:])


@pytest.mark.parametrize("control", ["\x1b[2J", "\x00", "\x07", "\x08", "\x7f\x9b2J", "\x9d", "\u202e", "\u2066"])
def test_terminals_get_nothing_but_text(control: str) -> None:
    written = line("callback %s.", control)

    assert control not in written
    assert not re.search(r"[\x00-\x1f\x80-\x9f\x7f]", written)
    assert written.endswith(".")


def test_the_further_lines_of_a_traceback_begin_with_a_bar() -> None:
    try:
        fail("first\n2026-11-23 10:00:00,000 INFO access: forged\rsecond")
    except ValueError:
        first, *further = line("unexpected", failed=True).split("\n")

    assert BEGINNING.match(first)
    assert len(further) >= 4
    assert all(written.startswith("  | ") for written in further)
    assert further[-1] == "  | 2026-11-23 10:00:00,000 INFO access: forged\\x0dsecond"


@given(message=st.text(), parameter=st.text(st.characters(exclude_categories=())))
def test_any_logged_text_stays_within_its_lines(message: str, parameter: str) -> None:
    written = line(message.replace("%", "%%") + "%s", parameter)

    first, *further = written.splitlines()
    assert BEGINNING.match(first)
    assert all(text.startswith("  | ") for text in further)
    assert written.encode()


# Where it goes


def test_everything_goes_to_standard_error_without_secrets(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    monkeypatch.setattr(logging.getLogger(), "level", logging.WARNING)

    configure(load_settings(esms_secret_key="the-secret"))
    logging.getLogger("webapp.room").info("said %s", "the-secret")
    logging.getLogger("urllib3.connectionpool").debug("GET /GetSendStatus?ApiKey=unknown-key")

    out, err = capsys.readouterr()
    assert out == ""
    assert BEGINNING.match(err)
    assert err.endswith("INFO webapp.room: said ***\n")
    assert err.count("\n") == 1


def test_a_process_that_has_a_log_handler_keeps_it(monkeypatch: pytest.MonkeyPatch) -> None:
    handler = logging.NullHandler()
    monkeypatch.setattr(logging.getLogger(), "handlers", [handler])

    configure(load_settings())

    assert logging.getLogger().handlers == [handler]


@pytest.mark.parametrize("make", [Formatter, JsonFormatter])
def test_a_handler_that_is_there_already_hides_what_became_secret_since(
    monkeypatch: pytest.MonkeyPatch, make: type[Formatter]
) -> None:
    """A worker that starts after a rotation has the handlers of a server that started before it."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(make(["the-old-secret"]))
    monkeypatch.setattr(logging.getLogger(), "handlers", [handler])

    configure(load_settings(esms_secret_key="the-new-secret"))
    logging.getLogger("webapp.room").warning("said the-old-secret and %s", "the-new-secret")

    assert "said *** and ***" in stream.getvalue()


# The lines of requests


def of_a_request(words: str) -> None:
    log.info(logging.getLogger("access"), words, lambda: {"event": "request", "words": words})


@pytest.fixture
def stream(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(Formatter(["the-secret"]))
    monkeypatch.setattr(logging.getLogger(), "handlers", [handler])
    before = logging.getLogger().level
    logging.getLogger().setLevel(logging.INFO)
    yield stream
    logging.getLogger().setLevel(before)


@given(words=st.text(), request_id=st.none() | st.just("a-1"))
def test_the_line_of_a_request_is_that_of_any_record(words: str, request_id: str | None) -> None:
    formatter = Formatter(["the-secret"])
    log_context.current.set(LogContext(request_id))
    for message in (words, f"{words} the-secret\n\x1b[2J"):
        direct = formatter.line("INFO", "access", message)
        record = logging.LogRecord("access", logging.INFO, __file__, 1, "%s", (message,), None)
        assert BEGINNING.sub("", direct) == BEGINNING.sub("", formatter.format(record))
        assert BEGINNING.match(direct)
    log_context.current.set(None)


def test_the_line_of_a_request_shows_no_secret_and_ends(stream: io.StringIO) -> None:
    of_a_request("200 the-secret")

    assert re.fullmatch(rf"{BEGINNING.pattern}200 \*\*\*\n", stream.getvalue())


def test_the_line_of_a_request_obeys_the_level(stream: io.StringIO) -> None:
    logging.getLogger("access").setLevel(logging.WARNING)
    of_a_request("200")
    logging.getLogger("access").setLevel(logging.NOTSET)

    assert stream.getvalue() == ""


def test_further_handlers_and_json_get_the_record_of_a_request(stream: io.StringIO) -> None:
    further = io.StringIO()
    handler = logging.StreamHandler(further)
    handler.setFormatter(JsonFormatter())
    logging.getLogger().addHandler(handler)

    of_a_request("200")

    assert stream.getvalue().endswith("access: 200\n")
    assert json.loads(further.getvalue())["words"] == "200"


def test_a_log_that_cannot_be_written_fails_no_request(stream: io.StringIO, capsys: pytest.CaptureFixture[str]) -> None:
    stream.close()

    of_a_request("200")

    assert "Logging error" in capsys.readouterr().err
