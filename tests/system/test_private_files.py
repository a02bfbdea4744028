"""What the program makes is for its user alone, whatever the umask of the shell is."""

from __future__ import annotations

import os
import re
import signal
import stat
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import requests
from commands import done, run
from running import COMMAND, free_port
from until import until

from webapp.support import files

if TYPE_CHECKING:
    from collections.abc import Iterator


def readable_by_others(folder: Path) -> list[str]:
    """What others may read, write or enter, of all that is in the folder."""
    found = [path for path in folder.rglob("*") if stat.S_IMODE(path.lstat().st_mode) & 0o077 and not path.is_symlink()]
    return [f"{path.relative_to(folder)} {stat.S_IMODE(path.stat().st_mode):o}" for path in found]


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing is set, the working folder is empty, and the umask lets everyone read and write."""
    monkeypatch.chdir(tmp_path)
    for name in ("DATABASE_URL", "INSTANCE_DIR", "CALLBACK_TOKEN", "API_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    before = os.umask(0)
    yield
    os.umask(before)


def test_what_commands_make_is_for_their_user_alone(tmp_path: Path) -> None:
    done("migrate")
    done("register", stdin="a\n")
    for form in ("csv", "jsonl", "parquet"):
        done("export", "--format", form, "--output", f"calls.{form}")
    done("export", "--excel", "--output", "calls.xlsx")
    Path("calls.csv").chmod(0o644)
    done("export", "--output", "calls.csv")

    assert {"calls.db", "calls.csv", "calls.parquet", "calls.xlsx"} <= {path.name for path in tmp_path.rglob("*")}
    assert readable_by_others(tmp_path) == []


def test_a_draft_follows_no_link_and_replaces_no_file_that_another_user_put_there(tmp_path: Path) -> None:
    """In a folder that others may write to, as the temporary one of the machine."""
    done("migrate")
    done("register", stdin="a\n")
    victim = tmp_path / "of-another-user"
    victim.write_text("theirs")
    for name in (f".calls.csv.{os.getpid()}", f".esms-calls-{os.getpid()}", ".esms-calls-"):
        Path(name).symlink_to(victim)
    before = {path.name for path in tmp_path.iterdir()}

    done("export", "--output", "calls.csv")

    assert victim.read_text() == "theirs"
    assert {path.name for path in tmp_path.iterdir()} - before == {"calls.csv"}
    drafts = [files.new_draft(tmp_path, prefix="draft-") for _ in range(8)]
    for path, file in drafts:
        file.close()
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len({path for path, _ in drafts}) == 8


def test_serve_warns_of_what_others_may_read_or_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And of nothing else."""
    monkeypatch.setattr("webapp.cli.serve._become_gunicorn", lambda *_: None)

    def serve() -> list[tuple[str, ...]]:
        result = run("serve", "--bind", f"127.0.0.1:{free_port()}")
        assert result.exit_code == 0
        return re.findall(r"Warning: other users of this machine may ([a-z ]+) (\S+), .*: `(chmod \S+) ", result.stderr)

    assert serve() == []
    instance = tmp_path.resolve() / "instance"
    (tmp_path / ".env").write_text("VERIFY=off\n")
    (tmp_path / ".env").chmod(0o666)
    instance.chmod(0o710)
    (instance / "callback_token").chmod(0o640)
    warnings = serve()

    assert warnings == [
        ("read", f"{instance}/callback_token", "chmod 600"),
        ("read and write", f"{tmp_path.resolve()}/.env", "chmod 600"),
    ]
    instance.chmod(0o730)
    assert serve()[0] == ("write", str(instance), "chmod 700")


def test_what_the_server_makes_is_for_its_user_alone(tmp_path: Path) -> None:
    """Its database is away, so that it needs the spool."""
    away = f"postgresql://127.0.0.1:{free_port()}/calls"
    url = f"http://127.0.0.1:{free_port()}"
    server = subprocess.Popen(
        [COMMAND, "serve", "--bind", url.removeprefix("http://"), "--workers", "1"],
        env=os.environ | {"DATABASE_URL": away, "ANSWER_WITHIN": "1s"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        until(lambda: answers(url) or server.poll() is not None, seconds=60)
        token = Path("instance/callback_token").read_text("ascii").strip()
        answer = requests.get(f"{url}/esms/callback/{token}?ReferenceId=a&CallStatus=ANSWERED", timeout=60)
        variables = Path(f"/proc/{server.pid}/environ").read_bytes().split(b"\0")
        (counts,) = (
            Path(os.fsdecode(one.partition(b"=")[2]))
            for one in variables
            if one.startswith(b"PROMETHEUS_MULTIPROC_DIR=")
        )
        made = {path.name for folder in (tmp_path, counts) for path in folder.rglob("*")}
        readable = readable_by_others(tmp_path) + readable_by_others(counts)
        mode = stat.S_IMODE(counts.stat().st_mode)
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(30)

    assert answer.json() == {"result": "spooled"}
    assert {"callback_token", "api_token", "spool.db", "in-use"} <= made
    assert any(name.endswith(".db") and name.startswith("counter") for name in made)
    assert (readable, mode) == ([], 0o700)


def answers(url: str) -> bool:
    """Whether the server serves."""
    with suppress(requests.RequestException):
        return requests.get(f"{url}/healthz", timeout=5).ok
    return False
