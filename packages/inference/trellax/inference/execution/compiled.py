"""`Programs`: what was compiled, by key: counted, and in strict mode complete once warm-up is over.

programs = Programs(mesh=None, axis_rules=None, is_strict=True)
with programs.warm_up():
    programs.compiled(("draw", 8), draw_fn(variant), args, donated=(1,))     # returns once it is traced
program = programs.compiled(("draw", 8), …)      # from now on, a program that is not there is an error
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Hashable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax

from trellax.parallel import LogicalAxisRules, sharding_scope

MAX_THREADS = 8
"""That compile at once: more would wait for those that trace, and each holds the memory of a compiler."""


class CompiledTooLateError(RuntimeError):
    """A program was not compiled during warm-up, and the engine is strict."""


class Program:
    """A program that is compiled, or is about to be: whoever needs it first waits."""

    def __init__(self, pending: Future[jax.stages.Compiled]):
        self._pending = pending

    def __call__(self, *args: Any) -> Any:
        return self.compiled(*args)

    @functools.cached_property
    def compiled(self) -> jax.stages.Compiled:
        """What the compiler made of it, or its error."""
        return self._pending.result()


class Programs:
    """Compiles ahead of time, each program once.

    Attributes:
        num_compiles: programs so far.
    """

    def __init__(
        self,
        *,
        mesh: jax.sharding.Mesh | None,
        axis_rules: LogicalAxisRules | None,
        is_strict: bool,
    ):
        self._mesh, self._rules, self._is_strict = mesh, axis_rules, is_strict
        self._programs: dict[Hashable, Program] = {}
        self._threads: ThreadPoolExecutor | None = None
        self._is_warm = False
        self.num_compiles = 0

    def compiled(
        self,
        key: Hashable,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        donated: tuple[int, ...] = (),
    ) -> Program:
        """Returns the program of this key, compiled for arguments like `args` if it is not yet.

        Raises:
            CompiledTooLateError: it is not, warm-up is over, and that is an error.
        """
        program = self._programs.get(key)
        if program is None:
            if self._is_warm and self._is_strict:
                raise CompiledTooLateError(
                    f"A step needs a program that warm-up did not compile: {key}. Add its variant to those that are warmed "
                    f"up, or do not run strictly."
                )
            with self.scope():
                lowered = jax.jit(fn, donate_argnums=donated).lower(*args)
            program = self._programs[key] = Program(self._start(lowered.compile))
            self.num_compiles += 1
        return program

    def _start(self, compile_fn: Callable[[], jax.stages.Compiled]) -> Future[jax.stages.Compiled]:
        if self._threads is not None:
            return self._threads.submit(compile_fn)
        done: Future[jax.stages.Compiled] = Future()
        done.set_result(compile_fn())
        return done

    @contextlib.contextmanager
    def warm_up(self) -> Iterator[None]:
        """Inside, programs are compiled by other threads while the next ones are traced; at its end all are there.

        Tracing is Python, and compiling is not: together they take hardly longer than the longer one.
        """
        threads = ThreadPoolExecutor(min(os.cpu_count() or 1, MAX_THREADS), "compile")
        self._threads = threads
        try:
            yield
            for program in self._programs.values():
                program.compiled  # noqa: B018
            self._is_warm = True
        finally:
            self._threads = None
            threads.shutdown(cancel_futures=True)

    @contextlib.contextmanager
    def scope(self) -> Iterator[None]:
        """In which arrays are laid out on the mesh."""
        with sharding_scope(self._mesh, self._rules):
            yield
