"""The commands that take calls in and give them out: register, export, replay."""

from __future__ import annotations

import codecs
import csv
import json
import os
import sys
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import click

from webapp.cli.context import Time, open_context
from webapp.storage.models import calls
from webapp.support import progress as terminal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from datetime import datetime

_AT_ONCE = 1000


@click.command()
@click.option(
    "--format",
    "form",
    type=click.Choice(["csv", "jsonl", "parquet"]),
    default="csv",
    show_default=True,
    help="CSV with a header; JSON Lines: one object a line; or Parquet, typed and small.",
)
@click.option("--since", type=Time(), help="Only calls placed at this time or later, such as 2026-11-23.")
@click.option("--until", type=Time(), help="Only calls placed before this time.")
@click.option(
    "--output",
    type=click.Path(dir_okay=False, allow_dash=True, path_type=Path),
    help="Write to this file, whole or not at all; - is standard output.  [default: -]",
)
def export(form: str, since: datetime | None, until: datetime | None, output: Path | None) -> None:
    """Write calls as CSV, JSON Lines or Parquet, oldest placed first, to standard output or a file.

    Times are UTC, prices have four decimals, and what was not said is empty (CSV) or null. Times that you give
    are ISO 8601, a date or a time; without a zone they are in TIME_ZONE.
    """
    output = None if output == Path("-") else output
    write = _writer(form)
    with open_context(writes=False) as context, _target(output) as target:
        if form == "parquet" and target.isatty():
            raise click.UsageError("Parquet is nothing for a terminal: use --output, or send it elsewhere.")
        total, done = context.reader.count(since, until), 0

        def counted() -> Iterator[dict[str, Any]]:
            nonlocal done
            for done, call in enumerate(found, start=1):
                yield call
                if done % _AT_ONCE == 0 or done == total:
                    tell(done, "calls")

        with closing(context.reader.export(since, until)) as found, _progress_beside(target, total) as tell:
            write(counted(), target)
    if output:
        click.echo(f"{done} calls written to {output}", err=True)


def _progress_beside(target: BinaryIO, total: int) -> AbstractContextManager[Callable[[int, str], None]]:
    """No bar on a terminal where the calls themselves are seen running by."""
    if target.isatty():
        return nullcontext(lambda _done, _words: None)
    return terminal.progress("exporting", total)


@contextmanager
def _target(output: Path | None) -> Iterator[BinaryIO]:
    """Standard output, or a file that is there whole or as it was before; a device or pipe is written as it is."""
    if output is None:
        yield sys.stdout.buffer
        sys.stdout.flush()
        return
    path = output.resolve()
    whole = path.is_file() or not path.exists()
    draft = path.with_name(f".{path.name}.{os.getpid()}") if whole else path
    try:
        file = draft.open("wb")
    except OSError as error:
        raise click.FileError(str(output), error.strerror) from None
    try:
        with file:
            yield file
        if whole:
            draft.replace(path)
    except BaseException:
        if whole:
            draft.unlink()
        raise


def _write_csv(rows: Iterable[dict[str, Any]], target: BinaryIO) -> None:
    # Whatever the locale says: names of campaigns are Vietnamese.
    text = codecs.getwriter("utf-8")(target)
    writer = csv.DictWriter(text, calls.columns.keys(), lineterminator="\n")
    writer.writeheader()
    writer.writerows(call | {"conflict": str(call["conflict"]).lower()} for call in rows)


def _write_jsonl(rows: Iterable[dict[str, Any]], target: BinaryIO) -> None:
    target.writelines(f"{json.dumps(call, ensure_ascii=False)}\n".encode() for call in rows)


def _writer(form: str) -> Callable[[Iterable[dict[str, Any]], BinaryIO], None]:
    if form != "parquet":
        return {"csv": _write_csv, "jsonl": _write_jsonl}[form]
    try:
        from webapp.storage import parquet  # noqa: PLC0415 - it needs what is not always there, and takes a third of a second
    except ImportError as error:
        words = f"Parquet needs pyarrow ({error}): pip install 'esms-calls[parquet]'"
        raise click.BadParameter(words, param_hint="--format") from error
    return parquet.write
