"""A repeated layer whose copies are spread over the devices of the mesh axis `pipeline`.

    replace_config(cfg, ScannedStack, PipelinedStack.default_config().set(num_microbatches=8))

The batch is cut into microbatches that follow each other through the stages. Parameters, checkpoints and results are
those of `ScannedStack`.

Axes: B batch, S sequence, D model, L layers, M microbatches, Q parts of one, P stages, V repeats, K layers of a chunk.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from trellax.config import REQUIRED, Required
from trellax.layers.base import is_spec
from trellax.layers.module import OutputCollection, structural
from trellax.layers.stack.base import absorb, isolated, resumed
from trellax.layers.stack.collections import averaged
from trellax.layers.stack.microbatches import Microbatches, join_rows, split_rows
from trellax.layers.stack.one_forward_one_backward import one_forward_one_backward
from trellax.layers.stack.refusals import layer_refusal, num_row_parts, row_refusal
from trellax.layers.stack.repeated import RepeatedStack
from trellax.layers.stack.rotation import AXIS, STREAM, on_parts, on_stages, parted, rotate
from trellax.layers.stack.stages import Schedule, StagePlan, bubble_fraction, even_chunks
from trellax.parallel import RematPolicy, RunShape, constrain, current_scope


class PipelinedStack(RepeatedStack):
    """Runs as many stages as the mesh in scope has devices along `pipeline`.

    With one stage, or no mesh, it is a `ScannedStack`. So it is while decoding (the call carries state), and in
    evaluation if the rows do not divide into microbatches: then each device fetches the layers of the others.
    Training refuses such rows.

    Schedules:
        "gpipe": all microbatches forward, then all backward (Huang et al. 2018, arXiv:1811.06965). Activations of all
            M microbatches are kept.
        "circular": each stage has `num_repeats` chunks of layers, and microbatches go round as often (Narayanan et
            al. 2021, arXiv:2104.04473, section 2.2): a smaller bubble. Parameters lie in contiguous blocks of layers,
            so those of other chunks are exchanged between stages, once a step. Activations as in "gpipe".
        "1f1b": a microbatch's backward pass begins as soon as it has left the last stage (see
            `one_forward_one_backward`): activations of 2 P - 1 microbatches are kept, and only inputs of stages; each
            stage is computed again. It needs what follows the stack (`forward_then`, which decoders call); called
            otherwise, and outside of training, it is "gpipe".

    What layers add: summaries are averaged over microbatches and named as those of `ScannedStack`; losses are averaged
    with the microbatches' weights (numbers of targets), where the stack is told them by `forward_then`; state updates
    are averaged. Module outputs are not collected. Random numbers differ between microbatches.

    What follows the stack in `forward_then` is computed by all stages, each on some rows of a microbatch, where it has a
    multiple of P times as many rows as the batch is split over devices; else by each stage on all of them.

    Where the layers do not divide evenly among the stages, parameters are not split over `pipeline` in memory: each
    device takes its layers out of all.

    Summaries: `pipeline_bubble`, see `bubble_fraction`.
    """

    class Config(RepeatedStack.Config):
        """
        Fields:
            num_microbatches: M, a divisor of the rows of a step.
            schedule: the order of work.
            num_repeats: V, chunks of layers of a stage; only "circular" may have more than 1.
            layers_per_stage: layers of each stage (of each chunk, if there are several a stage); None for numbers
                that differ by one at most. Stages wait for the longest, so others than even ones pay only where a
                stage has other work, as the last one has with a large head.
            stage_remat: what is kept of a stage's activations in one tick, beside its input; None for what the layers
                keep. "1f1b" keeps nothing else in any case.
        """

        num_microbatches: Required[int] = REQUIRED
        schedule: Schedule = "1f1b"
        num_repeats: int = 1
        layers_per_stage: tuple[int, ...] | None = None
        stage_remat: RematPolicy.Config | None = None

        def check(self) -> None:
            super().check()
            if self.num_microbatches < 1:
                raise ValueError(f"num_microbatches={self.num_microbatches}; use 1 or more.")
            if self.num_repeats < 1 or (self.num_repeats > 1 and self.schedule != "circular"):
                raise ValueError(
                    f'num_repeats={self.num_repeats} with schedule="{self.schedule}"; use 1, or '
                    f'schedule="circular" for more.'
                )
            sizes = self.layers_per_stage
            if sizes is not None and (min(sizes, default=0) < 1 or sum(sizes) != self.num_layers):
                raise ValueError(
                    f"layers_per_stage={sizes} has the sum {sum(sizes)}; use numbers of 1 or more "
                    f"whose sum is num_layers={self.num_layers}."
                )
            if self.stage_remat is not None and self.schedule == "1f1b":
                raise ValueError(
                    'schedule="1f1b" keeps nothing but inputs of stages; set stage_remat=None, and '
                    "the remat of `layer` for what is kept while a stage is computed again."
                )
            if self.remat is not None:
                raise ValueError(
                    "remat of the whole stack would run the pipeline twice; set that of `layer`, "
                    "or stage_remat."
                )

        def used_mesh_axes(self) -> tuple[str, ...]:
            """The mesh axes that nothing is split over unless this layer does."""
            return (AXIS,)

        def mesh_refusal(self, run: RunShape) -> str | None:
            """Returns why it does not run there, and what does; None if it does."""
            if run.size(AXIS) == 1:
                return None
            return layer_refusal(self, run.size(AXIS)) or row_refusal(self, run)

        def idle_fraction(self, run: RunShape) -> float:
            """Returns the share of a step in which a stage waits for others, for plans."""
            return bubble_fraction(
                run.size(AXIS), self.num_microbatches, self.num_repeats, self.schedule
            )

    def forward(self, x_BSD: Float[Array, "B S D"], *args: Any) -> Float[Array, "B S D"]:
        """Returns `x_BSD` after all layers; of `args`, each row's part goes with it.

        Raises:
            ValueError: in training, if the batch does not divide into microbatches.
        """
        if not self._is_pipelined(x_BSD):
            return self._scanned(x_BSD, args)
        y_MBSD, outputs = self._rotated(x_BSD, args)
        self._report(outputs, jnp.ones(self.cfg.num_microbatches))
        return constrain(join_rows(y_MBSD), STREAM)

    @structural
    def forward_then(
        self,
        x_BSD: Float[Array, "B S D"],
        *args: Any,
        rows: tuple[Any, ...] = (),
        then: Callable[..., Any],
    ) -> Any:
        return self.stages_then(x_BSD, args, rows, resumed(then))

    def stages_then(
        self, x_BSD: Float[Array, "B S D"], args: Any, rows: Any, then: Callable[..., Any]
    ) -> Any:
        """Does the work of `forward_then`, within this stack's own call."""
        if not self._is_pipelined(x_BSD):
            return then(self.forward(x_BSD, *args), *rows)
        num_parts = self._num_parts(x_BSD.shape[0])
        parts = Microbatches(rows, rows=x_BSD.shape[0], num=self.cfg.num_microbatches * num_parts)
        of_part = lambda y_BSD, index: isolated(then)(y_BSD, *parts.at(index))
        if self.cfg.schedule == "1f1b" and self.is_training:
            sums, sums_MQ, outputs, found_MQ = self._turned_round(x_BSD, args, of_part, num_parts)
        else:
            y_MBSD, outputs = self._rotated(x_BSD, args)
            sums_MQ, found_MQ = self._of_parts(y_MBSD, of_part, num_parts)
            sums = jax.tree.map(lambda x: x.sum(), sums_MQ)
        self._report(outputs, sums_MQ.weight.sum(axis=1))
        flat = lambda tree: jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), tree)
        absorb([averaged(found, sums_MQ.weight.reshape(-1)) for found in flat(found_MQ)])
        return sums

    # ---- schedules --------------------------------------------------------------------------------

    def _rotated(self, x_BSD: Array, args: Any) -> tuple[Array, OutputCollection]:
        """Runs all microbatches through, for JAX to differentiate."""
        stage = self._stage(x_BSD, args)
        if self.cfg.stage_remat is not None and self.is_training:
            policy = self.cfg.stage_remat.instantiate().policy()
            stage = jax.checkpoint(stage, policy=policy, prevent_cse=False)
        return rotate(stage, self._weights(), self._split(x_BSD), self._plan())

    def _of_parts(self, y_MBSD: Array, of_part: Callable[..., Any], num_parts: int) -> Any:
        """Returns what `of_part` makes of all parts of all microbatches, arrays `[M, Q, ...]`.

        Each lane goes through its parts by itself, so gradients of what all use are added up over lanes once.
        """
        M = self.cfg.num_microbatches
        index_QM = jnp.arange(M * num_parts).reshape(num_parts, M)
        y_QMBSD = jax.vmap(lambda y_BSD: parted(y_BSD, num_parts), out_axes=1)(y_MBSD)
        lane = lambda *parts_M: jax.lax.map(lambda part: of_part(*part), parts_M)
        results_QM = on_parts(lane, num_parts)(y_QMBSD, index_QM)
        return jax.tree.map(lambda x: x.swapaxes(0, 1), results_QM)

    def _turned_round(
        self, x_BSD: Array, args: Any, of_part: Callable[..., Any], num_parts: int
    ) -> Any:
        """Runs all microbatches through and back."""
        weights = jax.tree.map(lambda w: w[:, 0], self._weights())
        return one_forward_one_backward(
            self._stage(x_BSD, args),
            of_part,
            weights,
            self._split(x_BSD),
            self._plan(),
            parts=num_parts,
            place=lambda weights: (self._placed(weights[0], (None,)), *weights[1:]),
        )

    def _stage(self, x_BSD: Array, args: Any) -> Callable[..., Any]:
        """Returns the function of one chunk of layers, of (weights `[K, ...]`, x_BSD, microbatch)."""
        parts = Microbatches(args, rows=x_BSD.shape[0], num=self.cfg.num_microbatches)

        def stage(weights: Any, x_BSD: Array, index: Array) -> tuple[Array, OutputCollection]:
            call = self._layer_call(parts.at(index), in_loop=True, microbatch=index)

            def one(x: Array, layer: Any) -> tuple[Array, OutputCollection]:
                params, layer_index, is_real = layer
                y, outputs = call(x, params, None, layer_index)
                if self._plan().is_even:
                    return y, _without_module_outputs(outputs)
                outputs.losses = jax.tree.map(lambda x: jnp.where(is_real, x, 0.0), outputs.losses)
                return jnp.where(is_real, y, x), _without_module_outputs(outputs)

            return jax.lax.scan(one, x_BSD, weights)

        return stage

    def _weights(self) -> Any:
        """Returns parameters, index and whether it is real, of the layers of all chunks, `[P, V, K, ...]`."""
        plan = self._plan()
        params, _ = self._layer_trees()
        index_PVK, real_PVK = plan.layer_indices()
        chunks = self._placed(plan.chunked(params), (None, None))
        return chunks, jnp.asarray(index_PVK), jnp.asarray(real_PVK)

    def _placed(self, params: Any, dims: tuple[None, ...]) -> Any:
        """Lays parameters, with an axis of stages and others before their own, where their stages are."""
        place = lambda spec, w: on_stages(lambda w: constrain(w, (*dims, *spec.logical_axes)))(w)
        return jax.tree.map(place, self.layer.all_parameter_specs(), params, is_leaf=is_spec)

    def _split(self, x_BSD: Array) -> Array:
        x_MBSD = split_rows(x_BSD, self.cfg.num_microbatches)
        return constrain(x_MBSD, (None, *STREAM))

    def _report(self, outputs: OutputCollection, weight_M: Array) -> None:
        """Takes in what layers have added, `[M, L, ...]`, and tells the bubble."""
        self._adopt(averaged(outputs, weight_M))
        bubble = bubble_fraction(
            _num_stages(), self.cfg.num_microbatches, self.cfg.num_repeats, self.cfg.schedule
        )
        self.add_summary("pipeline_bubble", jnp.float32(bubble))

    # ---- where and whether --------------------------------------------------------------------------

    def _plan(self) -> StagePlan:
        cfg = self.cfg
        chunks = _num_stages() * cfg.num_repeats
        sizes = cfg.layers_per_stage or even_chunks(cfg.num_layers, chunks)
        return StagePlan(_num_stages(), cfg.num_repeats, cfg.num_microbatches, tuple(sizes))

    def _num_parts(self, rows: int) -> int:
        """Returns Q, the parts of a microbatch that stages share the work after the stack in; 1 if they do not divide."""
        scope = current_scope()
        assert scope is not None
        per_part = self.cfg.num_microbatches * _num_stages() * num_row_parts(scope.mesh.shape)
        return _num_stages() if rows % per_part == 0 else 1

    def _is_pipelined(self, x_BSD: Array) -> bool:
        if _num_stages() == 1 or self.state is not None:
            return False
        scope = current_scope()
        assert scope is not None
        refusal = layer_refusal(self.cfg, _num_stages())
        if refusal is None:
            refusal = row_refusal(self.cfg, RunShape(scope.mesh.shape, rows=x_BSD.shape[0]))
            if refusal is not None and not self.is_training:
                return False
        if refusal is not None:
            raise ValueError(f"{self.path()}: {refusal}")
        return True


def _num_stages() -> int:
    scope = current_scope()
    return 1 if scope is None else scope.mesh.shape.get(AXIS, 1)


def _without_module_outputs(outputs: OutputCollection) -> OutputCollection:
    outputs.module_outputs = {}
    return outputs
