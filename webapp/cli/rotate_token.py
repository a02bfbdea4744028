"""The command rotate-token: changes a token without a gap, in two steps between which both are accepted."""

from __future__ import annotations

import os
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from webapp.cli.context import hint_at_mistyped_names, open_context
from webapp.cli.exit_codes import DONE, PROBLEM
from webapp.cli.output import say
from webapp.cli.time_words import time_and_age
from webapp.storage.token_counts import TokenUse, uses_since
from webapp.support import tokens
from webapp.support.accepted_tokens import PAUSE_SECONDS
from webapp.support.settings import ENV_FILE, ConfigError, load_settings
from webapp.support.tokens import ending

if TYPE_CHECKING:
    from collections.abc import Iterable

    from webapp.support.settings import Settings

_DAY = timedelta(days=1)
TokenKind = Literal["callback", "api"]


@click.command("rotate-token")
@click.argument("kind", type=click.Choice(["callback", "api"]))
@click.option("--finish", is_flag=True, help="Remove the old tokens; the newest one stays.")
@click.option("--undo", is_flag=True, help="Remove the newest token instead; the old ones stay.")
@click.option("--force", is_flag=True, help="Remove a token even if callbacks of the last 24 hours came with it.")
def rotate_token(kind: TokenKind, *, finish: bool, undo: bool, force: bool) -> None:
    """Change the callback token or the API token without a gap.

    The first step makes a new token and keeps the old one: both are accepted. It prints the new CallbackUrl, or where
    the new API token is. Once everybody uses the new one, --finish removes the old one. Running servers with this
    INSTANCE_DIR follow each step within seconds: no restart is needed.

    `status` shows how many callbacks of the last 24 hours came with each token, named by its last four characters.
    --finish removes none with which callbacks still came (exit code 1), unless there is --force.

    Tokens that are set by CALLBACK_TOKEN or API_TOKEN are changed there: the command changes nothing then, says what to
    set, and exits with 1.
    """
    if finish and undo:
        raise click.UsageError("--finish and --undo exclude each other.")
    settings = load_settings()
    hint_at_mistyped_names()
    if getattr(settings, f"{kind}_token"):
        _say_what_to_set(settings, kind, finish=finish, undo=undo)
        sys.exit(PROBLEM)
    accepted = _accepted_tokens(settings, kind)
    if not (finish or undo):
        sys.exit(_begin_rotation(settings, kind, accepted))
    if len(accepted) == 1:
        say(f"Nothing to do: one {_token_name(kind)} is accepted, …{ending(accepted[0])}.")
        return
    leaving = accepted[:1] if undo else accepted[1:]
    if kind == "callback" and not force and (used := _still_used(leaving)):
        _refuse(settings, used, undo=undo)
        sys.exit(PROBLEM)
    _replace_tokens(settings, kind, accepted, accepted[1:] if undo else accepted[:1])
    for one in leaving:
        say(f"Removed: …{ending(one)}. {_taken_over()}")


def _begin_rotation(settings: Settings, kind: TokenKind, accepted: tuple[str, ...]) -> int:
    if len(accepted) > 1:
        where = (
            "`esms-calls callback-url` prints the new CallbackUrl." if kind == "callback" else _where(settings, kind)
        )
        old = ", ".join(f"…{ending(one)}" for one in accepted[1:])
        say(
            f"The {_token_name(kind)} is being changed already: …{ending(accepted[0])} is new, {old} is old. {where}\n"
            f"End that first: `esms-calls rotate-token {kind} --finish` removes the old one, --undo the new one.",
            err=True,
        )
        return PROBLEM
    _replace_tokens(settings, kind, accepted, (tokens.new_token(), *accepted))
    new, *_ = _accepted_tokens(settings, kind)
    say(
        f"New {_token_name(kind)}: …{ending(new)}. The old one, …{ending(accepted[0])}, is still accepted. "
        f"{_taken_over()}"
    )
    if kind == "callback":
        say(f"CallbackUrl to give to eSMS from now on:\n  {settings.callback_url()}")
        if settings.public_url is None:
            say(
                "Its address is that of this machine: set PUBLIC_URL to the address under which eSMS reaches it.",
                err=True,
            )
        say(f"When `esms-calls status` shows no callbacks with …{ending(accepted[0])} any more:")
    else:
        say(f"{_where(settings, kind)}\nWhen all programs and people use it:")
    say(f"  esms-calls rotate-token {kind} --finish")
    return DONE


def _accepted_tokens(settings: Settings, kind: TokenKind) -> tuple[str, ...]:
    return settings.callback_tokens() if kind == "callback" else settings.api_tokens()


def _replace_tokens(settings: Settings, kind: TokenKind, before: tuple[str, ...], after: Iterable[str]) -> None:
    def changed(found: tuple[str, ...]) -> Iterable[str]:
        if found != before:
            raise click.ClickException(f"another command has just changed {path}: look at it, and try again.")
        return after

    path = settings.token_file(kind)
    try:
        tokens.change_tokens(path.parent, path.name, changed)
    except OSError as error:
        problem = error.strerror or type(error).__name__
        raise ConfigError(
            f"{path} cannot be replaced ({problem}), and nothing is changed: run this as the user of the server."
        ) from None


def _still_used(leaving: Iterable[str]) -> list[TokenUse]:
    endings = {ending(one) for one in leaving}
    with open_context(writes=False) as context, context.database.snapshot() as connection:
        return [use for use in uses_since(connection, datetime.now(UTC) - _DAY) if use.token_ending in endings]


def _refuse(settings: Settings, used: Iterable[TokenUse], *, undo: bool) -> None:
    now = datetime.now(UTC)
    for use in used:
        last = time_and_age(use.last_at, now, settings.time_zone)
        say(
            f"Not removed: {use.count:,} callbacks of the last 24 hours came with …{use.token_ending}, "
            f"the last {last}.",
            err=True,
        )
    wanted = "the old CallbackUrl" if undo else "the new CallbackUrl (`esms-calls callback-url`)"
    say(
        f"Pass {wanted} when you place calls, and try again when none came for a day. "
        "With --force it is removed now: callbacks with it are answered 404, and lost.",
        err=True,
    )


def _say_what_to_set(settings: Settings, kind: TokenKind, *, finish: bool, undo: bool) -> None:
    variable = f"{kind.upper()}_TOKEN"
    number = len(_accepted_tokens(settings, kind))
    in_environment = any(name.upper() == variable for name in os.environ)
    where = "the environment" if in_environment else str(Path(ENV_FILE).absolute())
    say(f"{variable} is set in {where}: change it there, for this command changes only tokens in INSTANCE_DIR.")
    if number == 1 and (finish or undo):
        say("It holds one token: there is none to remove.")
        return
    if finish or undo:
        say(f"Keep only the first of its {number} tokens." if finish else f"Remove the first of its {number} tokens.")
    else:
        say(f"Put a new token and a comma in front of what it holds, and keep the rest:\n  {tokens.new_token()},")
    say("Then restart all servers. The first token is the one in the CallbackUrl; all are accepted.")


def _taken_over() -> str:
    return f"Running servers follow within {PAUSE_SECONDS:.0f} s."


def _where(settings: Settings, kind: TokenKind) -> str:
    return f"It is the first line of {settings.token_file(kind)}."


def _token_name(kind: TokenKind) -> str:
    return "callback token" if kind == "callback" else "API token"
