"""A server's folder is lost under load: everything that was answered 200 before the backup is there once restored."""

from __future__ import annotations

import json
import threading
import time
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import requests
from commands import done, run
from outages import sqlite_locked
from running import esms_calls, free_port, serving
from until import until

from webapp.support.server_lock import locked_for_restore

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SERVER = {"ANSWER_WITHIN": "1s"}


class Load:
    """Sends callbacks, one after the other in each of its threads, and keeps those that were answered 200."""

    def __init__(self, url: str, threads: int = 3) -> None:
        """``url`` is the CallbackUrl, without its query."""
        self._url = url
        self._ended = threading.Event()
        self._answered: list[str] = []
        self._threads = [threading.Thread(target=self._send, args=(number,)) for number in range(threads)]

    def answered(self) -> set[str]:
        """The ids that were answered 200 up to now."""
        return set(self._answered)

    def wait_for(self, more: int) -> None:
        """Wait until this many more are answered."""
        wanted = len(self._answered) + more
        until(lambda: len(self._answered) >= wanted)

    @contextmanager
    def going_on(self) -> Iterator[None]:
        """Send until the end of the block."""
        for thread in self._threads:
            thread.start()
        try:
            yield
        finally:
            self._ended.set()
            for thread in self._threads:
                thread.join()

    def _send(self, thread: int) -> None:
        with requests.Session() as session:
            number = 0
            while not self._ended.is_set():
                number += 1
                name = f"call-{thread}-{number}"
                try:
                    answer = session.get(f"{self._url}?ReferenceId={name}&SendStatus=5&SentResult=1", timeout=10)
                except requests.RequestException:
                    time.sleep(0.01)
                    continue
                if answer.status_code == 200:
                    self._answered.append(name)


def stored_ids() -> set[str]:
    """The ids of the calls that the database holds."""
    return {json.loads(line)["reference_id"] for line in done("export", "--format", "jsonl").splitlines()}


def test_what_was_answered_before_the_backup_survives_the_loss_of_the_folder(fresh: Path) -> None:
    instance, backup = fresh / "instance", fresh / "calls.backup"
    with ExitStack() as stack:
        url = stack.enter_context(serving(fresh / "log", **SERVER))
        token = (instance / "callback_token").read_text().strip()
        load = Load(f"{url}/esms/callback/{token}")
        stack.enter_context(load.going_on())
        load.wait_for(20)
        in_database = load.answered()
        with sqlite_locked(instance / "calls.db"):
            load.wait_for(10)  # These go to the spool.
            before = load.answered()
            made = esms_calls("backup", str(backup))
            assert made.returncode == 0, made.stderr
        load.wait_for(5)
        instance.rename(fresh / "lost")  # At once: while a folder is emptied, the server makes a new spool in it.
        time.sleep(0.1)

    # --force, for the server may have made the folder anew, and a spool in it.
    restored = done("restore", "--force", backup)
    done("spool", "drain")

    assert before - stored_ids() == set()
    assert len(before - in_database) >= 10
    assert ", 0 callbacks of the spool" not in restored
    assert (instance / "callback_token").read_text().strip() == token


def test_a_restore_is_refused_while_a_server_runs_and_a_server_while_a_restore(fresh: Path) -> None:
    backup = fresh / "calls.backup"
    with serving(fresh / "log", "--workers", "1"):
        done("backup", backup)
        before = (fresh / "instance" / "calls.db").stat()
        for options in ([], ["--force"]):
            refused = run("restore", *options, backup)
            assert refused.exit_code == 1
            assert f"a server runs in {fresh / 'instance'}: end it" in refused.stderr
        assert (fresh / "instance" / "calls.db").stat().st_ino == before.st_ino

    with locked_for_restore(fresh / "instance") as free:
        assert free
        refused_server = esms_calls("serve", "--bind", f"127.0.0.1:{free_port()}")
    assert refused_server.returncode == 1
    assert "a restore is under way: start the server when it has ended" in refused_server.stderr

    assert "Restored 0 calls" in done("restore", "--force", backup)
