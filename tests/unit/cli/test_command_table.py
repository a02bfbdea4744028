"""The command line imports a command only when it runs; its table says the same as the commands themselves."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import click
import pytest
from click.testing import CliRunner
from flask import current_app
from flask.cli import with_appcontext

from webapp.cli import commands
from webapp.cli.commands import COMMANDS, cli

if TYPE_CHECKING:
    from pathlib import Path

SLOW_TO_IMPORT = {
    "alembic",
    "flask",
    "gevent",
    "gunicorn",
    "psycopg",
    "pydantic",
    "pydantic_settings",
    "requests",
    "rich",
    "sqlalchemy",
    "urllib3",
    "werkzeug",
}


@pytest.mark.parametrize("name", COMMANDS)
def test_the_table_has_the_short_help_of_each_command(name: str) -> None:
    command = cli.get_command(click.Context(cli), name)

    assert command
    assert (command.name, command.get_short_help_str(200)) == (name, COMMANDS[name])


def test_the_help_lists_every_command_in_order() -> None:
    shown = CliRunner().invoke(cli, ["--help"]).stdout

    listed = [line.split()[0] for line in shown.partition("Commands:\n")[2].splitlines() if line[2:3].strip()]
    assert listed == list(COMMANDS) == sorted(COMMANDS)


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["nonsense"]], ids=" ".join)
def test_help_imports_nothing_that_is_slow(arguments: list[str]) -> None:
    program = (
        "import sys; from webapp.cli.main import main\n"
        f"sys.argv[1:] = {arguments}\n"
        "try:\n    main()\n"
        "finally:\n    print(*sys.modules, file=sys.stderr)"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)

    imported = set(result.stderr.splitlines()[-1].split())
    assert "click" in imported
    assert imported & SLOW_TO_IMPORT == set()
    ours = {name for name in imported if name.startswith("webapp.") and not name.startswith("webapp.cli")}
    assert ours <= {"webapp.support", "webapp.support.terminal"}


def test_a_command_may_use_the_context_of_the_flask_application(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @click.command()
    @with_appcontext
    def status() -> None:
        click.echo(current_app.import_name)

    monkeypatch.setattr("webapp.cli.status.status", status)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CALLBACK_TOKEN", "a-token-of-the-tests")
    monkeypatch.setenv("API_TOKEN", "a-token-of-the-tests")

    result = CliRunner().invoke(cli, ["status"])

    assert (result.exit_code, result.stdout) == (0, "webapp.app\n"), result.output
    assert commands.COMMANDS["status"]
