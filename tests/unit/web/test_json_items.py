"""Reading JSON item by item gives what reading it at once gives."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from webapp.web.json_items import json_items

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(VALUES, st.sampled_from(["", " ", "\n\t\r "]), st.sampled_from([None, 1]))
def test_every_json_value_is_read(value: Any, blanks: str, indent: int | None) -> None:
    text = f"{blanks}{json.dumps(value, indent=indent)}{blanks}"

    assert list(json_items(text)) == (value if isinstance(value, list) else [value])


@given(st.text('[]{},:1"a \n', max_size=8))
def test_what_is_no_json_is_an_error_and_nothing_else_is(text: str) -> None:
    try:
        value = json.loads(text)
    except ValueError:
        with pytest.raises(ValueError):  # noqa: PT011 - of any kind
            list(json_items(text))
    else:
        assert list(json_items(text)) == (value if isinstance(value, list) else [value])
