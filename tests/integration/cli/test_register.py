"""The command register: counts, bad lines, and what is registered when it ends early."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import threading
from typing import TYPE_CHECKING

import pytest
from makers import NOW, callback, change_by_hand
from running import COMMAND

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from webapp.storage.database import Database
    from webapp.storage.reader import Reader
    from webapp.storage.writer import Writer
    from webapp.support.settings import Settings

from commands import ON_SQLITE, SET, done, run, wait_until


def test_register_counts_what_is_new_and_what_was_known(
    settings: Settings, writer: Writer, reader: Reader, tmp_path: Path
) -> None:
    writer.record([callback("heard", 1, call_status="BUSY")], NOW)
    file = tmp_path / "placed.csv"
    file.write_text(
        "reference_id,phone,placed_at,note,other\nA,0901888484,2026-11-23,x,y\nheard,1\nb\n", encoding="utf-8-sig"
    )

    first, second = run("register", file), run("register", stdin="a\nc\n")

    assert first.exit_code == second.exit_code == 0
    assert first.stdout == "registered 3, already known 0, bad lines 0\n"
    assert second.stdout == "registered 1, already known 1, bad lines 0\n"
    assert first.stderr == "registering: 3 calls, 0 bad lines\nignored columns: note, other\n"
    call = reader.call("a")
    assert call is not None
    assert (call["phone"], call["placed_at"]) == ("0901888484", "2026-11-22T17:00:00.000000Z")
    assert settings.time_zone.key == "Asia/Ho_Chi_Minh"


@SET
def test_register_names_bad_lines_and_registers_the_rest(reader: Reader) -> None:
    result = run("register", stdin=b"reference_id,phone\na,1\nx y,2\n\n" + b"\xff\nb,3\nc,4,5")

    assert (result.exit_code, result.stdout) == (1, "registered 2, already known 0, bad lines 3\n")
    named = [line for line in result.stderr.splitlines() if line.startswith("line ")]
    assert [line.partition(": ")[0] for line in named] == ["line 3", "line 5", "line 7"]
    assert "reference_id" in named[0]
    assert reader.count() == 2


@SET
def test_register_guesses_that_a_csv_lost_its_header() -> None:
    result = run("register", stdin="a\nb,0901888484\n")

    assert result.exit_code == 0
    assert "line 2 holds a comma and was taken as a ReferenceId" in result.stderr


@SET
def test_register_of_nothing_is_done() -> None:
    assert done("register", stdin="") == "registered 0, already known 0, bad lines 0\n"


@SET
def test_register_prints_its_counts_when_the_database_goes_away(
    database: Database, reader: Reader, tmp_path: Path
) -> None:
    fifo = tmp_path / "calls.csv"
    os.mkfifo(fifo)

    def feed() -> None:
        with fifo.open("w") as file:
            file.writelines(f"call-{number}\n" for number in range(1000))
            file.flush()
            wait_until(lambda: reader.count() == 1000)
            change_by_hand(database, "ALTER TABLE calls RENAME TO gone")
            file.writelines(f"more-{number}\n" for number in range(10))

    feeding = threading.Thread(target=feed)
    feeding.start()
    result = run("register", fifo)
    feeding.join()

    assert (result.exit_code, result.stdout) == (4, "registered 1000, already known 0, bad lines 0\n")
    assert "Error: The database cannot be used: " in result.stderr


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Processes that are started can be interrupted, also where the tests run in the background of a shell."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
@ON_SQLITE
@SET
def test_interrupted_register_prints_its_counts(reader: Reader) -> None:
    with subprocess.Popen(
        [COMMAND, "register"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as registering:
        assert registering.stdin
        registering.stdin.writelines(f"call-{number}\n" for number in range(1500))
        registering.stdin.flush()
        wait_until(lambda: reader.count() == 1000)
        registering.send_signal(signal.SIGINT)
        out, err = registering.communicate(timeout=20)

    assert (registering.returncode, out) == (130, "registered 1000, already known 0, bad lines 0\n")
    assert "Interrupted." in err
    assert "Traceback" not in err


@ON_SQLITE
@SET
def test_register_that_reads_from_a_terminal_says_how_to_end() -> None:
    ours, theirs = pty.openpty()
    os.write(ours, b"a\nb\n\x04")
    result = subprocess.run([COMMAND, "register"], stdin=theirs, capture_output=True, text=True, check=False)
    os.close(ours)
    os.close(theirs)

    assert (result.returncode, result.stdout) == (0, "registered 2, already known 0, bad lines 0\n")
    assert "Ctrl-D" in result.stderr
