"""A real PgBouncer in transaction mode: each transaction gets any one of a few sessions."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from running import free_port
from servers import open_folder
from sqlalchemy import URL, make_url

if TYPE_CHECKING:
    from collections.abc import Iterator

_PROGRAM = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin")
NEEDS_PGBOUNCER = pytest.mark.skipif(
    _PROGRAM is None and not os.environ.get("CI"), reason="pgbouncer is not there (Debian: apt-get install pgbouncer)"
)


@contextmanager
def pgbouncer(database_url: str, *, sessions: int = 2, port: int | None = None) -> Iterator[str]:
    """URL of the database through a pooler with that many sessions, whose users come in without a password."""
    assert _PROGRAM, "pgbouncer is not there"
    direct = make_url(database_url)
    port = port or free_port()
    with open_folder() as folder:
        (folder / "users.txt").write_text(f'"{direct.username}" "{direct.password or ""}"\n')
        (folder / "pgbouncer.ini").write_text(_configuration(direct, folder, port, sessions))
        command = [_PROGRAM, "-q", *_identity(direct), str(folder / "pgbouncer.ini")]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            _wait_for(port, process)
            through = direct.difference_update_query(["host"]).set(host="127.0.0.1", port=port, password=None)
            yield through.render_as_string(hide_password=False)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=30)


def _configuration(direct: URL, folder: Path, port: int, sessions: int) -> str:
    host = direct.query.get("host") or direct.host or "127.0.0.1"
    return f"""
[databases]
* = host={host} port={direct.port or 5432}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = trust
auth_file = {folder}/users.txt
pool_mode = transaction
default_pool_size = {sessions}
max_client_conn = 200
"""


def _identity(direct: URL) -> list[str]:
    """As root it must take on another user: the one who owns the server's socket."""
    if os.geteuid():
        return []
    host = direct.query.get("host")
    owner = Path(str(host)).stat().st_uid if host else pwd.getpwnam("nobody").pw_uid
    return ["-u", pwd.getpwuid(owner).pw_name]


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    for _ in range(500):
        assert process.poll() is None, f"pgbouncer ended with {process.returncode}"
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.02)
    raise AssertionError("pgbouncer does not listen")
