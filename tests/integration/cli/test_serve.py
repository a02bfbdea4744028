"""The command serve: what keeps a server from starting. test_serving.py has the rest."""

from __future__ import annotations

import socket
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from makers import change_by_hand
from running import free_port

if TYPE_CHECKING:
    from pathlib import Path

    from webapp.storage.database import Database

from commands import ON_POSTGRESQL, ON_SQLITE, SET, run


@pytest.mark.parametrize("revision", [None, "0001"])
@ON_POSTGRESQL
@SET
def test_a_server_refuses_a_postgresql_at_another_migration_and_names_the_command(
    database: Database, revision: str | None
) -> None:
    if revision:
        change_by_hand(database, "UPDATE alembic_version SET version_num = :revision", revision=revision)
    else:
        change_by_hand(database, "DROP SCHEMA public CASCADE")
        change_by_hand(database, "CREATE SCHEMA public")

    result = run("serve", "--bind", f"127.0.0.1:{free_port()}")

    assert (result.exit_code, result.stdout) == (1, "")
    assert f"is at migration {revision or 'none'}" in result.stderr
    assert "run `esms-calls migrate`" in result.stderr


@ON_SQLITE
@SET
def test_a_server_says_which_address_it_cannot_have() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as other:
        taken = f"127.0.0.1:{other.getsockname()[1]}"
        for bind, reason in ((taken, "Address already in use"), ("203.0.113.7:8000", "Cannot assign"), ("[x]:1", "")):
            result = run("serve", "--bind", bind)

            assert (result.exit_code, result.stdout) == (1, "")
            assert f"Error: cannot listen on {bind} ({reason}" in result.stderr
            assert "choose another --bind" in result.stderr


@ON_SQLITE
@SET
def test_a_server_with_an_embedded_database_that_cannot_be_used_does_not_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("DATABASE_URL", f"sqlite:///{tmp_path}/file/calls.db")

    result = run("serve", "--bind", f"127.0.0.1:{free_port()}")

    assert (result.exit_code, result.stdout) == (4, "")
    assert "the folder cannot be made" in result.stderr
