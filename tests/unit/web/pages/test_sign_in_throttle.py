"""Those who try tokens wait longer each time."""

from __future__ import annotations

from webapp.web.pages.sign_in_throttle import Throttle


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_waits_double_after_three_failures_up_to_a_minute() -> None:
    clock = Clock()
    throttle = Throttle(clock)
    waits = []
    for _ in range(12):
        throttle.failed("203.0.113.7")
        waits.append(throttle.wait_seconds("203.0.113.7"))
        clock.now += waits[-1]
        assert throttle.wait_seconds("203.0.113.7") == 0

    assert waits == [0, 0, 1, 2, 4, 8, 16, 32, 60, 60, 60, 60]


def test_addresses_wait_apart_and_a_network_of_ipv6_together() -> None:
    throttle = Throttle(Clock())
    for address in ("203.0.113.7", "2001:db8:0:1::1", "::ffff:198.51.100.7"):
        for _ in range(5):
            throttle.failed(address)

    assert throttle.wait_seconds("203.0.113.8") == 0
    assert throttle.wait_seconds("2001:db8:0:1:ffff::9") > 0
    assert throttle.wait_seconds("2001:db8:0:2::1") == 0
    assert throttle.wait_seconds("198.51.100.7") > 0
    assert throttle.wait_seconds("::ffff:198.51.100.8") == 0


def test_failures_are_forgotten_after_an_hour_or_a_success() -> None:
    clock = Clock()
    throttle = Throttle(clock)
    for address in ("a", "b"):
        for _ in range(3):
            throttle.failed(address)
    throttle.succeeded("a")
    clock.now = 3601
    for address in ("a", "b"):
        throttle.failed(address)

    assert [throttle.wait_seconds(address) for address in ("a", "b")] == [0, 0]


def test_addresses_of_a_flood_take_no_more_memory() -> None:
    throttle = Throttle(Clock())
    for number in range(10_100):
        throttle.failed(str(number))

    assert len(throttle._failures) == 10_000  # noqa: SLF001 - what would grow
