"""``make bench-abuse``: how long callbacks take while others send floods, slow requests and oversized ones.

A steady, moderate rate of callbacks is measured alone (idle) and beside each abuse. The ratio is that of the 99th
percentiles of the same run.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
import time
from collections import Counter
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from bench import load, nginx
from bench.abusers import ABUSES
from bench.programs import ROOT
from bench.session import BEFORE, OURS, WITHOUT_FAST_PATH, label_of, session
from bench.setting import (
    DATABASES,
    Names,
    before_option,
    databases_option,
    interleave,
    markdown_option,
    patience_option,
    quick_option,
    unless_given,
)
from bench.table import Row, milliseconds

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from bench.receivers import Receiver, Server
    from bench.session import Session
    from bench.table import Outcome

LIMIT = 10
_IDLE = "idle"
_WARM_UP_SECONDS, _CONNECT_SECONDS = 3, 1
"""How long callbacks are sent before they are measured; the abuse begins after a second of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """How much is done; the defaults of the options are those of a full run."""

    rounds: int
    patience: int
    seconds: int
    rate: int
    connections: int
    through_nginx: bool


QUICK = {"rounds": 1, "seconds": 2}


def measure(run: Session, sizes: Sizes, receiver: Receiver, name: str, answers: Counter[str]) -> float:
    """The 99th percentile of the callbacks' times beside one abuse, or alone; answers to the abuse are counted."""
    with run.serving(receiver) as server, _entrance(run, sizes, server) as url:
        steady = load.start_constant_rate(
            url,
            rate=sizes.rate,
            seconds=sizes.seconds,
            connections=sizes.connections,
            warm_up=_WARM_UP_SECONDS,
        )
        # The callbacks' connections come first: a worker that is busy would leave new ones to the others.
        time.sleep(_CONNECT_SECONDS)
        abuser = None if name == _IDLE else _start_abuse(name, url, sizes.seconds + _WARM_UP_SECONDS)
        result = load.wait_for(steady)
        if abuser:
            printed, _ = abuser.communicate()
            answers.update(json.loads(printed.splitlines()[-1]) if printed.endswith("}\n") else {"killed": 1})
        if failed := result.refused + result.broken:
            beside = "" if name == _IDLE else f" beside {ABUSES[name].what}"
            run.note(receiver, f"{failed:,} callbacks were not answered 200{beside}")
        return result.p99


def _entrance(run: Session, sizes: Sizes, server: Server) -> AbstractContextManager[str]:
    """The URL that everything is sent to: the server's own, or that of nginx in front of it."""
    if sizes.through_nginx:
        return nginx.in_front_of(server.url, run.new_folder("nginx"))
    return nullcontext(server.url)


def _start_abuse(name: str, url: str, seconds: int) -> subprocess.Popen[str]:
    address = url.removeprefix("http://")
    return subprocess.Popen(
        [sys.executable, "-m", "bench.abusers", name, address, str(seconds)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
    )


def abuse(run: Session, sizes: Sizes, names: Sequence[str], variant: str) -> None:
    """The rows of one variant of the program."""
    for database in run.databases:
        receiver = run.ours(database, variant)
        answers: dict[str, Counter[str]] = {name: Counter() for name in names}

        def measured(name: str, counts: Counter[str], receiver: Receiver = receiver) -> tuple[str, Callable[[], float]]:
            return name, lambda: measure(run, sizes, receiver, name, counts)

        measures = [measured(_IDLE, Counter()), *(measured(name, answers[name]) for name in names)]
        found = interleave(sizes, f"p99 at {sizes.rate}/s, {label_of(receiver)}", measures, milliseconds)
        prefix = "" if variant == OURS else f"{variant}, "
        for name in names:
            run.outcome.rows.append(
                Row(
                    name=f"{prefix}beside {ABUSES[name].what} / idle",
                    database=DATABASES[database],
                    above=found[name],
                    below=found[_IDLE],
                    show=milliseconds,
                    limit=LIMIT if variant == OURS else None,
                    at_least=False,
                )
            )
            counted = ", ".join(f"{what} {count:,}" for what, count in sorted(answers[name].items()))
            run.outcome.notes.append(f"{label_of(receiver)}, {name}: {counted}")


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option("--only", type=Names(tuple(ABUSES)), default=tuple(ABUSES), help=f"With commas: {', '.join(ABUSES)}.")
@databases_option
@before_option
@click.option("--without-fast-path", is_flag=True, help="Measure FAST_PATH=off as well.")
@click.option("--through-nginx", is_flag=True, help="Put nginx with deploy/nginx.conf in front, without TLS.")
@click.option("--rounds", default=3, type=click.IntRange(1), show_default=True, help="Measurements of each.")
@click.option("--seconds", default=8, type=click.IntRange(1), show_default=True, help="Length of a measurement.")
@click.option("--rate", default=100, type=click.IntRange(1), show_default=True, help="Callbacks a second.")
@click.option("--connections", default=32, type=click.IntRange(2), show_default=True, help="Connections of them.")
@patience_option
@quick_option
@markdown_option
@click.pass_context
def main(
    context: click.Context,
    /,
    *,
    only: tuple[str, ...],
    databases: tuple[str, ...],
    before: Path | None,
    without_fast_path: bool,
    quick: bool,
    markdown: Path | None,
    **given: int,
) -> None:
    """Measure callbacks beside abuse, on this machine, and print ratios to the idle server.

    Everything is sent to 127.0.0.1, at bounded rates, and ends by itself. A callback without an answer counts as
    30 seconds. BENCH_DATABASE_URL names a PostgreSQL on which databases may be created (by default one that comes as
    a wheel); files go to TMPDIR. Exit code 1: a limit was missed, or a callback was not answered 200.
    """
    if quick:
        given |= unless_given(context, QUICK)
    started = time.monotonic()
    variants = [OURS, *([BEFORE] if before else []), *([WITHOUT_FAST_PATH] if without_fast_path else [])]
    try:
        outcome = _run(
            Sizes(through_nginx=bool(given.pop("through_nginx")), **given), only, databases, before, variants
        )
    except (load.Missing, RuntimeError) as error:
        raise click.ClickException(str(error)) from None
    minutes = math.ceil((time.monotonic() - started) / 60)
    outcome.notes.append(f"{given['rounds']} interleaved rounds of {given['seconds']} s; {minutes} minutes in all.")
    outcome.print()
    if markdown:
        markdown.write_text(outcome.markdown())
    sys.exit(not outcome.good and not quick)


def _run(
    sizes: Sizes, names: Sequence[str], databases: Sequence[str], before: Path | None, variants: Sequence[str]
) -> Outcome:
    with session(databases, before) as run:
        for variant in variants:
            abuse(run, sizes, names, variant)
        return run.conclude()


if __name__ == "__main__":
    main()
