"""The command sandbox: stands in for eSMS on this machine, and can place a campaign of calls."""

from __future__ import annotations

import csv
import json
import logging
import secrets
from collections.abc import Callable
from dataclasses import asdict, fields
from decimal import Decimal
from typing import IO, TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

import click

from webapp.cli.output import say
from webapp.cli.signals import stop_at_signals
from webapp.esms.sandbox.callbacks import MOST_REQUESTS, checked_callback_url
from webapp.esms.sandbox.calls import expected
from webapp.esms.sandbox.faults import FAULTS
from webapp.esms.sandbox.options import Options
from webapp.esms.sandbox.service import Sandbox
from webapp.support.progress import progress

if TYPE_CHECKING:
    from threading import Event

    from webapp.esms.sandbox.calls import PlacedCall
    from webapp.esms.sandbox.options import OptionKind

Command = TypeVar("Command", bound=Callable[..., Any])

_OPTION_TYPES: dict[OptionKind, dict[str, Any]] = {
    "share": {"type": click.FloatRange(0, 1), "metavar": "SHARE"},
    "pause": {"type": click.FloatRange(0), "metavar": "SECONDS"},
    "timeout": {"type": click.FloatRange(0, min_open=True), "metavar": "SECONDS"},
    "number": {"type": click.IntRange(0), "metavar": "N"},
    "at least one": {"type": click.IntRange(1), "metavar": "N"},
}
_OUTPUT = click.File("w", encoding="utf-8", lazy=False)
_ADDRESS = "127.0.0.1:8808"
_BIND_HELP = "Where to listen; port 0 takes any that is free."
_FAULT_HELP = f"A fault that --error-rate draws from, repeatable; by default any of {', '.join(FAULTS)}."
_POLL_SECONDS = 0.2
_SEEDS = 1_000_000
_NOT_FOUND = "HTTP 404"


def _with_behaviour(command: Command) -> Command:
    """The command with an option for each field of ``Options`` that has a help text."""
    for one in reversed(fields(Options)):
        if one.metadata:
            flag, kind = f"--{one.name.replace('_', '-')}", _OPTION_TYPES[one.metadata["kind"]]
            help_text = one.metadata["help"]
            default: Any = {"default": None} if one.name == "seed" else {"default": one.default, "show_default": True}
            command = click.option(flag, help=help_text, **default, **kind)(command)
    return command


def _read_address(_: click.Context, __: click.Parameter, value: str) -> tuple[str, int]:
    host, _colon, port = value.rpartition(":")
    if not host or not port.isdecimal() or int(port) >= 2**16:
        raise click.BadParameter(f"{value!r} is not an address such as 127.0.0.1:8808.")
    return host, int(port)


def _read_callback_url(_: click.Context, __: click.Parameter, value: str) -> str:
    try:
        return checked_callback_url(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


@click.command()
@click.option(
    "--bind", default=_ADDRESS, show_default=True, metavar="HOST:PORT", callback=_read_address, help=_BIND_HELP
)
@click.option("--calls", "count", help="Place a campaign of this many calls.", **_OPTION_TYPES["at least one"])
@click.option("--callback-url", default="", metavar="URL", callback=_read_callback_url, help="Where its callbacks go.")
@click.option("--campaign", default="sandbox", show_default=True, metavar="NAME", help="Its name in --placed.")
@click.option("--placed", type=_OUTPUT, metavar="FILE", help="Write what was placed: a CSV for `esms-calls register`.")
@click.option("--truth", type=_OUTPUT, metavar="FILE", help="Write how each call ended, and its fate: JSON Lines.")
@click.option("--once", is_flag=True, help="Exit once all callbacks of the campaign are delivered or given up.")
@_with_behaviour
@click.option("--fault", "faults", multiple=True, type=click.Choice(list(FAULTS)), metavar="NAME", help=_FAULT_HELP)
def sandbox(
    *,
    bind: tuple[str, int],
    count: int | None,
    callback_url: str,
    campaign: str,
    placed: IO[str] | None,
    truth: IO[str] | None,
    once: bool,
    seed: int | None,
    **behaviour: Any,
) -> None:
    """Stand in for eSMS on this machine: take calls, send their callbacks, answer look-ups.

    Speaks the voice API (MakeCallRecord_V2, MakeCallTemplate_V2, GetSendStatus), and the GetSendStatus of the message
    API for voice OTP calls. Sends the callbacks of the calls that are placed. With --calls it places a campaign itself.
    Runs until Ctrl-C, or with --once until the campaign's callbacks are done. Exits with 1 if the receiver answers 404:
    the token in the callback URL is wrong.

    SHARE is a number from 0 to 1: 0.05 is one in twenty.

    \b
    A campaign that loses one final callback in twenty:
      esms-calls sandbox --calls 500 --lost 0.05 --placed placed.csv \\
          --callback-url "$(esms-calls callback-url)"

    \b
    Then, in another terminal, with the settings that it prints:
      esms-calls register placed.csv
      esms-calls reconcile --older-than 0s
    """  # noqa: D301 (click wants the control character)
    if bool(count) != bool(callback_url):
        raise click.UsageError("--calls and --callback-url belong together: give both, or neither.")
    if not count and (placed or truth or once):
        raise click.UsageError("--placed, --truth and --once need a campaign: give --calls and --callback-url too.")
    logging.getLogger("urllib3").setLevel(logging.ERROR)  # below it logs URLs, and with them the callback token
    if seed is None:
        seed = secrets.randbelow(_SEEDS)
    with stop_at_signals() as stop, _listening(bind, Options(seed=seed, **behaviour)) as esms:
        say(f"Standing in for eSMS at {esms.api_url}\nTo use it (any keys will do):")
        say(f"  export ESMS_API_URL={esms.api_url} ESMS_API_KEY=any ESMS_SECRET_KEY=any")
        say(f"  export ESMS_MESSAGE_API_URL={esms.message_api_url}")
        say(f"Seed: {seed} (--seed {seed} gives the same calls again)")
        if count:
            calls = esms.place(count, callback_url=callback_url)
            _write_placed(placed, calls, campaign)
            _write_truth(truth, calls)
            _show_callbacks(esms, callback_url, stop)
            _summarise(esms)
            if _token_is_wrong(esms):
                raise click.ClickException(
                    "The receiver answers callbacks with 404: the token in --callback-url is not one of its tokens. "
                    "Take the URL that `esms-calls callback-url` prints on the receiver's machine."
                )
        if not once:
            say("Answering look-ups until Ctrl-C.")
            stop.wait()


def _listening(bind: tuple[str, int], options: Options) -> Sandbox:
    host, port = bind
    try:
        return Sandbox(options, host=host, port=port)
    except OSError as error:
        raise click.ClickException(
            f"Cannot listen on {host}:{port}: {error.strerror}. Choose another address with --bind, "
            "or stop the program that uses it; port 0 takes any that is free."
        ) from None


def _write_placed(file: IO[str] | None, calls: list[PlacedCall], campaign: str) -> None:
    if file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["reference_id", "phone", "campaign", "placed_at"])
        rows.writerows([call.reference_id, call.phone, campaign, call.placed_at.isoformat()] for call in calls)
        file.flush()


def _write_truth(file: IO[str] | None, calls: list[PlacedCall]) -> None:
    if file:
        for call in calls:
            truth = asdict(call) | {"expected": expected(call)}
            file.write(json.dumps(truth, default=_as_text) + "\n")
        file.flush()


def _as_text(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, Decimal) else value.isoformat()


def _token_is_wrong(esms: Sandbox) -> bool:
    """Whether the receiver knows no callback by this URL."""
    return not esms.callbacks.delivered and esms.callbacks.failures[_NOT_FOUND] > 0


def _show_callbacks(esms: Sandbox, callback_url: str, stop: Event) -> None:
    """Show how many callbacks are done, until all are, the token turns out to be wrong, or the sandbox is to stop."""
    url, done = urlsplit(callback_url), False
    with progress(f"Callbacks to {url.scheme}://{url.hostname}", esms.callbacks.planned) as show:
        while not (done or stop.is_set() or _token_is_wrong(esms)):
            done = esms.wait(_POLL_SECONDS)
            show(esms.callbacks.finished, "done")


def _summarise(esms: Sandbox) -> None:
    calls, callbacks = esms.calls.values(), esms.callbacks
    failures = ", ".join(f"{count:,} x {failure}" for failure, count in callbacks.failures.most_common())
    rows = {
        "calls placed": f"{len(calls):,}",
        "- lost on purpose": f"{sum(call.lost for call in calls):,}",
        "- doubled": f"{sum(call.doubled for call in calls):,}",
        "- late": f"{sum(call.late for call in calls):,}",
        "- voice OTP": f"{sum(call.kind == 'otp' for call in calls):,}",
        "other channels": f"{len(esms.other_channels):,} messages, which are no calls",
        "callbacks delivered": f"{callbacks.delivered:,}",
        "- given up": f"{callbacks.given_up:,} (after {MOST_REQUESTS} requests each)",
        "- not sent": f"{callbacks.planned - callbacks.finished:,}",
        "- not answered 200": failures or "none",
    }
    say("\n".join(f"{name:20} {value}" for name, value in rows.items()))
