"""What can happen to a database and to a disk, made to happen: a PostgreSQL of one's own, a small disk, a lock."""

from __future__ import annotations

import os
import signal
import socket
import sqlite3
import subprocess
import threading
import uuid
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from running import free_port
from servers import Cluster, open_folder
from sqlalchemy import make_url

from webapp.storage.database import Database

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import URL

_ROLE, _PASSWORD = "calls", "password-of-the-tests"
_CONNECTIONS, _RESERVED = 30, 3
"""At most, and how many of them only a superuser gets."""
_HBA = """\
local all all trust
host all postgres 127.0.0.1/32 trust
host all all 127.0.0.1/32 scram-sha-256
"""


class PostgreSQL(Cluster):
    """A PostgreSQL that may be stopped, hung and broken, reached over loopback by a role that is no superuser."""

    def __init__(self, folder: Path) -> None:
        """Make its data folder, and start it."""
        super().__init__(folder)
        self._port = free_port()
        self._migrated: str | None = None
        self.make(
            "listen_addresses = '127.0.0.1'",
            f"port = {self._port}",
            f"max_connections = {_CONNECTIONS}",
            f"superuser_reserved_connections = {_RESERVED}",
        )
        (self.data / "pg_hba.conf").write_text(_HBA)
        self.start()
        self.run(f"CREATE ROLE {_ROLE} LOGIN PASSWORD '{_PASSWORD}'")

    def run(self, *statements: str, database: str = "postgres") -> list[tuple[Any, ...]]:
        """Statements of a superuser, each on its own; the rows of the last."""
        with psycopg.connect(
            host="127.0.0.1", port=self._port, user="postgres", dbname=database, autocommit=True
        ) as connection:
            for statement in statements:
                cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def migrated_database(self, tablespace: str = "pg_default") -> str:
        """The URL of a migrated database without rows, which belongs to the role."""
        if self._migrated is None:
            database = Database(self.new_database())
            database.migrate()
            database.close()
            self._migrated = database.url.database
        return self.new_database(tablespace, f"TEMPLATE {self._migrated}")

    def new_database(self, tablespace: str = "pg_default", *more: str) -> str:
        """The URL of a database without tables, which belongs to the role."""
        name = f"test_{uuid.uuid4().hex}"
        self.run(f"CREATE DATABASE {name} OWNER {_ROLE} TABLESPACE {tablespace} {' '.join(more)}")
        url = make_url("postgresql+psycopg://").set(
            username=_ROLE, password=_PASSWORD, host="127.0.0.1", port=self._port, database=name
        )
        return url.render_as_string(hide_password=False)

    def processes(self) -> list[int]:
        """All of its processes, the first of them first."""
        first = int((self.data / "postmaster.pid").read_text().split()[0])
        return [first, *map(int, Path(f"/proc/{first}/task/{first}/children").read_text().split())]

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Ended at once, as in a crash."""
        self.stop()
        try:
            yield
        finally:
            self.start()

    @contextmanager
    def hung(self) -> Iterator[None]:
        """Every process stands still: connections are taken by the kernel, and nobody says a word."""
        # The first one first: it begins no others then.
        first = self.processes()[0]
        os.kill(first, signal.SIGSTOP)
        stopped = self.processes()
        try:
            for pid in stopped[1:]:
                os.kill(pid, signal.SIGSTOP)
            yield
        finally:
            for pid in stopped:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)

    @contextmanager
    def read_only(self) -> Iterator[None]:
        """Nobody's transactions may write."""
        self.run("ALTER SYSTEM SET default_transaction_read_only = on", "SELECT pg_reload_conf()")
        try:
            yield
        finally:
            self.run("ALTER SYSTEM RESET default_transaction_read_only", "SELECT pg_reload_conf()")

    @contextmanager
    def another_password(self) -> Iterator[None]:
        """The role's password is not the one that it uses, and its connections are gone."""
        self.run(f"ALTER ROLE {_ROLE} PASSWORD 'another'", self._gone)
        try:
            yield
        finally:
            self.run(f"ALTER ROLE {_ROLE} PASSWORD '{_PASSWORD}'")

    @contextmanager
    def no_connections_left(self) -> Iterator[None]:
        """Every connection that the role may have is taken by others."""
        with ExitStack() as taken:
            held = 0
            for _ in range(_CONNECTIONS * 2):
                if held == _CONNECTIONS - _RESERVED:
                    break
                self.run(self._gone)
                with suppress(psycopg.OperationalError):
                    taken.enter_context(self._connect())
                    held += 1
            assert held == _CONNECTIONS - _RESERVED
            yield

    def _connect(self) -> psycopg.Connection[Any]:
        return psycopg.connect(
            host="127.0.0.1", port=self._port, user=_ROLE, password=_PASSWORD, dbname="postgres", autocommit=True
        )

    _gone = (
        f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{_ROLE}' AND datname <> 'postgres'"  # noqa: S608
    )

    @contextmanager
    def small_tablespace(self, disk: SmallDisk) -> Iterator[str]:
        """The name of a tablespace that lies on a small disk."""
        name, folder = f"small_{uuid.uuid4().hex}", disk.folder / "tablespace"
        folder.mkdir()
        owner = (self.data / "postmaster.pid").stat()
        os.chown(folder, owner.st_uid, owner.st_gid)
        self.run(f"CREATE TABLESPACE {name} LOCATION '{folder}'")
        yield name
        for (database,) in self.run(
            f"SELECT datname FROM pg_database d JOIN pg_tablespace t ON t.oid = dattablespace WHERE spcname = '{name}'"  # noqa: S608
        ):
            self.run(f"DROP DATABASE {database} WITH (FORCE)")
        self.run(f"DROP TABLESPACE {name}")


@contextmanager
def postgresql_of_ones_own() -> Iterator[PostgreSQL]:
    """A PostgreSQL until the end of the block."""
    with open_folder() as folder:
        server = PostgreSQL(folder)
        try:
            yield server
        finally:
            server.stop()


class Proxy:
    """Stands between a client and a server of PostgreSQL, and may swallow what the server says, and say nothing."""

    def __init__(self, url: URL, answers: float) -> None:
        """Listen on a port of loopback; let this many answers through, of which a log-in ends with one."""
        self.answers_left = answers
        self.connections = 0
        self._url = url
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Take no more connections."""
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self.connections += 1
                server = self._connect()
                threading.Thread(target=self._pass_on, args=(client, server), daemon=True).start()
                threading.Thread(target=self._answer, args=(server, client), daemon=True).start()

    def _connect(self) -> socket.socket:
        folder, port = self._url.query.get("host"), self._url.port or 5432
        if folder is None:
            return socket.create_connection((str(self._url.host), port))
        server = socket.socket(socket.AF_UNIX)
        server.connect(f"{folder}/.s.PGSQL.{port}")
        return server

    def _pass_on(self, client: socket.socket, server: socket.socket) -> None:
        with suppress(OSError), server:
            while content := client.recv(65536):
                server.sendall(content)

    def _answer(self, server: socket.socket, client: socket.socket) -> None:
        with suppress(OSError), client:
            while content := server.recv(65536):
                if self.answers_left > 0:
                    client.sendall(content)
                # Ready for the next query: the log-in ends so, and every answer.
                self.answers_left -= content[-6:-1] == b"Z\0\0\0\5"


@contextmanager
def silent_server(url: str, answers: float = float("inf")) -> Iterator[tuple[str, Proxy]]:
    """URL of the database through a proxy that falls silent after this many answers."""
    direct = make_url(url)
    proxy = Proxy(direct, answers)
    through = direct.difference_update_query(["host"]).set(host="127.0.0.1", port=proxy.port)
    try:
        yield through.render_as_string(hide_password=False), proxy
    finally:
        proxy.close()


class SmallDisk:
    """A disk of a few MiB, which can be filled to the last byte."""

    def __init__(self, folder: Path) -> None:
        """``folder`` is where it is mounted."""
        self.folder = folder

    def fill(self) -> None:
        """Fill the disk."""
        with suppress(OSError), (self.folder / "filler").open("ab", buffering=0) as filler:
            while filler.write(b"x" * 4096):
                pass

    def free(self) -> None:
        """Leave as much space as before."""
        (self.folder / "filler").unlink()


@contextmanager
def small_disk(mebibytes: int) -> Iterator[SmallDisk]:
    """A small disk, mounted for the block; the test is skipped where this process may mount none."""
    with open_folder() as around:
        folder = around / "disk"
        folder.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", f"size={mebibytes}m,mode=0755", "tmpfs", str(folder)]
        try:
            subprocess.run(mount, check=True, capture_output=True, text=True)
        except (OSError, subprocess.CalledProcessError) as error:
            reason = str(getattr(error, "stderr", "") or error).strip()
            pytest.skip(f"needs a small disk to fill, and this process may mount none ({reason})")
        try:
            yield SmallDisk(folder)
        finally:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)  # noqa: S607


@contextmanager
def sqlite_locked(path: Path) -> Iterator[None]:
    """Another program has the file to write, and does not let go of it."""
    other = sqlite3.connect(path, isolation_level=None, timeout=30)
    try:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")
    finally:
        other.close()
