"""`Programs`: compiled side by side with tracing while warming up, complete afterwards, and errors reach who asked."""

from __future__ import annotations

import threading
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from trellax.inference.execution.compiled import CompiledTooLateError, Programs


def programs(*, is_strict: bool = True) -> Programs:
    return Programs(mesh=None, axis_rules=None, is_strict=is_strict)


def test_a_program_is_compiled_once_and_runs() -> None:
    found = programs()
    traced = []

    def double(x: jax.Array) -> jax.Array:
        traced.append(x)
        return 2 * x

    with found.warm_up():
        first = found.compiled("double", double, (jnp.ones(3),))
        assert found.compiled("double", double, (jnp.ones(3),)) is first
    assert found.compiled("double", double, (jnp.ones(3),)) is first
    assert first(jnp.ones(3)).tolist() == [2, 2, 2]
    assert found.num_compiles == len(traced) == 1


def test_the_next_program_is_traced_while_one_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    compile_fn, traced = jax.stages.Lowered.compile, threading.Event()

    def compile_once_the_other_is_traced(self: Any, *args: Any, **options: Any) -> Any:
        assert traced.wait(60)
        return compile_fn(self, *args, **options)

    def second(x: jax.Array) -> jax.Array:
        traced.set()
        return x + 1

    x = jnp.ones(())
    found = programs()
    with monkeypatch.context() as patch, found.warm_up():
        patch.setattr(jax.stages.Lowered, "compile", compile_once_the_other_is_traced)
        one = found.compiled("first", lambda x: x - 1, (x,))
        found.compiled("second", second, (x,))
    assert float(one(x)) == 0.0


def test_what_the_compiler_refuses_ends_the_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Any) -> Any:
        raise ValueError("no room")

    monkeypatch.setattr(jax.stages.Lowered, "compile", refuse)
    found = programs()
    with pytest.raises(ValueError, match="no room"), found.warm_up():
        found.compiled("any", lambda x: x, (1.0,))
    with pytest.raises(ValueError, match="no room"):
        found.compiled("other", lambda x: x, (1.0,))


def test_after_the_warm_up_a_strict_engine_compiles_nothing() -> None:
    strict, other = programs(), programs(is_strict=False)
    for found in (strict, other):
        with found.warm_up():
            pass
    with pytest.raises(CompiledTooLateError, match="late"):
        strict.compiled("late", lambda x: x, (1.0,))
    assert float(other.compiled("late", lambda x: x, (1.0,))(1.0)) == 1.0
