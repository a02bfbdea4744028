"""nginx with the file of deploy/ in front of a receiver, without TLS, for what is measured through a proxy."""

from __future__ import annotations

import re
import socket
import subprocess
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from bench import load
from bench.programs import ROOT
from bench.receivers import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_START_SECONDS = 10
_MAIN = """daemon off; pid {folder}/nginx.pid; worker_processes 2; worker_rlimit_nofile 8192;
events {{ worker_connections 4096; }}
http {{
{temporary}
include {folder}/site.conf;
}}
"""


@contextmanager
def in_front_of(url: str, folder: Path) -> Iterator[str]:
    """The URL of an nginx that hands requests on to ``url``, until the end of the block; raises load.Missing."""
    program = load.find("nginx", "nginx")
    port = free_port()
    site = (ROOT / "deploy" / "nginx.conf").read_text()
    site = re.sub(r"(?m)^ *ssl_.*\n", "", site).replace("listen 443 ssl", f"listen 127.0.0.1:{port}")
    (folder / "site.conf").write_text(site.replace("/var/log/nginx", str(folder)).replace("http://127.0.0.1:8000", url))
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    temporary = "\n".join(f"{kind}_temp_path {folder}/{kind};" for kind in kinds)
    (folder / "main.conf").write_text(_MAIN.format(folder=folder, temporary=temporary))
    command = [program, "-p", str(folder), "-c", str(folder / "main.conf"), "-e", str(folder / "error.log")]
    with subprocess.Popen(command) as nginx:
        try:
            _wait_until_open(port, nginx)
            yield f"http://127.0.0.1:{port}"
        finally:
            nginx.terminate()


def _wait_until_open(port: int, nginx: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline and nginx.poll() is None:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.05)
    raise RuntimeError("nginx does not listen; its error.log may say why")
