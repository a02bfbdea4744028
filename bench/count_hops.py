"""Counts the functions of this program that one callback and one look-up pass through: ``python -m bench.count_hops``.

With ``--list`` it prints them in the order in which they are first called, each deeper than the one that calls it.

A small number of functions, in few files and a shallow stack, is easy to follow for someone who reads it for the first
time. Everything runs in this process, on a new SQLite database in a temporary folder.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import tempfile
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from bench.load import API_TOKEN, CALLBACK_TOKEN

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = f"{ROOT / 'webapp'}{os.sep}"
_COMPREHENSIONS = {"<listcomp>", "<genexpr>", "<dictcomp>", "<setcomp>"}
QUERY = "ReferenceId={}&CallDuration=0&CallStatus=&Ivr=&Price=0.0000&SentResult=0&CID=02871002454&SendStatus=5"


@dataclass
class Calls:
    """Calls of one function: how many functions are on the stack in the first, and how many calls there are."""

    depth: int
    number: int = 0


@dataclass
class Count:
    """The functions of the program that were called, in all threads, by file, line and name, in their first order."""

    functions: dict[tuple[str, int, str], Calls] = field(default_factory=dict)
    deepest: int = 0

    def profile(self, frame: FrameType, event: str, _argument: Any) -> None:
        """Count one call; for ``sys.setprofile``."""
        code = frame.f_code
        if event != "call" or not code.co_filename.startswith(PACKAGE) or code.co_name in _COMPREHENSIONS:
            return
        depth = sum(1 for _ in _own_frames(frame))
        function = (code.co_filename, code.co_firstlineno, code.co_qualname)
        self.functions.setdefault(function, Calls(depth)).number += 1
        self.deepest = max(self.deepest, depth)

    def __str__(self) -> str:
        """For people."""
        files = {name for name, _, _ in self.functions}
        calls = sum(found.number for found in self.functions.values())
        return (
            f"{len(self.functions)} functions in {len(files)} files, {calls} calls, "
            f"the deepest stack has {self.deepest} of them"
        )

    def listing(self) -> Iterator[str]:
        """The functions, with the number of their calls."""
        for (name, line, function), calls in self.functions.items():
            often = f" ({calls.number} calls)" if calls.number > 1 else ""
            yield f"{'  ' * calls.depth}{name.removeprefix(PACKAGE)}:{line} {function}{often}"


def _own_frames(frame: FrameType | None) -> Iterator[FrameType]:
    while frame:
        if frame.f_code.co_filename.startswith(PACKAGE):
            yield frame
        frame = frame.f_back


@contextmanager
def counting() -> Iterator[Count]:
    """Count what this thread, and threads that start meanwhile, call."""
    count = Count()
    threading.setprofile(count.profile)
    sys.setprofile(count.profile)
    try:
        yield count
    finally:
        sys.setprofile(None)
        threading.setprofile(None)


def request(reference_id: str) -> bytes:
    """A usual callback on the wire."""
    target = f"/esms/callback/{CALLBACK_TOKEN}?{QUERY.format(reference_id)}"
    return f"GET {target} HTTP/1.1\r\nHost: 127.0.0.1:8000\r\n\r\n".encode()


def count_callback(*, fast: bool) -> Count:
    """One callback, from the socket to the row and back, in a worker with or without the fast path."""
    from gunicorn.config import Config  # noqa: PLC0415 - what is measured is imported after the settings are there
    from gunicorn.glogging import Logger  # noqa: PLC0415

    from webapp.app import create_app  # noqa: PLC0415
    from webapp.callbacks import batch_writer  # noqa: PLC0415
    from webapp.web.fast_path import FastWorker  # noqa: PLC0415
    from webapp.web.worker import Connection, Worker  # noqa: PLC0415

    app = create_app()
    config = Config()
    kind = FastWorker if fast else Worker
    worker = kind(1, os.getppid(), [], SimpleNamespace(wsgi=lambda: app), 30, config, Logger(config))
    worker.load_wsgi()
    server, client = ("127.0.0.1", 8000), ("127.0.0.1", 9)
    here, there = socket.socketpair()
    with here, there:
        connection = Connection(there)
        batch_writer._IDLE_SECONDS = 0.2  # noqa: SLF001 - its thread must start anew, to be counted
        for number in range(3):
            here.sendall(request(f"{kind.__name__}-{number}"))
            worker.answer_next(server, connection, client)
            here.recv(65536)
        while any(thread.name == "batch-writer" for thread in threading.enumerate()):
            threading.Event().wait(0.1)
        here.sendall(request(f"{kind.__name__}-counted"))
        with counting() as count:
            worker.answer_next(server, connection, client)
        assert here.recv(65536).endswith(b'{"result":"settled"}\n')
    worker.tmp.close()
    app.extensions["ingest"].close()
    app.extensions["database"].close()
    return count


class _Settled(BaseHTTPRequestHandler):
    """An eSMS that knows a final outcome of every call."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Answer one look-up."""
        fields = {"CodeResponse": "100", "CallStatus": "ANSWERED", "CallDuration": 1, "SendStatus": 5, "SentResult": 1}
        body = json.dumps(fields).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Log nothing."""


def count_lookup() -> Count:
    """One ``esms-calls reconcile`` that finds one call due, from the command to the row."""
    from click.testing import CliRunner  # noqa: PLC0415

    from webapp.cli.commands import cli  # noqa: PLC0415

    with ThreadingHTTPServer(("127.0.0.1", 0), _Settled) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        os.environ["ESMS_API_URL"] = f"http://127.0.0.1:{server.server_port}/json"
        command = ["reconcile", "--older-than", "0s", "--json"]
        for name in ("warm", "counted"):
            CliRunner().invoke(cli, ["register"], input=name)
            with counting() as count:
                result = CliRunner().invoke(cli, command)
            assert json.loads(result.stdout)["settled"] == 1, result.output
        server.shutdown()
    return count


def main() -> None:
    """Print the counts; with ``--list`` also the functions."""
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        keys = {"ESMS_API_KEY": "key", "ESMS_SECRET_KEY": "secret-key"}
        os.environ.update(INSTANCE_DIR=folder, CALLBACK_TOKEN=CALLBACK_TOKEN, API_TOKEN=API_TOKEN, **keys)
        from webapp.storage.database import Database  # noqa: PLC0415
        from webapp.support.settings import load_settings  # noqa: PLC0415

        database = Database(load_settings().database)
        database.migrate()
        database.close()
        counts = {
            "a callback, fast path": count_callback(fast=True),
            "a callback, Flask view": count_callback(fast=False),
            "a look-up": count_lookup(),
        }
    for name, count in counts.items():
        sys.stdout.write(f"{name}: {count}\n")
        if "--list" in sys.argv:
            sys.stdout.writelines(f"{line}\n" for line in count.listing())


if __name__ == "__main__":
    main()
