"""The selection mechanism alone: order, refusals, errors."""

from __future__ import annotations

import pytest

from trellax.kernels import dispatch

BIG = dispatch.Implementation("big", lambda n: n, lambda n: None if n > 9 else f"{n} is small")
ANY = dispatch.Implementation("any", lambda n: n, dispatch.always)


def choose(call: int, requested: dispatch.Requested = None) -> dispatch.Choice:
    return dispatch.choose("op", (BIG, ANY), requested=requested, call=call)


def test_none_takes_the_first_that_is_able() -> None:
    assert choose(10).name == "big" and choose(10).alternatives == ("any",)
    assert choose(3).name == "any"
    assert choose(3).refusals == (dispatch.Refusal("big", "3 is small"),)


def test_choice_prints_as_a_short_report() -> None:
    assert str(choose(3)) == "op: any\n  refused big: 3 is small"
    assert str(choose(10)) == "op: big\n  also possible: any"


def test_a_name_is_an_order() -> None:
    with pytest.raises(dispatch.UnsupportedError, match="big: 3 is small"):
        choose(3, "big")
    assert choose(3, ["big", "any"]).name == "any"
