"""Starts a real Caddy, whose files lie in a folder of the test."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def start_caddy(folder: Path, configuration: str) -> subprocess.Popen[bytes]:
    """Caddy with this Caddyfile; it listens soon. All that it logs goes to ``caddy.log``."""
    (folder / "Caddyfile").write_text(configuration)
    homes = {variable: str(folder) for variable in ("HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME")}
    command = ["caddy", "run", "--config", str(folder / "Caddyfile"), "--adapter", "caddyfile"]
    with (folder / "caddy.log").open("wb") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, env={**homes, "PATH": os.environ["PATH"]})
