"""What each kind of annotation takes and refuses, elements of containers included."""

import enum
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Protocol

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.config_components import Attention, BaseLayer, Norm, Precision, relu
from trellax.config import REQUIRED, DType, Required, Template
from trellax.config.typecheck import Mismatch, conform


class _Named:
    def __init__(self, name):
        self.name = name


class _Level(enum.IntEnum):
    LOW = 1


class _HasName(Protocol):
    name: str


NORM = Norm.default_config()

ACCEPTED = [
    (1, int, 1),
    (1, Required[int], 1),
    (1, float, 1.0),
    (True, bool, True),
    ("x", str, "x"),
    (None, int | None, None),
    (1, int | float, 1),
    (REQUIRED, int, REQUIRED),
    ([1, 2], list[int], [1, 2]),
    ((1, 2), list[int], [1, 2]),
    ([1, 2], tuple[int, ...], (1, 2)),
    ([1, "a"], tuple[int, str], (1, "a")),
    ((), tuple[int, ...], ()),
    ([[1], [2]], list[list[int]], [[1], [2]]),
    ([1], Sequence[int], [1]),
    ((1,), Sequence[int], (1,)),
    ({"a": 1}, dict[str, float], {"a": 1.0}),
    ({"a": [1]}, Mapping[str, list[int]], {"a": [1]}),
    ("full", Literal["full", "none"], "full"),
    (Precision.FAST, Precision, Precision.FAST),
    ("bfloat16", DType, "bfloat16"),
    (_Named("int8"), DType, "int8"),
    ("float8_e4m3fn", DType | None, "float8_e4m3fn"),
    (relu, Callable[[float], float], relu),
    (Norm, type, Norm),
    (Norm, type[BaseLayer], Norm),
    (NORM, BaseLayer.Config, NORM),
    ([NORM], list[BaseLayer.Config | None], [NORM]),
    (NORM, Template, Template(NORM)),
    ({1: {2}}, Any, {1: {2}}),
    (_Level.LOW, int, _Level.LOW),
]


@pytest.mark.parametrize(("value", "annotation", "stored"), ACCEPTED)
def test_a_fitting_value_is_stored_in_normal_form(value, annotation, stored):
    result = conform(value, annotation)
    assert result == stored
    assert type(result) is type(stored)


def test_a_protocol_that_cannot_be_checked_takes_anything():
    assert conform(3, _HasName) == 3


REFUSED = [
    ("1", int, "expected int, got '1' (str)."),
    (True, int, "expected int, got True (bool)."),
    (1.0, int, "expected int, got 1.0 (float)."),
    (True, float, "expected float, got True (bool)."),
    (1, bool, "expected bool, got 1 (int)."),
    (None, int, "expected int, got None (NoneType)."),
    ("x", int | None, "expected int | None, got 'x' (str)."),
    ([1, "a"], list[int], "[1]: expected int, got 'a' (str)."),
    ([[1], [2, None]], list[list[int]], "[1][1]: expected int, got None (NoneType)."),
    ([[1], ["a"]], list[list[int]] | None, "[1][0]: expected int, got 'a' (str)."),
    ("ab", list[str], "expected list[str], got 'ab' (str)."),
    ((1, 2, 3), tuple[int, int], "expected tuple[int, int] (2 elements), got (1, 2, 3) (tuple)."),
    ({"a": "x"}, dict[str, int], "['a']: expected int, got 'x' (str)."),
    ({1: 1}, dict[str, int], "expected keys of type str, got 1 (int)."),
    ("half", Literal["full"], "expected one of 'full', got 'half' (str)."),
    ("FAST", Precision, "expected Precision (FAST, EXACT), got 'FAST' (str)."),
    (
        "float17",
        DType,
        "expected an array type such as 'float32' or 'bfloat16', got 'float17' (str).",
    ),
    (3, Callable, "expected Callable, got 3 (int)."),
    (int, type[BaseLayer], "expected type[BaseLayer], got the class int."),
    (
        Norm,
        BaseLayer.Config,
        "expected BaseLayer.Config, got the class Norm. Write Norm.default_config() for its config.",
    ),
    (NORM, Attention.Config, "expected Attention.Config, got Norm.Config."),
    (3, Template, "expected a config, got 3 (int)."),
]


@pytest.mark.parametrize(("value", "annotation", "message"), REFUSED)
def test_a_value_that_does_not_fit_is_refused_with_its_place(value, annotation, message):
    with pytest.raises(Mismatch) as e:
        conform(value, annotation)
    assert f"{e.value.suffix}: {e.value}".removeprefix(": ") == message


@given(
    st.recursive(st.integers() | st.text(), lambda s: st.lists(s) | st.dictionaries(st.text(), s))
)
def test_containers_of_any_are_copied_deeply_and_equal(value):
    stored = conform(value, Any)
    assert stored == value
    if isinstance(value, list | dict):
        assert stored is not value
