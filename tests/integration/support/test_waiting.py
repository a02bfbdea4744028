"""How a process waits: plainly here, and under the server in greenlets that go on while blocking work is done aside."""

from __future__ import annotations

import subprocess
import sys
import threading
import time

import pytest

from webapp.support.waiting import Aside, at_most, directly, in_greenlets

IN_GREENLETS = "from gevent import monkey; monkey.patch_all()\n"
NATIVE = (
    "import threading, time, gevent\nfrom gevent.monkey import get_original\nsleep = get_original('time', 'sleep')\n"
)


def run_in_greenlets(program: str) -> str:
    """What a program prints in a process whose waiting is cooperative; it says nothing else."""
    done = subprocess.run(
        [sys.executable, "-c", f"{IN_GREENLETS}{NATIVE}from webapp.support.waiting import *\n{program}"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_without_greenlets_work_is_done_here_and_now_and_nothing_is_bounded() -> None:
    assert not in_greenlets()
    here = threading.get_ident()
    assert Aside(1)(threading.get_ident) == directly(threading.get_ident) == here
    with pytest.raises(ZeroDivisionError):
        Aside(1)(lambda: 1 / 0)
    with at_most(0.01):
        time.sleep(0.03)


def test_under_greenlets_others_go_on_while_work_is_done_aside_and_no_more_of_it_than_there_are_threads() -> None:
    program = """
assert in_greenlets()
running, most, ticks = [], [], []
def work():
    running.append(1); most.append(len(running)); sleep(0.1); running.pop()
    return 7
def tick():
    while True:
        ticks.append(1); time.sleep(0.01)
other = gevent.spawn(tick)
aside = Aside(2)
jobs = [gevent.spawn(aside, work) for _ in range(6)]
gevent.joinall(jobs)
print([job.value for job in jobs], max(most), len(ticks) > 15)
"""
    assert run_in_greenlets(program) == "[7, 7, 7, 7, 7, 7] 2 True\n"


def test_under_greenlets_an_error_of_work_aside_is_raised_where_it_was_asked_for_and_printed_nowhere() -> None:
    program = """
def work():
    raise KeyError("a")
aside = Aside(1)
for _ in range(2):
    try:
        aside(work)
    except KeyError as error:
        print(repr(error))
print(aside(lambda: 1))
"""
    assert run_in_greenlets(program) == "KeyError('a')\nKeyError('a')\n1\n"


def test_under_greenlets_long_work_gives_way_to_others_and_work_aside_need_not() -> None:
    program = """
seen = []
def work():
    for place in range(3):
        seen.append(place); give_way()
gevent.joinall([gevent.spawn(work), gevent.spawn(work)])
print(seen)
Aside(1)(work)
print(seen[6:])
"""
    assert run_in_greenlets(program) == "[0, 0, 1, 1, 2, 2]\n[0, 1, 2]\n"


def test_under_greenlets_a_block_that_lasts_too_long_is_ended() -> None:
    program = """
began = time.monotonic()
try:
    with at_most(0.1):
        time.sleep(30)
except TimeoutError:
    print(time.monotonic() - began < 5)
with at_most(0.1):
    pass
time.sleep(0.2)
print("and no other")
"""
    assert run_in_greenlets(program) == "True\nand no other\n"
