"""Unit tests use no database."""

from __future__ import annotations

from typing import NoReturn

import pytest


@pytest.fixture
def shared() -> NoReturn:
    pytest.fail("A unit test uses no database: move it to tests/integration.")
