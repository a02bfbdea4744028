"""Runs the Dockerfile's steps in a clean folder, for machines without an engine.

Every absolute path of the image lies under that folder instead. Skipped, and said so: the base images, and what needs
another user. It ends with the image's own command and its health check, against the embedded database.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from running import free_port, wait_until_healthy

ROOT = Path(__file__).parents[2]
IMAGE_PATHS = ("/src", "/opt", "/data", "/srv")


class Image:
    """A folder that stands for the image's root, and what the Dockerfile has set so far."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.work = folder
        self.environment: dict[str, str] = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        self.commands: dict[str, str] = {}

    def inside(self, text: str) -> str:
        """Image paths in ``text``, moved into the folder."""
        return re.sub(rf"(?<![\w/])({'|'.join(IMAGE_PATHS)})\b", rf"{self.folder}\1", text)

    def step(self, instruction: str, rest: str) -> None:
        """Do one instruction."""
        handler = getattr(self, f"do_{instruction.lower()}", None)
        print(f"{instruction} {rest}" if handler else f"(skipped) {instruction} {rest}", flush=True)
        if handler:
            handler(rest)

    def do_workdir(self, rest: str) -> None:
        self.work = Path(self.inside(rest))
        self.work.mkdir(parents=True, exist_ok=True)

    def do_env(self, rest: str) -> None:
        for pair in shlex.split(rest):
            name, value = pair.split("=", 1)
            self.environment[name] = self.inside(value).replace("$PATH", self.environment["PATH"])

    def do_copy(self, rest: str) -> None:
        *options, target = shlex.split(rest)
        sources = [source for source in options if not source.startswith("--")]
        for source in sources:
            # From an earlier stage: the folder is one for all stages, so that nothing moves.
            origin = Path(self.inside(source)) if options[0].startswith("--from=") else ROOT / source
            into = Path(self.inside(target)) if target.startswith("/") else self.work / target
            place = into / origin.name if target.endswith("/") else into
            if place != origin:
                place.parent.mkdir(parents=True, exist_ok=True)
                copy = shutil.copytree if origin.is_dir() else shutil.copy2
                copy(origin, place)

    def do_run(self, rest: str) -> None:
        steps = [step.strip() for step in rest.split("&&")]
        for step in steps:
            if step.startswith(("useradd", "install --directory --owner")):
                print(f"  (skipped, needs another user) {step}")
                continue
            subprocess.run(shlex.split(self.inside(step)), cwd=self.work, env=self._all(), check=True)
        Path(f"{self.folder}/data").mkdir(exist_ok=True)

    def do_healthcheck(self, rest: str) -> None:
        self.commands["HEALTHCHECK"] = rest[rest.index("[") :]

    def do_cmd(self, rest: str) -> None:
        self.commands["CMD"] = rest

    def run(self) -> None:
        """Start the image's command on a free port, and ask its health check."""
        port = str(free_port())
        command, check = (
            [self.inside(word).replace("8000", port) for word in json.loads(self.commands[name])]
            for name in ("CMD", "HEALTHCHECK")
        )
        command[0] = str(shutil.which(command[0], path=self.environment["PATH"]))
        with subprocess.Popen(command, cwd=self.work, env=self._all()) as server:
            try:
                wait_until_healthy(f"http://127.0.0.1:{port}", server)
                subprocess.run(check, cwd=self.work, env=self._all(), check=True)
            finally:
                server.terminate()
        assert server.returncode == 0, server.returncode
        assert Path(f"{self.folder}/data/calls.db").is_file()
        self._migrate_with_alembic()

    def _migrate_with_alembic(self) -> None:
        alembic = [f"{self.folder}/opt/esms-calls/bin/alembic", "current"]
        shown = subprocess.run(alembic, cwd=self.work, env=self._all(), check=True, capture_output=True, text=True)
        assert "(head)" in shown.stdout, shown.stdout + shown.stderr

    def _all(self) -> dict[str, str]:
        return {"HOME": str(self.folder)} | self.environment


def instructions(dockerfile: str) -> list[tuple[str, str]]:
    """The instructions of a Dockerfile, their lines joined, without comments."""
    joined = re.sub(r"\\\n\s*", " ", re.sub(r"(?m)^#.*\n", "", dockerfile))
    found = [line.split(maxsplit=1) for line in joined.splitlines() if line.strip()]
    return [(instruction, rest) for instruction, rest in found]


def main() -> None:
    """Build and run."""
    with tempfile.TemporaryDirectory() as folder:
        image = Image(Path(folder))
        for instruction, rest in instructions((ROOT / "Dockerfile").read_text()):
            image.step(instruction, rest)
        image.run()
    print("Every step ran, the server was healthy, and its database is at the newest migration.")


if __name__ == "__main__":
    main()
