"""Writes calls as CSV, JSON Lines or Parquet, row by row, in flat memory."""

from __future__ import annotations

import codecs
import csv
import json
from typing import TYPE_CHECKING, Any, BinaryIO

from webapp.storage.models import calls

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    Write = Callable[[Iterable[dict[str, Any]], BinaryIO], None]

FORMATS = ("csv", "jsonl", "parquet")


class NoParquet(Exception):
    """pyarrow, which Parquet needs, is not installed. Its text says how to get it."""


def writer_of(form: str) -> Write:
    """The function that writes calls, as the reader shows them, in one of ``FORMATS``; raises NoParquet."""
    if form != "parquet":
        return {"csv": _write_csv, "jsonl": _write_jsonl}[form]
    try:
        from webapp.storage import parquet  # noqa: PLC0415 - pyarrow is optional, and takes a third of a second
    except ImportError as error:
        raise NoParquet(f"Parquet needs pyarrow ({error}): pip install 'esms-calls[parquet]'") from error
    return parquet.write


def _write_csv(rows: Iterable[dict[str, Any]], target: BinaryIO) -> None:
    # UTF-8 in every locale: names of campaigns are Vietnamese.
    text = codecs.getwriter("utf-8")(target)
    writer = csv.DictWriter(text, calls.columns.keys(), lineterminator="\n")
    writer.writeheader()
    writer.writerows(call | {"conflict": str(call["conflict"]).lower()} for call in rows)


def _write_jsonl(rows: Iterable[dict[str, Any]], target: BinaryIO) -> None:
    target.writelines(f"{json.dumps(call, ensure_ascii=False)}\n".encode() for call in rows)
