"""Reads registrations, one at a time: from JSON objects, and from the lines of a CSV or of a list of ids."""

from __future__ import annotations

import csv
from typing import TYPE_CHECKING, Any

from webapp.calls.rule import Registration
from webapp.esms.parameters import normalise_identity, read_text
from webapp.support.times import parse_time

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from zoneinfo import ZoneInfo

FIELDS = ("reference_id", "request_id", "phone", "campaign", "placed_at")
_LONGEST_LINE = 64 * 1024
_ALIASES = {"referenceid": "reference_id", "smsid": "reference_id", "requestid": "request_id"}
"""*documented*: what the placing request and its answer call them."""
_DELIMITERS = (",", ";", "\t")


class Bad(Exception):
    """A registration cannot be taken. Its text names the field."""


def read_registration(item: Any, zone: ZoneInfo) -> Registration:
    """One object of the API; raises Bad. Blank values and null are not said."""
    if not isinstance(item, dict):
        raise Bad("reference_id: is missing, for this is no object.")
    unknown = sorted(item.keys() - set(FIELDS))
    if unknown:
        raise Bad(f"{unknown[0]!r:.60}: is not a field; there are {', '.join(FIELDS)}.")
    for name, value in item.items():
        if isinstance(value, bool) or not isinstance(value, str | int | None):
            raise Bad(f"{name}: must be text.")
    return _registration({name: str(value) for name, value in item.items() if value is not None}, zone)


def _registration(words: Mapping[str, str], zone: ZoneInfo) -> Registration:
    read: dict[str, Callable[[str], Any]] = {
        "reference_id": normalise_identity,
        "placed_at": lambda text: parse_time(text, zone),
    }
    said: dict[str, Any] = {}
    for name in FIELDS:
        value = words.get(name, "").strip()
        if not value:
            continue
        try:
            said[name] = read.get(name, read_text)(value)
        except ValueError as error:
            raise Bad(f"{name}: {error}.") from None
    if "reference_id" not in said:
        raise Bad("reference_id: is missing.")
    return Registration(**said)


class Lines:
    """The registrations in a stream of lines, one a line, in flat memory; a bad line is named and stops nothing.

    A first line that holds ``reference_id``, or eSMS's name for it, is the header of a CSV; without one each line is a
    ReferenceId. A BOM and
    blank lines are ignored. A quoted value may not run over the end of its line: nothing that is registered needs to,
    and so a stray quote costs one line and not the rest of the file.
    """

    def __init__(self, read_line: Callable[[int], bytes], zone: ZoneInfo, on_bad: Callable[[int, str], None]) -> None:
        """``read_line(limit)`` gives a line, at most that long; ``on_bad(number, words)`` is told of bad lines."""
        self._read_line = read_line
        self._zone = zone
        self._on_bad = on_bad
        self._header: list[str] = []
        self._delimiter = ","
        self.header_ignored: list[str] = []
        self.commas_at = 0

    def __iter__(self) -> Iterator[Registration]:
        """Every registration that can be read."""
        begun = False
        for number, line in self._numbered():
            try:
                if not begun and (text := self._decode(line, "replace")).strip():
                    begun = True
                    if self._is_header(text):
                        continue
                if (text := self._decode(line)).strip():
                    yield _registration(self._words(text, number), self._zone)
            except Bad as bad:
                self._on_bad(number, str(bad))

    def _numbered(self) -> Iterator[tuple[int, bytes]]:
        number = 0
        while line := self._read_line(_LONGEST_LINE):
            number += 1
            while len(line) >= _LONGEST_LINE and not line.endswith(b"\n"):
                rest = self._read_line(_LONGEST_LINE)
                # Kept one byte too long, for _decode to see; the rest of the line is dropped.
                line = (line + rest)[: _LONGEST_LINE + 1] if not rest.endswith(b"\n") else line + b"\n"
                if not rest or rest.endswith(b"\n"):
                    break
            yield number, line

    def _decode(self, line: bytes, errors: str = "strict") -> str:
        if len(line) > _LONGEST_LINE:
            raise Bad(f"the line is over {_LONGEST_LINE // 1024} KiB.")
        try:
            return line.decode("utf-8-sig", errors)
        except UnicodeDecodeError:
            raise Bad("the line is not UTF-8 text: save the file as UTF-8.") from None

    def _is_header(self, text: str) -> bool:
        for delimiter in _DELIMITERS:
            names = [_ALIASES.get(name := said.strip().lower(), name) for said in _split(text, delimiter, strict=False)]
            if "reference_id" in names:
                self._header, self._delimiter = names, delimiter
                self.header_ignored = [name for name in names if name not in FIELDS]
                return True
        return False

    def _words(self, text: str, number: int) -> Mapping[str, str]:
        if not self._header:
            if "," in text and not self.commas_at:
                self.commas_at = number
            return {"reference_id": text}
        values = _split(text, self._delimiter, strict=True)
        if len(values) > len(self._header):
            raise Bad(f"the line has {len(values)} values, and the header {len(self._header)} names.")
        return dict(zip(self._header, values, strict=False))


def _split(text: str, delimiter: str, *, strict: bool) -> list[str]:
    try:
        (values,) = csv.reader([text], delimiter=delimiter, skipinitialspace=True, strict=strict)
    except (csv.Error, ValueError) as error:
        raise Bad(f"the line is no CSV ({error}).") from None
    return values
