"""Where arrays live: the mesh, the shardings of state and batches, and the jitted functions.

placement = Placement(mesh_shape, axis_rules)
state = placement.init(train_step.init, specs)
step_fn = placement.trace_step(train_step, specs, placement.put_batch(batch)).lower().compile()
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from trellax.parallel import (
    LogicalAxisRules,
    MeshShape,
    build_mesh,
    named_sharding,
    sharding_scope,
    shardings_for,
)

Tree = dict[str, Any]


class Placement:
    """A mesh and rules, and everything that follows from them."""

    def __init__(
        self,
        mesh_shape: MeshShape,
        rules: LogicalAxisRules,
        devices: Sequence[Any] | None = None,
        *,
        mesh: Any = None,
    ):
        """
        Args:
            mesh_shape: how the devices are arranged.
            rules: which mesh axes split each logical axis.
            devices: all devices of all processes by default.
            mesh: takes the place of `mesh_shape` and `devices`: an abstract mesh, to trace for.
        """
        self.mesh = build_mesh(mesh_shape, devices=devices) if mesh is None else mesh
        self.rules = rules

    @contextlib.contextmanager
    def scope(self) -> Iterator[None]:
        """Inside, layers' sharding constraints act on this mesh."""
        with sharding_scope(self.mesh, self.rules):
            yield

    def shardings(self, specs: Tree) -> Tree:
        """Returns the shardings of a tree of specs."""
        return shardings_for(specs, self.mesh, self.rules)

    def abstract(self, specs: Tree) -> Tree:
        """Returns the tree of `ShapeDtypeStruct`s with shardings, the target of a restore."""
        return jax.tree.map(
            lambda spec, sharding: jax.ShapeDtypeStruct(spec.shape, spec.dtype, sharding=sharding),
            specs,
            self.shardings(specs),
            is_leaf=lambda x: hasattr(x, "logical_axes"),
        )

    def init(self, init_fn: Callable[[], Tree], specs: Tree) -> Tree:
        """Runs `init_fn` so that every array is made where it belongs."""
        shardings, options = self.shardings(specs), self._run_once_options()
        with self.scope():
            return jax.jit(init_fn, out_shardings=shardings, compiler_options=options)()

    def trace_step(
        self, step_fn: Callable[..., Any], specs: Tree, batch: Tree
    ) -> jax.stages.Traced:
        """Traces `step_fn(state, batch) -> (state, metrics)`; the state is donated.

        Args:
            step_fn: the function.
            specs: specs of the state.
            batch: arrays, or `ShapeDtypeStruct`s with shardings.
        """
        jitted = jax.jit(step_fn, donate_argnums=0, out_shardings=(self.shardings(specs), None))
        with self.scope():
            return jitted.trace(self.abstract(specs), batch)

    def jit(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        """Jits a function that keeps its inputs (evaluation)."""
        jitted = jax.jit(fn)

        def call(*args: Any) -> Any:
            with self.scope():
                return jitted(*args)

        return call

    def _run_once_options(self) -> dict[str, int]:
        """Compiler options of what runs once: on a CPU, compiling it takes a hundred times longer
        than running it. Parameters came out the same to the bit at this level, at level 0 not."""
        is_cpu = self.mesh.devices.flat[0].platform == "cpu"
        return {"xla_backend_optimization_level": 1} if is_cpu else {}

    def abstract_batch(self, spec: Tree) -> Tree:
        """Returns the shapes of a global batch with the shardings that `put_batch` gives it."""
        return {
            name: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=self._row_sharding(x.shape))
            for name, x in spec.items()
        }

    def put_batch(self, batch: dict[str, np.ndarray]) -> Tree:
        """Makes global arrays out of this process's rows."""
        return {name: self._put_rows(rows) for name, rows in batch.items()}

    def _put_rows(self, rows: np.ndarray) -> jax.Array:
        shape = (rows.shape[0] * jax.process_count(), *rows.shape[1:])
        return jax.make_array_from_process_local_data(self._row_sharding(shape), rows, shape)

    def _row_sharding(self, shape: tuple[int, ...]) -> jax.sharding.NamedSharding:
        axes = ("batch", "length")[: len(shape)] + (None,) * max(0, len(shape) - 2)
        return named_sharding(self.mesh, self.rules, axes, shape)
