"""Downloads of the list of calls: the same rows, columns and formats as those of ``esms-calls export``."""

from __future__ import annotations

import logging
import threading
from contextlib import ExitStack
from dataclasses import replace
from datetime import datetime
from itertools import chain, islice
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Any, BinaryIO
from zoneinfo import ZoneInfo

from flask import Response, request
from flask_babel import gettext
from werkzeug.datastructures import MultiDict
from werkzeug.exceptions import BadRequest, ServiceUnavailable

from webapp.storage.errors import Unavailable
from webapp.storage.exports import COLUMNS, EXCEL, columns_of, csv_lines, json_lines, last_csv_line, writer_of
from webapp.storage.models import calls
from webapp.storage.reader import Reader
from webapp.storage.search import Search
from webapp.storage.time_zone import zone_of
from webapp.support.yield_to_others import let_others_run
from webapp.web.api_parameters import read_page
from webapp.web.pages.call_filter import LIST_PARAMETERS, read_filter
from webapp.web.pages.ranges import WrongAddress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from flask import Blueprint
    from flask.typing import ResponseReturnValue

    from webapp.storage.database import Database
    from webapp.storage.filters import CallFilter
    from webapp.support.settings import Settings

    Rows = Iterator[dict[str, Any]]

_log = logging.getLogger(__name__)

_DOWNLOADS_AT_ONCE = threading.BoundedSemaphore(2)
"""Downloads of this process: each takes a connection now and then, and a part of its time."""
_LINES_BETWEEN_PAUSES = 25
"""About 2 ms of work: callbacks wait no longer."""
MOST_IN_A_WORKBOOK = 20_000
"""Calls: it is whole before its answer begins, which takes about 10 s then."""
_ROWS_BETWEEN_PAUSES = 5
"""Of a workbook; likewise about 2 ms."""
_DOWNLOAD_CHUNK = 64 * 1024
_CONTENT_TYPES = {
    "csv": "text/csv; charset=utf-8",
    "jsonl": "application/x-ndjson; charset=utf-8",
    EXCEL: "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
}


def add_to(pages: Blueprint, database: Database, settings: Settings) -> None:
    """Add the routes."""
    reader = Reader(database)

    def wanted() -> CallFilter:
        chosen = {name: value for name, value in request.args.items() if name not in {"lang", "cursor", "limit"}}
        if chosen.keys() - LIST_PARAMETERS:
            return read_page(MultiDict(chosen), settings.time_zone).wanted.also_hashed(database.phones)
        with database.snapshot() as connection:
            zone = ZoneInfo(zone_of(connection))
            try:
                listed = read_filter(chosen, datetime.now(zone).date())
            except WrongAddress as problem:
                raise BadRequest(str(problem)) from None
            if not listed.search:
                return listed.wanted(zone)
            search = Search.of(listed.search, database.phones)
            few = search.ids(connection)
            if few is None:
                return replace(listed.wanted(zone), search=search)
            return replace(listed.wanted(zone), reference_ids=tuple(connection.scalars(few)))

    def answer(form: str) -> Response:
        name = f"calls-{datetime.now(settings.time_zone):%Y-%m-%d}.{form}"
        return download(reader, wanted(), form, name, settings)

    @pages.get("/calls.csv", endpoint="calls_csv")
    def as_csv() -> ResponseReturnValue:
        return answer("csv")

    @pages.get("/calls.jsonl", endpoint="calls_jsonl")
    def as_json_lines() -> ResponseReturnValue:
        return answer("jsonl")

    @pages.get("/calls.xlsx", endpoint="calls_xlsx")
    def as_workbook() -> ResponseReturnValue:
        return answer(EXCEL)


def download(reader: Reader, wanted: CallFilter, form: str, name: str, settings: Settings) -> Response:
    """These calls as a file of that name; lines are streamed.

    Raises ServiceUnavailable while others download, BadRequest for more calls than a workbook has, and Unavailable.
    """
    if not _DOWNLOADS_AT_ONCE.acquire(blocking=False):
        raise ServiceUnavailable(gettext("Two lists are being downloaded already. Try again in a minute."))
    with ExitStack() as stack:
        stack.callback(_DOWNLOADS_AT_ONCE.release)
        portions = reader.portions(wanted, COLUMNS)
        # Before the answer begins: what cannot be read at all is answered 503.
        rows = _rows(next(portions, []), portions)
        words = gettext("This list is not complete: the database could not be read any further. Download it again.")
        if form == EXCEL:
            parts = _workbook(rows, stack.enter_context(TemporaryFile()), settings)
        else:
            parts = _paused(_lines_of_file(form, rows, words))
        # Once: at the end of the list, or when the connection ends before it.
        release = stack.pop_all().close
    response = Response(_then(parts, release), content_type=_CONTENT_TYPES[form])
    response.headers["Content-Disposition"] = f'attachment; filename="{name}"'
    response.call_on_close(release)
    return response


def _rows(first: list[dict[str, Any]], portions: Iterator[list[dict[str, Any]]]) -> Rows:
    return chain(first, chain.from_iterable(portions))


def _lines_of_file(form: str, rows: Rows, words: str) -> Iterator[bytes]:
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


def _paused(lines: Iterator[bytes]) -> Iterator[bytes]:
    """The same in larger parts. Between them other connections are served."""
    while part := b"".join(islice(lines, _LINES_BETWEEN_PAUSES)):
        yield part
        let_others_run()


def _workbook(rows: Rows, file: BinaryIO, settings: Settings) -> Iterator[bytes]:
    """A workbook in parts; it is made in the file."""
    write = writer_of(EXCEL, columns_of(calls, COLUMNS), settings.time_zone)
    write(_few(rows), file)
    file.seek(0)
    return iter(lambda: file.read(_DOWNLOAD_CHUNK), b"")


def _few(rows: Rows) -> Rows:
    """The same, with pauses; raises BadRequest when there are more than a workbook may have."""
    for number, row in enumerate(rows, start=1):
        if number > MOST_IN_A_WORKBOOK:
            raise BadRequest(
                gettext(
                    "A workbook made here has at most %(n)s calls: choose fewer days, or download the CSV.",
                    n=f"{MOST_IN_A_WORKBOOK:,}",
                )
            )
        yield row
        if number % _ROWS_BETWEEN_PAUSES == 0:
            let_others_run()


def _then(parts: Iterator[bytes], release: Callable[[], None]) -> Iterator[bytes]:
    try:
        yield from parts
    finally:
        release()
