"""Reads registrations: from an object of the API, and from a file that is a CSV or a list of ids."""

from __future__ import annotations

import codecs
import csv
import re
import unicodedata
from collections import deque
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

from webapp.calls.report import KINDS
from webapp.calls.rule import Registration
from webapp.esms.parameters import normalise_identity, read_text
from webapp.support.spelling import do_you_mean, likely
from webapp.support.times import parse_time

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from datetime import datetime
    from zoneinfo import ZoneInfo

REGISTRATION_FIELDS = {
    "reference_id": "the SMSID that eSMS returned when the call was placed; required",
    "request_id": "the RequestId of the placing request",
    "phone": "the number called",
    "campaign": "a name to group calls by",
    "placed_at": "when the call was placed; ISO 8601 or `23/11/2026 14:30`, without a zone in `TIME_ZONE`; "
    "by default now",
    "kind": "`voice` or `otp`; by default as the first report says",
}
"""What is registered of a call, with its meaning."""
_COLUMN_NAMES = {name.replace("_", ""): name for name in REGISTRATION_FIELDS} | {"smsid": "reference_id"}
"""Fields by the names of their columns, without case, blanks, dashes and underscores; *documented*: SMSID is the id."""
_ID_COLUMNS = ("referenceid", "smsid")
_LONGEST_LINE = 64 * 1024
_ENDLESS_LINE = 64 * 1024 * 1024
"""No list has such a line; a device or a stream of something else may."""
_MOST_LINES = 64
"""Of one quoted value, such as a note in a cell of several lines."""
_DELIMITERS = {",": "a comma", ";": "a semicolon", "\t": "a tab", "|": "a bar"}
_WORD_SEPARATORS = re.compile(r"[\s_-]+")
_BLANK_LINE = re.compile(r"[\s,;|]*")
_SEPARATOR_LINE = re.compile(r'\s*"?sep=[,;|\t]?"?[\s,;|]*', re.IGNORECASE)
"""What Excel writes and reads as the first line of a CSV, to say how it is delimited."""
_ID_NAME = re.compile(r"(reference|sms)[\s_-]*id", re.IGNORECASE)
_UNDECODED = re.compile("[\ud800-\udfff]")
_NO_TEXT = {
    codecs.BOM_UTF16_LE: "UTF-16 text (Excel calls it Unicode Text)",
    codecs.BOM_UTF16_BE: "UTF-16 text",
    b"PK\x03\x04": "a ZIP file, such as an Excel workbook (.xlsx)",
    b"\xd0\xcf\x11\xe0": "an Excel workbook (.xls)",
}
"""How files begin that are no UTF-8 text."""


class InvalidRegistration(Exception):
    """A registration cannot be read. Its text names the field."""


def read_registration(item: Any, zone: ZoneInfo) -> Registration:
    """An object of the API; raises InvalidRegistration. Blank values and null count as absent."""
    if not isinstance(item, dict):
        raise InvalidRegistration("reference_id: is missing: each call must be a JSON object.")
    unknown = sorted(item.keys() - REGISTRATION_FIELDS.keys())
    if unknown:
        raise InvalidRegistration(f"{unknown[0]!r:.60}: is not a field; there are {', '.join(REGISTRATION_FIELDS)}.")
    for name, value in item.items():
        if isinstance(value, bool) or not isinstance(value, str | int | None):
            raise InvalidRegistration(f"{name}: must be text.")
    return _registration({name: str(value) for name, value in item.items() if value is not None}, zone)


def _registration(values: Mapping[str, str], zone: ZoneInfo, now: datetime | None = None) -> Registration:
    read: dict[str, Callable[[str], Any]] = {
        "reference_id": normalise_identity,
        "placed_at": lambda text: parse_time(text, zone, now),
        "kind": _read_kind,
    }
    fields: dict[str, Any] = {}
    for name in REGISTRATION_FIELDS:
        value = values.get(name, "").strip()
        if not value:
            continue
        # Not the id: the Kelvin sign would become an ASCII K.
        value = value if name == "reference_id" else unicodedata.normalize("NFC", value)
        try:
            fields[name] = read.get(name, read_text)(value)
        except ValueError as error:
            raise InvalidRegistration(f"{name}: {error}.") from None
    if "reference_id" not in fields:
        raise InvalidRegistration("reference_id: is missing.")
    return Registration(**fields, esms_id=values["reference_id"].strip())


def _read_kind(text: str) -> str:
    if text.lower() not in KINDS:
        raise ValueError(f"must be {' or '.join(KINDS)}")
    return text.lower()


class UnreadableList(Exception):
    """A file is no list of calls. Its text says why, and what to do."""


class BadLine(NamedTuple):
    """A line that cannot be read: its number, from 1, and why."""

    number: int
    problem: str


class _Line(NamedTuple):
    number: int
    text: str
    is_whole: bool


class Lines:
    """The registrations in a file of lines, one a line, read in flat memory.

    A first line that names a column ``reference_id``, or what eSMS calls it, is the header of a CSV; without one each
    line is a ReferenceId. A further header, of a file that was joined on, counts from there on. A BOM, blank lines and
    Excel's ``sep=;`` are ignored. A quoted value may go on in the next lines, up to 64 of them: so a stray quote costs
    one line and not the rest of the file.

    ``ignored_columns``: the columns of the headers so far that are no fields, each with a hint at the field that is
    probably meant.
    """

    def __init__(self, file: BinaryIO, zone: ZoneInfo, now: datetime) -> None:
        """Read the first line; times without a zone are in ``zone``. Raises UnreadableList."""
        self._file = file
        self._zone = zone
        self._now = now
        self._header: list[str] = []
        self._seen_names: set[str] = set()
        self._delimiter = ","
        self.ignored_columns: dict[str, str] = {}
        self._read_ahead: deque[_Line] = deque()
        self._lines = self._content()
        self._first = next(self._lines, None)
        if self._first and self._first.is_whole and not self._read_header(self._first.text):
            _check_that_no_header_is_missing(self._first)

    def __iter__(self) -> Iterator[Registration | BadLine]:
        """Every line that is neither blank nor a header."""
        if self._first:
            yield from self._read(self._first)
        while line := self._next_line():
            yield from self._read(self._with_its_rest(line) if self._header else line)

    def _next_line(self) -> _Line | None:
        return self._read_ahead.popleft() if self._read_ahead else next(self._lines, None)

    def _with_its_rest(self, line: _Line) -> _Line:
        """The line and those in which its last quoted value goes on; the line alone where that value has no end."""
        rest: list[_Line] = []
        text = line.text
        while _is_open(text, self._delimiter) and len(rest) < _MOST_LINES and len(text) < _LONGEST_LINE:
            following = self._next_line()
            if following is None:
                break
            rest.append(following)
            text += following.text
        if rest and _is_csv(text, self._delimiter):
            return _Line(line.number, text, is_whole=True)
        self._read_ahead.extendleft(reversed(rest))
        return line

    def _read(self, line: _Line) -> Iterator[Registration | BadLine]:
        try:
            if not line.is_whole:
                raise InvalidRegistration(f"the line is over {_LONGEST_LINE // 1024} KiB.")  # noqa: TRY301
            if self._read_header(line.text):
                return
            registration = _registration(self._values(line.text), self._zone, self._now)
        except InvalidRegistration as bad:
            yield BadLine(line.number, str(bad))
        else:
            yield registration

    def _content(self) -> Iterator[_Line]:
        """The lines that say something. Bytes that are not UTF-8 are lone surrogates in their texts."""
        for number, line in self._numbered():
            text = line.decode("utf-8-sig", "surrogateescape")
            if not _BLANK_LINE.fullmatch(text) and not _SEPARATOR_LINE.fullmatch(text):
                yield _Line(number, text, len(line) <= _LONGEST_LINE)

    def _numbered(self) -> Iterator[tuple[int, bytes]]:
        number = 0
        while line := self._file.readline(_LONGEST_LINE):
            number += 1
            if number == 1:
                _check_that_it_is_text(line)
            dropped = 0
            while len(line) >= _LONGEST_LINE and not line.endswith(b"\n"):
                rest = self._file.readline(_LONGEST_LINE)
                dropped += len(rest)
                if dropped > _ENDLESS_LINE:
                    words = f"line {number} is over {_ENDLESS_LINE >> 20} MiB: this is no list of calls."
                    raise UnreadableList(words)
                # One byte too long, which is reported; the rest of the line is dropped.
                line = (line + rest)[: _LONGEST_LINE + 1] if not rest.endswith(b"\n") else line + b"\n"
                if not rest or rest.endswith(b"\n"):
                    break
            yield number, line

    def _read_header(self, text: str) -> bool:
        """Whether the line is a header; it counts for the lines that follow."""
        if not _ID_NAME.search(text):
            return False
        for delimiter in _DELIMITERS:
            names = _cells(text, delimiter)
            header = [_COLUMN_NAMES.get(_squeezed(name), "") for name in names]
            if "reference_id" in header and (not self._header or self._has_names(names)):
                self._header, self._delimiter = header, delimiter
                self._seen_names |= set(map(_squeezed, names))
                absent = [name for name in REGISTRATION_FIELDS if name not in header]
                unknown = [name for name, field in zip(names, header, strict=True) if name and not field]
                self.ignored_columns |= {name: do_you_mean(name.lower(), absent) for name in unknown}
                return True
        return False

    def _has_names(self, cells: list[str]) -> bool:
        """Whether most cells are names of columns; a call whose id is the word SMSID has one such cell."""
        said = [_squeezed(cell) for cell in cells if cell]
        names = sum(cell in _COLUMN_NAMES or cell in self._seen_names for cell in said)
        return names * 2 > len(said) and (names > 1 or len(cells) == 1)

    def _values(self, text: str) -> Mapping[str, str]:
        if _UNDECODED.search(text):
            raise InvalidRegistration("the line is not UTF-8 text: save the file as UTF-8.")
        values = {"reference_id": _unquoted(text)}
        if self._header:
            found = _split(text, self._delimiter, strict=True)
            if any(value.strip() for value in found[len(self._header) :]):
                words = f"the line has {len(found)} values, and the header {len(self._header)} names."
                raise InvalidRegistration(words)
            values = {}
            for name, value in zip(self._header, found, strict=False):
                if value.strip():
                    values.setdefault(name, value)
        _check_id(values.get("reference_id", "").strip())
        return values


def _check_that_it_is_text(beginning: bytes) -> None:
    for signature, what in _NO_TEXT.items():
        if beginning.startswith(signature):
            raise UnreadableList(f"The list is {what}: save it as CSV in UTF-8 (Excel: CSV UTF-8), and use that file.")
    if b"\r" in beginning.rstrip(b"\r\n"):
        words = "The lines of the list end with a carriage return alone, as Excel's CSV (Macintosh) has them"
        raise UnreadableList(f"{words}: save it as CSV UTF-8, and use that file.")


def _check_that_no_header_is_missing(first: _Line) -> None:
    """Refuse a first line that is no id: its columns would be registered as calls."""
    text = first.text.strip()
    delimiter = max(_DELIMITERS, key=text.count)
    is_csv = delimiter in text
    mistyped = [name for name in _cells(text, delimiter) if _is_mistyped_id_column(name, 0.7 if is_csv else 0.9)]
    if not (is_csv or mistyped):
        return
    holds = f"holds {_DELIMITERS[delimiter]}, and " if is_csv else ""
    hint = f" {mistyped[0]!r:.60}: do you mean reference_id?" if mistyped else ""
    raise UnreadableList(
        f"line {first.number} {holds}names no column reference_id (or ReferenceId, SMSID): "
        f"the first line of a CSV must name its columns, out of {', '.join(REGISTRATION_FIELDS)}.{hint}"
    )


def _is_mistyped_id_column(name: str, similarity: float) -> bool:
    """Whether it has letters alone, as hardly an id has, and is as similar to the name of the column of ids."""
    squeezed = _squeezed(name)
    known = squeezed in _COLUMN_NAMES
    return squeezed.isalpha() and not known and likely(squeezed, _ID_COLUMNS, similarity=similarity) is not None


def _check_id(reference_id: str) -> None:
    for delimiter, words in _DELIMITERS.items():
        if delimiter in reference_id:
            raise InvalidRegistration(
                f"reference_id: {reference_id!r:.60} holds {words}. The first line of a CSV must name its columns."
            )
    if _squeezed(reference_id) in _COLUMN_NAMES:
        raise InvalidRegistration(f"reference_id: {reference_id!r:.60} is the name of a column.")


def _squeezed(name: str) -> str:
    return _WORD_SEPARATORS.sub("", name.lower())


def _cells(text: str, delimiter: str) -> list[str]:
    """The values of a line that may be a header; empty if it is no CSV."""
    try:
        return [value.strip() for value in _split(text, delimiter, strict=False)]
    except InvalidRegistration:
        return []


def _unquoted(text: str) -> str:
    """The id of a line that has nothing else; programs that write CSV may quote it."""
    quoted = text.strip()
    return quoted[1:-1] if len(quoted) > 2 and quoted[0] == quoted[-1] == '"' else text  # noqa: PLR2004 - two quotes


def _is_open(text: str, delimiter: str) -> bool:
    """Whether its last quoted value has no end: one more quote makes a CSV of it."""
    return '"' in text and not _is_csv(text, delimiter) and _is_csv(f'{text}"', delimiter)


def _is_csv(text: str, delimiter: str) -> bool:
    try:
        _split(text, delimiter, strict=True)
    except InvalidRegistration:
        return False
    return True


def _split(text: str, delimiter: str, *, strict: bool) -> list[str]:
    try:
        (values,) = csv.reader([text], delimiter=delimiter, skipinitialspace=True, strict=strict)
    except (csv.Error, ValueError) as error:
        raise InvalidRegistration(f"the line is not CSV ({error}).") from None
    return values
