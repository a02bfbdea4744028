"""Log lines that show no secret and cannot be forged. Knows the secrets only as texts to leave out."""

from __future__ import annotations

import json
import logging
import os
import re
import stat
import sys
import time
from functools import cache, lru_cache
from typing import TYPE_CHECKING
from urllib.parse import unquote_to_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_CALLBACK_PATH = "/esms/callback/"
_CALLBACK_TOKEN = re.compile(rf"({_CALLBACK_PATH})[^\s?\"'<]+")
_SHORTEST = 8
"""Shorter ones are in phone numbers and ReferenceIds by chance: taken out there, they would cost the call."""
_CONTROL = {code: f"\\x{code:02x}" for code in [*range(32), *range(127, 160)] if chr(code) != "\n"} | {
    0x2028: "\\u2028",
    0x2029: "\\u2029",
}


@cache
def encoded(secret: str) -> re.Pattern[str]:
    """The secret as URLs may have it: any of its characters percent-encoded, also several times over."""
    return re.compile("".join(f"(?:{_encoded(character)}|{re.escape(character)})" for character in secret))


def _encoded(character: str) -> str:
    digits = (f"{byte:02x}" for byte in character.encode("utf-8", "surrogateescape"))
    either_case = (re.sub("[a-f]", lambda digit: f"[{digit[0]}{digit[0].upper()}]", two) for two in digits)
    return "".join(f"%(?:25)*{two}" for two in either_case)


def without(secrets: Iterable[str]) -> Callable[[str], str]:
    """What takes the secrets out of a text of others, or of JSON, that is to be kept: as they are, and URL-encoded.

    It is quick where none is there: each callback goes through it.
    """
    long = {secret for secret in secrets if len(secret) >= _SHORTEST}
    spellings = sorted(long | {json.dumps(secret, ensure_ascii=False)[1:-1] for secret in long}, key=len, reverse=True)

    def clean(text: str) -> str:
        for spelling in spellings:
            if spelling in text:
                text = text.replace(spelling, "***")
        if "%" in text and ("%25" in text or _holds(_decoded(text), spellings)):
            for spelling in spellings:
                text = encoded(spelling).sub("***", text)
        return text

    return clean


def _decoded(text: str) -> str:
    return unquote_to_bytes(text.encode(errors="replace")).decode(errors="replace")


def _holds(text: str, spellings: Iterable[str]) -> bool:
    return any(spelling in text for spelling in spellings)


def redact(text: str, secrets: Iterable[str]) -> str:
    """``text`` without the secrets, and without whatever stands where a callback token would."""
    for secret in secrets:
        text = text.replace(secret, "***")
        if "%" in text:
            text = encoded(secret).sub("***", text)
    return _CALLBACK_TOKEN.sub(r"\1***", text) if _CALLBACK_PATH in text else text


class Formatter(logging.Formatter):
    """One record, one line that begins with the time; further lines, of tracebacks, begin with a bar."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        """Leave ``secrets`` out of every line."""
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")
        self._secrets = tuple(secrets)

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: ARG002, N802 - logging's
        """The record's time, in milliseconds."""
        return f"{_second(int(record.created))},{int(record.msecs):03d}"

    def format(self, record: logging.LogRecord) -> str:
        """The record as it is written."""
        text = redact(super().format(record), self._secrets)
        if text.isascii() and text.isprintable():
            return text
        text = text.translate(_CONTROL)
        return text.encode("utf-8", "backslashreplace").decode().replace("\n", "\n  | ")


@lru_cache(maxsize=1)
def _second(second: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(second))


class Handler(logging.StreamHandler):  # type: ignore[type-arg]
    """Writes to standard error, and waits for nobody who has stopped reading it: then lines are lost, and counted."""

    def __init__(self) -> None:
        """Standard error as it is now."""
        pipe = _unwaiting_pipe(2)
        super().__init__(sys.stderr if pipe is None else _Lossy(pipe))


class _Lossy:
    """A pipe that takes what it has room for at this moment."""

    def __init__(self, pipe: int) -> None:
        self._pipe = pipe
        self._lost = 0

    def write(self, line: str) -> None:
        before = f"{self._lost} lines of this log are lost: nobody read it\n" if self._lost else ""
        try:
            os.write(self._pipe, f"{before}{line}".encode(errors="backslashreplace"))
        except BlockingIOError:
            self._lost += 1
        else:
            self._lost = 0

    def flush(self) -> None:
        """Nothing waits."""


@cache
def _unwaiting_pipe(number: int) -> int | None:
    """The pipe once more, if that is one: not to wait is set for an opening, and others share the first one."""
    try:
        if stat.S_ISFIFO(os.fstat(number).st_mode):
            return os.open(f"/proc/self/fd/{number}", os.O_WRONLY | os.O_NONBLOCK)
    except OSError:
        pass
    return None


def configure(secrets: Iterable[str], *, level: int = logging.INFO) -> None:
    """Send every log line of this process to standard error, without the secrets, unless that is arranged already."""
    handler = logging.StreamHandler()
    handler.setFormatter(Formatter(secrets))
    logging.basicConfig(handlers=[handler], level=level)
    # No line shows them, so they need not be looked up for each.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    # At debug level these write the URLs that they ask, with the keys in them.
    logging.getLogger("urllib3").setLevel(logging.WARNING)
    logging.getLogger("alembic").setLevel(logging.WARNING)
