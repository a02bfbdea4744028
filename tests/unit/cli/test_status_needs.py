"""The words of ``status`` about the share of calls that look-ups settled."""

from __future__ import annotations

from decimal import Decimal

import pytest

from webapp.cli.status_needs import lookup_share_warning
from webapp.storage.status import LookupShare


@pytest.mark.parametrize(
    ("settled", "by_lookup", "warn", "warns"),
    [
        (0, 0, "0.05", False),
        (100, 5, "0.05", False),
        (100, 6, "0.05", True),
        (1000, 50, "0.05", False),
        (1000, 51, "0.05", True),
        (3, 3, "1", False),
        (1000, 1, "0", True),
        (1000, 0, "0", False),
        (1000, 7, "0.007", False),
    ],
)
def test_more_than_the_share_that_is_set_is_warned_of(settled: int, by_lookup: int, warn: str, *, warns: bool) -> None:
    warning = lookup_share_warning(LookupShare(settled, by_lookup), Decimal(warn))

    assert (warning is not None) == warns
    if warning:
        assert f"({by_lookup} of {settled})" in warning
        assert "LOOKUP_SHARE_WARN" in warning
        assert "esms-calls callback-url" in warning
