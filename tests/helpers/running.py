"""Runs the program as a user does: its commands in processes of their own, its server on a free port."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import requests

if TYPE_CHECKING:
    from collections.abc import Iterator

COMMAND = str(Path(sys.executable).with_name("esms-calls"))


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def esms_calls(*arguments: str, stdin: str | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    """One command, run to its end, with what it printed."""
    return subprocess.run(
        [COMMAND, *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env=os.environ | environment,
    )


@contextmanager
def serving(log: Path, *arguments: str, **environment: str) -> Iterator[str]:
    """The address of a server that runs until the end of the block; all that it prints goes to ``log``."""
    address = f"127.0.0.1:{free_port()}"
    with log.open("w") as output:
        server = subprocess.Popen(
            [COMMAND, "serve", "--bind", address, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=os.environ | environment,
        )
    try:
        wait_until_healthy(f"http://{address}", server)
        yield f"http://{address}"
    finally:
        server.terminate()
        server.wait(timeout=40)


def wait_until_healthy(url: str, server: subprocess.Popen[bytes], *, seconds: int = 30) -> None:
    """Return once the server answers; fail if it ends instead."""
    for _ in range(seconds * 10):
        assert server.poll() is None, f"the server ended with {server.returncode}"
        try:
            requests.get(f"{url}/healthz", timeout=5).raise_for_status()
        except requests.RequestException:
            time.sleep(0.1)
        else:
            return
    raise AssertionError(f"the server did not answer within {seconds} s")
