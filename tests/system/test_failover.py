"""Two receivers behind Caddy and PgBouncer; the replica of their PostgreSQL is promoted in mid-load (`make soak`)."""

from __future__ import annotations

import os
import shutil
from contextlib import contextmanager, suppress
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, NamedTuple

import psycopg
import pytest
import requests
from caddy import start_caddy
from constants import SOAK
from ledger import SEED, Ledger, Load, Receiver, all_is_well, lasting
from pooling import NEEDS_PGBOUNCER, pgbouncer
from running import free_port
from servers import Cluster, open_folder
from until import until

from webapp.storage.database import Database

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [
    NEEDS_PGBOUNCER,
    pytest.mark.skipif(not SOAK, reason="a minute; `make soak` runs it"),
]
CADDYFILE = Path(__file__).parents[2] / "deploy" / "compose" / "Caddyfile"
_CLIENTS = 6
_BALANCED, _POLICY = "receiver-1:8000 receiver-2:8000", "lb_policy round_robin"


class Pair:
    """A primary whose commits wait for its replica, and the address that leads to the one that is the primary."""

    def __init__(self, folder: Path) -> None:
        """Start both."""
        first, second = folder / "first", folder / "second"
        for one in (first, second):
            one.mkdir()
            one.chmod(0o755)
        self.primary, self.replica = Cluster(first), Cluster(second)
        self.address = folder / "primary"
        self._lead_to(self.primary)
        self.primary.make()
        self.primary.start()
        self.replica.make_replica_of(self.primary)
        self.replica.start()
        # Only now, or nothing could be written before the replica is there. The replica has no such setting.
        self._run(self.primary, "ALTER SYSTEM SET synchronous_standby_names = '*'", "SELECT pg_reload_conf()")
        until(self._is_synchronous, 20, "commits wait for the replica")

    def _lead_to(self, cluster: Cluster) -> None:
        new = self.address.with_suffix(".new")
        new.symlink_to(cluster.data)
        new.replace(self.address)

    def _is_synchronous(self) -> bool:
        states = self._run(self.primary, "SELECT sync_state FROM pg_stat_replication")
        return states == [("sync",)]

    @staticmethod
    def _run(cluster: Cluster, *statements: str) -> list[tuple[object, ...]]:
        with psycopg.connect(host=str(cluster.data), user="postgres", autocommit=True) as connection:
            for statement in statements:
                cursor = connection.execute(statement.encode())
            return cursor.fetchall()

    @property
    def url(self) -> str:
        """Where the primary is, whichever of the two it is."""
        return f"postgresql+psycopg://postgres@/postgres?host={self.address}"

    def fail(self) -> None:
        """The primary is gone, as with its machine."""
        self.primary.stop()

    def promote(self) -> None:
        """The replica is the primary from now on."""
        self.replica.promote()
        self._lead_to(self.replica)

    def clean_up(self) -> None:
        """Stop what still runs."""
        for cluster in (self.primary, self.replica):
            if cluster.is_running():
                cluster.stop()


class Balancer(NamedTuple):
    """What clients see of the receivers."""

    port: int
    url: str


@contextmanager
def balancing(folder: Path, one: Receiver, other: Receiver) -> Iterator[Balancer]:
    """The Caddy of compose.yaml in front of both."""
    port = free_port()
    described = CADDYFILE.read_text()
    assert _BALANCED in described
    assert _POLICY in described
    changed = described.replace(_BALANCED, f"127.0.0.1:{one.port} 127.0.0.1:{other.port}")
    # Caddy sends a GET again where a receiver died with it, as eSMS would: here the ledger has to know of each.
    changed = changed.replace(_POLICY, f"{_POLICY}\n\t\tlb_retry_match {{\n\t\t\texpression false\n\t\t}}")
    changed = changed.replace("\n:8080 {", f"\nhttp://127.0.0.1:{port} {{").replace("{$SITE} {", f":{free_port()} {{")
    program = start_caddy(folder, changed.replace("{\n\t# Caddy logs", "{\n\tadmin off\n\t# Caddy logs"))
    try:
        balancer = Balancer(port, f"http://127.0.0.1:{port}")
        until(lambda: _answers(balancer.url), 20, "Caddy answers")
        yield balancer
    finally:
        program.terminate()
        program.wait(20)


def _answers(url: str) -> bool:
    with suppress(requests.ConnectionError):
        return requests.get(f"{url}/healthz", timeout=5).ok
    return False


@pytest.fixture
def folder() -> Iterator[Path]:
    if shutil.which("caddy") is None and "CI" not in os.environ:
        pytest.skip("caddy is not there (Debian: apt-get install caddy)")
    with open_folder() as folder:
        yield folder


@pytest.fixture
def pair(folder: Path) -> Iterator[Pair]:
    pair = Pair(folder)
    try:
        yield pair
    finally:
        pair.clean_up()


def test_a_primary_that_dies_and_a_receiver_that_dies_cost_nothing_that_was_answered(pair: Pair, folder: Path) -> None:
    ledger, random = Ledger(), Random(SEED)  # noqa: S311
    print(f"DURABILITY_SEED={SEED} repeats this")
    with pgbouncer(pair.url, sessions=20) as through:
        receivers = []
        for name in ("one", "other"):
            (folder / name).mkdir()
            receivers.append(Receiver(folder / name, DATABASE_URL=through, TRUSTED_PROXIES="1"))
        one, other = receivers
        try:
            assert one.run("migrate").returncode == 0
            one.start()
            other.start()
            with (
                balancing(folder, one, other) as balancer,
                Load(balancer, ledger=ledger, random=random, clients=_CLIENTS) as load,
            ):
                load.until_effects_again()
                load.go_on(lasting(1, 10))
                pair.fail()
                began = load.go_on(lasting(1, 5))
                load.until_answered("spooled", began)
                pair.promote()
                load.until_effects_again(60)

                load.go_on(lasting(1, 5))
                one.kill()
                load.until_effects_again()
                one.start()
                load.go_on(lasting(1, 10))
            # What Caddy says for a receiver that died with the request.
            died_with = [entry for entry in ledger.entries if entry.status == 502]
            for entry in died_with:
                entry.status = None
            database = Database(pair.url)
            try:
                all_is_well([one, other], database, ledger, in_time=False)
            finally:
                database.close()
        finally:
            one.clean_up()
            other.clean_up()
    assert ledger.results()["settled"] > 100
    assert len(died_with) <= _CLIENTS
