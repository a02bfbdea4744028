"""Reads registrations: from an object of the API, and from a file that is a CSV or a list of ids."""

from __future__ import annotations

import csv
import unicodedata
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

from webapp.calls.report import KINDS
from webapp.calls.rule import Registration
from webapp.esms.parameters import normalise_identity, read_text
from webapp.support.times import parse_time

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from zoneinfo import ZoneInfo

FIELDS = ("reference_id", "request_id", "phone", "campaign", "placed_at", "kind")
_LONGEST_LINE = 64 * 1024
_ALIASES = {"referenceid": "reference_id", "smsid": "reference_id", "requestid": "request_id"}
"""*documented*: what the placing request and its answer call them."""
_DELIMITERS = (",", ";", "\t")


class InvalidRegistration(Exception):
    """A registration cannot be read. Its text names the field."""


def read_registration(item: Any, zone: ZoneInfo) -> Registration:
    """An object of the API; raises InvalidRegistration. Blank values and null count as absent."""
    if not isinstance(item, dict):
        raise InvalidRegistration("reference_id: is missing: each call must be a JSON object.")
    unknown = sorted(item.keys() - set(FIELDS))
    if unknown:
        raise InvalidRegistration(f"{unknown[0]!r:.60}: is not a field; there are {', '.join(FIELDS)}.")
    for name, value in item.items():
        if isinstance(value, bool) or not isinstance(value, str | int | None):
            raise InvalidRegistration(f"{name}: must be text.")
    return _registration({name: str(value) for name, value in item.items() if value is not None}, zone)


def _registration(values: Mapping[str, str], zone: ZoneInfo) -> Registration:
    read: dict[str, Callable[[str], Any]] = {
        "reference_id": normalise_identity,
        "placed_at": lambda text: parse_time(text, zone),
        "kind": _kind,
    }
    fields: dict[str, Any] = {}
    for name in FIELDS:
        value = unicodedata.normalize("NFC", values.get(name, "").strip())
        if not value:
            continue
        try:
            fields[name] = read.get(name, read_text)(value)
        except ValueError as error:
            raise InvalidRegistration(f"{name}: {error}.") from None
    if "reference_id" not in fields:
        raise InvalidRegistration("reference_id: is missing.")
    return Registration(**fields, esms_id=values["reference_id"].strip())


def _kind(text: str) -> str:
    if text.lower() not in KINDS:
        raise ValueError(f"must be {' or '.join(KINDS)}")
    return text.lower()


class BadLine(NamedTuple):
    """A line that cannot be read: its number, from 1, and why."""

    number: int
    problem: str


class Lines:
    """The registrations in a file of lines, one a line, read in flat memory.

    A first line that names a column ``reference_id``, or what eSMS calls it, is the header of a CSV; without one each
    line is a ReferenceId. A BOM and blank lines are ignored. A quoted value ends on its own line: nothing that is
    registered needs more, and so a stray quote costs one line and not the rest of the file.

    After reading, ``header_ignored`` has the columns that are no fields, and ``commas_at`` the first line that holds a
    comma in a file without a header (0: none).
    """

    def __init__(self, file: BinaryIO, zone: ZoneInfo) -> None:
        """Read nothing yet; times without a zone are in ``zone``."""
        self._file = file
        self._zone = zone
        self._header: list[str] = []
        self._delimiter = ","
        self.header_ignored: list[str] = []
        self.commas_at = 0

    def __iter__(self) -> Iterator[Registration | BadLine]:
        """Every line that is neither blank nor the header."""
        begun = False
        for number, line in self._numbered():
            try:
                if not begun and (text := self._decode(line, "replace")).strip():
                    begun = True
                    if self._is_header(text):
                        continue
                if (text := self._decode(line)).strip():
                    yield _registration(self._values(text, number), self._zone)
            except InvalidRegistration as bad:
                yield BadLine(number, str(bad))

    def _numbered(self) -> Iterator[tuple[int, bytes]]:
        number = 0
        while line := self._file.readline(_LONGEST_LINE):
            number += 1
            while len(line) >= _LONGEST_LINE and not line.endswith(b"\n"):
                rest = self._file.readline(_LONGEST_LINE)
                # One byte too long for _decode, which reports it; the rest of the line is dropped.
                line = (line + rest)[: _LONGEST_LINE + 1] if not rest.endswith(b"\n") else line + b"\n"
                if not rest or rest.endswith(b"\n"):
                    break
            yield number, line

    def _decode(self, line: bytes, errors: str = "strict") -> str:
        if len(line) > _LONGEST_LINE:
            raise InvalidRegistration(f"the line is over {_LONGEST_LINE // 1024} KiB.")
        try:
            return line.decode("utf-8-sig", errors)
        except UnicodeDecodeError:
            raise InvalidRegistration("the line is not UTF-8 text: save the file as UTF-8.") from None

    def _is_header(self, text: str) -> bool:
        for delimiter in _DELIMITERS:
            names = [_ALIASES.get(name := cell.strip().lower(), name) for cell in _split(text, delimiter, strict=False)]
            if "reference_id" in names:
                self._header, self._delimiter = names, delimiter
                self.header_ignored = [name for name in names if name not in FIELDS]
                return True
        return False

    def _values(self, text: str, number: int) -> Mapping[str, str]:
        if not self._header:
            if "," in text and not self.commas_at:
                self.commas_at = number
            return {"reference_id": text}
        values = _split(text, self._delimiter, strict=True)
        if len(values) > len(self._header):
            raise InvalidRegistration(f"the line has {len(values)} values, and the header {len(self._header)} names.")
        return dict(zip(self._header, values, strict=False))


def _split(text: str, delimiter: str, *, strict: bool) -> list[str]:
    try:
        (values,) = csv.reader([text], delimiter=delimiter, skipinitialspace=True, strict=strict)
    except (csv.Error, ValueError) as error:
        raise InvalidRegistration(f"the line is not CSV ({error}).") from None
    return values
