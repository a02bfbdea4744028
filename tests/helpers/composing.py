"""Runs what compose.yaml describes on this machine, where there is no engine: every command, with the real programs.

Names of services become ports of this machine, and paths inside containers become paths in a folder. Skipped: images,
networks, and what an engine does with privileges.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import yaml
from running import free_port
from servers import Cluster

if TYPE_CHECKING:
    from collections.abc import Mapping

ROOT = Path(__file__).parents[2]
COMPOSE = ROOT / "compose.yaml"
_PORTS = {"postgres": 5432, "receiver-1": 8000, "receiver-2": 8000}
"""Where services listen that others reach by name."""
_VARIABLE = re.compile(r"\$\{(\w+):\?[^}]*\}")


def described() -> dict[str, Any]:
    """The file as it is."""
    found: dict[str, Any] = yaml.safe_load(COMPOSE.read_text())
    return found


def wanted_variables() -> set[str]:
    """The names that must be set in .env."""
    return set(_VARIABLE.findall(COMPOSE.read_text()))


class Composed:
    """The services of compose.yaml as processes of this machine."""

    def __init__(self, folder: Path, variables: Mapping[str, str], **changes: Mapping[str, str]) -> None:
        """Start nothing yet. ``changes`` of a service are made to its command and to the files that it mounts."""
        self._folder = folder
        self._variables = variables
        self._changes = changes
        self._services: dict[str, Any] = described()["services"]
        self.ports = {name: free_port() for name in _PORTS}
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._clusters: list[Cluster] = []

    def url(self, name: str) -> str:
        """Where a service is reached, as the others reach it."""
        return f"http://127.0.0.1:{self.ports[name]}"

    def _changed(self, text: str, name: str) -> str:
        text = _VARIABLE.sub(lambda found: self._variables[found[1]], text)
        if name in _PORTS:
            text = text.replace(f"0.0.0.0:{_PORTS[name]}", f"127.0.0.1:{self.ports[name]}")
        for service, port in _PORTS.items():
            text = text.replace(f"{service}:{port}", f"127.0.0.1:{self.ports[service]}")
        for old, new in self._changes.get(name, {}).items():
            text = text.replace(old, new)
        return text

    def log(self, name: str) -> str:
        """All that a service printed."""
        return (self._folder / f"{name}.log").read_text()

    def environment(self, name: str) -> dict[str, str]:
        """What the service finds in its environment: nothing of this process but the way to the programs."""
        inside = self._folder / name
        inside.mkdir(exist_ok=True)
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        given = self._services[name].get("environment", {})
        own = {variable: self._changed(value, name) for variable, value in given.items()}
        homes = {variable: str(inside) for variable in ("HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME", "INSTANCE_DIR")}
        return {"PATH": path, **homes, **own}

    def command(self, name: str, *more: str) -> list[str]:
        """The command of a service, whose mounted files are changed copies in its folder."""
        service = self._services[name]
        entry = [Path(program).name for program in service.get("entrypoint", [])]
        words = [*entry, *(self._changed(word, name) for word in service["command"])]
        for mount in service.get("volumes", []):
            source, target = mount.split(":")[:2]
            if source.startswith("./"):
                copy = self._folder / Path(target).name
                copy.write_text(self._changed((ROOT / source).read_text(), name))
                words = [word.replace(target, str(copy)) for word in words]
        return [*words, *more]

    def start_postgres(self) -> None:
        """The database, with the settings of its command; the role and database that its image makes are made here."""
        home = self._folder / "cluster"
        home.mkdir()
        home.chmod(0o755)
        cluster, port = Cluster(home), self.ports["postgres"]
        self._clusters.append(cluster)
        program, *options = self.command("postgres")
        assert program == "postgres"
        settings = options[1::2]
        assert options[::2] == ["-c"] * len(settings)
        cluster.make("listen_addresses = '127.0.0.1'", f"port = {port}", *settings)
        cluster.start()
        made = self.environment("postgres")
        role, database = made["POSTGRES_USER"], made["POSTGRES_DB"]
        with psycopg.connect(host=str(cluster.data), port=port, user="postgres", autocommit=True) as connection:
            connection.execute(f"CREATE ROLE {role} LOGIN PASSWORD '{made['POSTGRES_PASSWORD']}'".encode())
            connection.execute(f"CREATE DATABASE {database} OWNER {role} ENCODING UTF8 TEMPLATE template0".encode())

    def run(self, name: str) -> subprocess.CompletedProcess[str]:
        """A service that does its work and ends."""
        command = self.command(name)
        return subprocess.run(
            command,
            env=self.environment(name),
            cwd=self._folder,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def start(self, name: str, *more: str) -> None:
        """A service that serves."""
        with (self._folder / f"{name}.log").open("ab") as log:
            self._running[name] = subprocess.Popen(
                self.command(name, *more),
                env=self.environment(name),
                cwd=self._folder,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def is_healthy(self, name: str, **environment: str) -> bool:
        """Whether the service's own health check succeeds."""
        _, *test = (self._changed(word, name) for word in self._services[name]["healthcheck"]["test"])
        found = self.environment(name) | environment
        return subprocess.run(test, env=found, capture_output=True, timeout=20, check=False).returncode == 0

    def kill(self, name: str) -> None:
        """End a service at once, as where its machine fails."""
        process = self._running.pop(name)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(20)

    def stop(self, name: str) -> int:
        """End a service as the engine does, within the grace that the file gives it; its exit code."""
        grace = {"30s": 30, "1m": 60}.get(self._services[name].get("stop_grace_period", ""), 10)
        process = self._running.pop(name)
        process.terminate()
        return process.wait(grace)

    def clean_up(self) -> None:
        """End all that still runs."""
        for name in list(self._running):
            self.kill(name)
        for cluster in self._clusters:
            cluster.stop()
