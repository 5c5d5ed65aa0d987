"""`Programs`: what was compiled, by key: counted, and in strict mode complete once warm-up is over.

programs = Programs(mesh=None, axis_rules=None, is_strict=True)
program = programs.compiled(("draw", 8), draw_fn(variant), args, donated=(1,))
programs.is_warm = True      # from now on, a program that is not there is an error
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Hashable, Iterator
from typing import Any

import jax

from trellax.parallel import LogicalAxisRules, sharding_scope


class CompiledTooLateError(RuntimeError):
    """A program was not compiled during warm-up, and the engine is strict."""


class Programs:
    """Compiles ahead of time, each program once.

    Attributes:
        is_warm: whether warm-up is over.
        num_compiles: programs so far.
        compile_seconds: that they took.
    """

    def __init__(
        self,
        *,
        mesh: jax.sharding.Mesh | None,
        axis_rules: LogicalAxisRules | None,
        is_strict: bool,
    ):
        self._mesh, self._rules, self._is_strict = mesh, axis_rules, is_strict
        self._programs: dict[Hashable, Any] = {}
        self.is_warm = False
        self.num_compiles = 0
        self.compile_seconds = 0.0

    def compiled(
        self,
        key: Hashable,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        donated: tuple[int, ...] = (),
    ) -> Callable[..., Any]:
        """Returns the program of this key, compiled for arguments like `args` if it is not yet.

        Raises:
            CompiledTooLateError: it is not, warm-up is over, and that is an error.
        """
        program = self._programs.get(key)
        if program is None:
            if self.is_warm and self._is_strict:
                raise CompiledTooLateError(
                    f"A step needs a program that warm-up did not compile: {key}. Add its variant to those that are warmed "
                    f"up, or do not run strictly."
                )
            started = time.perf_counter()
            with self.scope():
                lowered = jax.jit(fn, donate_argnums=donated).lower(*args)
                program = self._programs[key] = lowered.compile()
            self.num_compiles += 1
            self.compile_seconds += time.perf_counter() - started
        return program

    @contextlib.contextmanager
    def scope(self) -> Iterator[None]:
        """In which arrays are laid out on the mesh."""
        with sharding_scope(self._mesh, self._rules):
            yield
