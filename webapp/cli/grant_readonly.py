"""The command grant-readonly: a PostgreSQL role that reads, and does nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from webapp.cli.context import open_context
from webapp.cli.options import Duration
from webapp.cli.output import printable_line, say, say_all
from webapp.storage.grants import GrantFailed, ReadOnlyRole, grant, statements

if TYPE_CHECKING:
    from datetime import timedelta


@click.command("grant-readonly")
@click.argument("role")
@click.option("--run", is_flag=True, help="Do it, in one transaction, as the user of DATABASE_URL.")
@click.option("--password-prompt", is_flag=True, help="With --run: ask for the role's password, and set it.")
@click.option(
    "--statement-timeout",
    type=Duration(),
    default="60s",
    show_default=True,
    help="How long one statement of the role may take.",
)
@click.option(
    "--connections",
    type=click.IntRange(1, 1000),
    default=5,
    show_default=True,
    help="How many connections it may have at a time.",
)
def grant_readonly(
    *, role: str, run: bool, password_prompt: bool, statement_timeout: timedelta, connections: int
) -> None:
    """Print the SQL that makes ROLE read the tables and views of PostgreSQL, and do nothing else.

    The role is made if it does not exist. It may log in, read, and neither write nor make tables; later tables, and
    views that migrations or time-zone set make anew, can be read, too. There are no tokens, keys or passwords in the
    database. A role that may do more (a superuser, a member of other roles, an owner of tables) is refused.

    No password is set: do it in psql by \\password ROLE, or by --password-prompt. Running it again is harmless, and
    changes the limits. Time-outs are defaults of the role's sessions; who has its password can lift them there.

    \b
    Examples:
      esms-calls grant-readonly analyst | psql calls
      esms-calls grant-readonly analyst --run --password-prompt --connections 10
    """  # noqa: D301 - click wants the control character
    if password_prompt and not run:
        raise click.UsageError("--password-prompt goes together with --run.")
    if not statement_timeout:
        raise click.BadParameter("must be longer than 0s.", param_hint="--statement-timeout")
    try:
        wanted = ReadOnlyRole(role, statement_timeout, connections)
    except ValueError as error:
        raise click.BadParameter(f"{role!r:.80} {error}.", param_hint="ROLE") from None
    with open_context(writes=False) as context:
        if context.database.is_sqlite:
            raise click.UsageError(
                "DATABASE_URL is SQLite, which has no roles. Read the file without changing it by "
                f"sqlite3 'file:{context.database.name}?mode=ro'"
            )
        if not run:
            with context.database.snapshot() as connection:
                found = statements(connection, wanted)
            say_all(["BEGIN;", *(f"{statement};" for statement in found), "COMMIT;"])
            return
        password = (
            click.prompt("Password", hide_input=True, confirmation_prompt=True, err=True) if password_prompt else None
        )
        try:
            with context.database.transaction() as connection:
                grant(connection, wanted, password)
        except GrantFailed as error:
            raise click.ClickException(str(error)) from None
    say(f"The role {printable_line(role)} reads the tables and views, and does nothing else.")
    if not password_prompt:
        say(
            f"If it has no password yet: \\password {printable_line(role)} in psql, "
            "or run this with --password-prompt.",
            err=True,
        )
