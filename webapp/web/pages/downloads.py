"""Downloads of the list of calls: the same rows, columns and formats as those of ``esms-calls export``."""

from __future__ import annotations

import logging
import threading
from contextlib import ExitStack
from datetime import datetime
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

from flask import Response, request
from flask_babel import gettext
from werkzeug.datastructures import MultiDict
from werkzeug.exceptions import ServiceUnavailable

from webapp.storage.errors import Unavailable
from webapp.storage.exports import COLUMNS, csv_lines, json_lines, last_csv_line
from webapp.storage.reader import Reader
from webapp.support.pauses import let_others_run
from webapp.web.parameters import read_page

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from flask import Blueprint
    from flask.typing import ResponseReturnValue

    from webapp.storage.database import Database
    from webapp.storage.filters import CallFilter
    from webapp.support.settings import Settings

    Rows = Iterator[dict[str, Any]]

_log = logging.getLogger(__name__)

_AT_ONCE = threading.BoundedSemaphore(2)
"""Downloads of this process: each takes a connection now and then, and a part of its time."""
_LINES_BETWEEN_PAUSES = 25
"""About 2 ms of work: callbacks wait no longer."""
_TYPES = {"csv": "text/csv", "jsonl": "application/x-ndjson"}


def add_to(pages: Blueprint, database: Database, settings: Settings) -> None:
    """Add the routes."""
    reader = Reader(database)

    def wanted() -> CallFilter:
        chosen = {name: value for name, value in request.args.items() if name not in {"lang", "cursor", "limit"}}
        return read_page(MultiDict(chosen), settings.time_zone).wanted

    def today() -> str:
        return f"{datetime.now(settings.time_zone):%Y-%m-%d}"

    @pages.get("/calls.csv", endpoint="calls_csv")
    def as_csv() -> ResponseReturnValue:
        return download(reader, wanted(), "csv", f"calls-{today()}")

    @pages.get("/calls.jsonl", endpoint="calls_jsonl")
    def as_json_lines() -> ResponseReturnValue:
        return download(reader, wanted(), "jsonl", f"calls-{today()}")


def download(reader: Reader, wanted: CallFilter, form: str, name: str) -> Response:
    """These calls as a file, streamed; raises ServiceUnavailable while others download, and Unavailable."""
    if not _AT_ONCE.acquire(blocking=False):
        raise ServiceUnavailable(gettext("Two lists are being downloaded already. Try again in a minute."))
    with ExitStack() as stack:
        stack.callback(_AT_ONCE.release)
        portions = reader.portions(wanted, COLUMNS)
        # Before the answer begins: what cannot be read at all is answered 503.
        first = next(portions, [])
        words = gettext("This list is not complete: the database could not be read any further. Download it again.")
        # Once: at the end of the list, or when the connection ends before it.
        release = stack.pop_all().close
    body = _paused(_lines(form, _rows(first, portions), words), release)
    response = Response(body, content_type=f"{_TYPES[form]}; charset=utf-8")
    response.headers["Content-Disposition"] = f'attachment; filename="{name}.{form}"'
    response.call_on_close(release)
    return response


def _rows(first: list[dict[str, Any]], portions: Iterator[list[dict[str, Any]]]) -> Rows:
    return chain(first, chain.from_iterable(portions))


def _lines(form: str, rows: Rows, words: str) -> Iterator[bytes]:
    """The lines; the last one says so if they break off."""
    lines: Callable[[Rows], Iterator[bytes]] = {
        # People open it in a spreadsheet.
        "csv": lambda found: csv_lines(found, COLUMNS, guarded=True),
        "jsonl": lambda found: json_lines(found, COLUMNS),
    }[form]
    try:
        yield from lines(rows)
    except Unavailable as error:
        _log.error("a download broke off: %s", error)
        yield last_csv_line(words) if form == "csv" else next(json_lines(iter([{"error": words}]), ["error"]))


def _paused(lines: Iterator[bytes], release: Callable[[], None]) -> Iterator[bytes]:
    """The same in larger parts; in the end ``release``. Between parts other connections are served."""
    try:
        while part := b"".join(islice(lines, _LINES_BETWEEN_PAUSES)):
            yield part
            let_others_run()
    finally:
        release()
