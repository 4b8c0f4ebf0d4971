"""Objects that name a field twice, in whatever spelling and at whatever depth."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tronsave_async.duplicates import has_unique_names

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=12,
)


@pytest.mark.parametrize(
    "text",
    [
        '{"a":1,"a":1}',
        '{"a":1,"\\u0061":2}',
        '{"b":{"a":1,"c":2,"a":3}}',
        '[1,[{"a":1},{"a":1,"a":2}]]',
        '{"":0,"":1}',
    ],
)
def test_a_name_that_comes_twice_is_found(text: str) -> None:
    """In text and in bytes, with equal values as well: who repeats a name may mean either."""
    assert not has_unique_names(text)
    assert not has_unique_names(text.encode())
    assert not has_unique_names(memoryview(text.encode()))


@pytest.mark.parametrize(
    "text",
    ["{}", "[]", "1", '"a"', '{"a":{"a":{"a":1}}}', '[{"a":1},{"a":2}]', '{"a":1,"A":2}'],
)
def test_names_of_different_objects_may_be_equal(text: str) -> None:
    """Only within one object is a name taken."""
    assert has_unique_names(text)
    assert has_unique_names(text.encode())


@pytest.mark.parametrize("text", ["", "{", '{"a":}', "{'a':1}", "[" * 100_000, '{"a":1}x'])
def test_what_is_no_json_proves_nothing(text: str) -> None:
    """Nor does what is nested beyond all reason."""
    assert not has_unique_names(text)


def test_numbers_of_any_length_and_bytes_that_are_no_text_are_passed_over() -> None:
    """Whether they mean anything is for others to say."""
    assert has_unique_names('{"a":' + "9" * 10_000 + ',"b":NaN,"c":1e999999999}')
    assert has_unique_names(b'{"a":"\xff"}')


@given(JSON)
def test_what_was_written_from_objects_has_unique_names(value: object) -> None:
    """A dictionary cannot hold a name twice."""
    assert has_unique_names(json.dumps(value))


@given(st.dictionaries(st.text(max_size=3), JSON, min_size=1, max_size=4), JSON, st.data())
def test_one_name_more_is_noticed(
    fields: dict[str, object], value: object, data: st.DataObject
) -> None:
    """Any field of any object, repeated at its end."""
    name = data.draw(st.sampled_from(sorted(fields)))
    twice = json.dumps(fields)[:-1] + f", {json.dumps(name)}: {json.dumps(value)}" + "}"
    assert not has_unique_names(twice)
