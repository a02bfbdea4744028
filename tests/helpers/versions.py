"""Two versions of the program at once: today's, and a next one, which is a copy of it with one migration more."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ledger import Receiver
from running import COMMAND

from webapp.storage.schema import newest_migration

if TYPE_CHECKING:
    import socket
    from collections.abc import Mapping, Sequence

ROOT = Path(__file__).parents[2]
NEXT_MIGRATION = "9876"
_MIGRATION = f'''"""What a next version may add."""

import sqlalchemy as sa
from alembic import op

revision = "{NEXT_MIGRATION}"
down_revision = "{newest_migration()}"


def upgrade() -> None:
    """Add a column to each of the two large tables, one of them with a default, a table and an index."""
    op.add_column("calls", sa.Column("mood", sa.Text()))
    op.add_column("status_reports", sa.Column("mood", sa.Text(), nullable=False, server_default="none"))
    op.create_table("moods", sa.Column("id", sa.Integer(), primary_key=True))
    op.create_index("ix_calls_mood", "calls", ["mood"])


def downgrade() -> None:
    """Drop them."""
'''
_WITH_A_SOCKET = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1")
os.execv(sys.argv[2], sys.argv[2:])
"""


def make_next_version(folder: Path) -> None:
    """Make the next version in ``folder``: with that as PYTHONPATH, ``esms-calls`` is this version."""
    for name in ("webapp", "migrations"):
        shutil.copytree(ROOT / name, folder / name)
    (folder / "migrations" / "versions" / f"{NEXT_MIGRATION}_mood.py").write_text(_MIGRATION)


class Installed:
    """``esms-calls`` as it is installed, in a process of its own; what a ``Program`` can do with it."""

    def __init__(
        self,
        *arguments: str,
        environment: Mapping[str, str],
        stdout: Path,
        stderr: Path,
        folder: Path,
        listener: socket.socket | None = None,
    ) -> None:
        """Start it. ``listener``: it is handed this listening socket, as systemd does."""
        command: Sequence[str] = [COMMAND, *arguments]
        if listener:
            command = [sys.executable, "-c", _WITH_A_SOCKET, str(listener.fileno()), *command]
        with stdout.open("ab") as out, stderr.open("ab") as errors:
            self._process = subprocess.Popen(
                command,
                env={**os.environ, **environment},
                stdout=out,
                stderr=errors,
                cwd=folder,
                pass_fds=[listener.fileno()] if listener else [],
                start_new_session=True,
            )
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        """None while it runs."""
        return self._process.returncode

    def poll(self) -> int | None:
        """The same, looked up now."""
        return self._process.poll()

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end."""
        return self._process.wait(timeout)

    def kill(self) -> None:
        """End it and its children at once."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()

    def children(self) -> list[int]:
        """The processes that it has started."""
        with suppress(OSError):
            return [int(pid) for pid in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()]
        return []


class InstalledReceiver(Receiver):
    """A receiver whose program is started as a user does, so that it can be another version."""

    def __init__(self, folder: Path, *, listener: socket.socket | None = None, **environment: str) -> None:
        """Start nothing yet. ``listener`` is the socket that it serves on, else it opens one of its own."""
        super().__init__(folder, **environment)
        self._listener = listener
        if listener:
            self.port = listener.getsockname()[1]
            self.url = f"http://127.0.0.1:{self.port}"

    def launch(self, *arguments: str, **options: Any) -> Installed:
        """Start the program."""
        return Installed(*arguments, listener=self._listener, **options)
