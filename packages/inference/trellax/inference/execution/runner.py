"""`Runner`: the model on its devices, its caches, and the programs that were compiled for it.

    runner = Runner(model, params, sizes)
    with runner.programs.warm_up():
        runner.warm_up(DRAW_VARIANTS)
    pass_ = runner.forward(plan, shape, block_tables)  # returns at once; the device computes
    drawn = runner.draw(pass_, rows, variant)          # so does this
    packed = drawn.fetch()                             # this waits: one transfer

Axes: S slots, R rows of logits, V vocabulary, X packed.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Int32

from trellax.inference.execution.compiled import Program, Programs
from trellax.inference.execution.drafts import Drafts, no_drafts
from trellax.inference.execution.inputs import pack_inputs, packed_size
from trellax.inference.execution.programs import (
    Seen,
    check_fn,
    draw_fn,
    forward_fn,
    moved_in,
    moved_out,
    see,
)
from trellax.inference.execution.scores import score_fn
from trellax.inference.execution.shapes import StepShape, StepShapes
from trellax.inference.sampling import NUM_ALTERNATIVES, SamplerVariant, SamplingRows
from trellax.inference.scheduling import StepPlan
from trellax.layers import BaseLayer, PagePool, is_state_axis
from trellax.parallel import LogicalAxisRules

Tree = dict[str, Any]

MAX_BIASES = 320
"""Biased or banned tokens of a row: the 300 that OpenAI's interface takes, and end tokens."""


@dataclasses.dataclass(frozen=True)
class RunnerSizes:
    """What a runner's arrays are made for.

    Attributes:
        shapes: of steps.
        pages: the pool.
        max_length: tokens of a sequence.
        vocab_size: V.
    """

    shapes: StepShapes
    pages: PagePool
    max_length: int
    vocab_size: int

    @property
    def num_slots(self) -> int:
        return self.shapes.max_sequences

    @property
    def table_width(self) -> int:
        return -(-self.max_length // self.pages.page_size)


@dataclasses.dataclass
class Pass:
    """A step that computes: its logits will be there.

    Attributes:
        logits: of the rows that are drawn from.
        scored: logits of all tokens of tiles; None if they are not wanted.
        shape: of the step.
    """

    logits: jax.Array
    scored: jax.Array | None
    shape: StepShape


@dataclasses.dataclass
class Drawn:
    """Tokens that will be there.

    Attributes:
        packed: as `sampling.unpack` reads it.
        variant: of the program that draws.
        tokens_per_row: how many a row may get; of more than one, as `sampling.unpack_verified` reads it.
    """

    packed: jax.Array
    variant: SamplerVariant
    tokens_per_row: int

    def fetch(self) -> Int32[np.ndarray, "R X"]:
        """Waits for them."""
        return np.asarray(self.packed)


class Runner:
    """Runs steps in the order in which they are given. Not for several threads at once."""

    def __init__(
        self,
        model: BaseLayer,
        params: Tree,
        sizes: RunnerSizes,
        *,
        mesh: jax.sharding.Mesh | None = None,
        axis_rules: LogicalAxisRules | None = None,
        is_strict: bool = False,
    ):
        """
        Args:
            model: of `serving_config`.
            params: of `serving_params`, on the mesh if there is one.
            sizes: what to allocate and compile for.
            mesh: devices that share the model; None for one.
            axis_rules: which mesh axes split each logical axis.
            is_strict: whether to compile after `warm_up` is an error.
        """
        self.model, self.params, self.sizes = model, params, sizes
        self._mesh = mesh
        self.programs = Programs(mesh=mesh, axis_rules=axis_rules, is_strict=is_strict)
        self.state_axes = model.state_axes()
        with self.programs.scope():
            self.state = jax.jit(self._initial_state)()
        self._last_ids = self._replicated(np.zeros(sizes.num_slots, np.int32))
        self._seen: Seen | None = None

    @property
    def num_compiles(self) -> int:
        """Programs compiled so far, for drafts too."""
        return self.programs.num_compiles

    # ---- steps ----------------------------------------------------------------------------------

    def forward(
        self,
        plan: StepPlan,
        shape: StepShape,
        block_tables: Int32[np.ndarray, "S P"],
        *,
        drafts: Drafts | None = None,
    ) -> Pass:
        """Starts a step's pass through the model.

        Args:
            plan: the step.
            shape: that it is padded to, of `sizes.shapes.of_plan`.
            block_tables: of all slots.
            drafts: of the rows of the shape, if steps take some.
        """
        counts = () if drafts is None else drafts.counts_D
        packed = pack_inputs(plan, shape, block_tables, num_drafts=counts)
        program = self._forward_program(shape)
        ids = self._draft_ids(shape, drafts)
        args = (self.params, self.state, self._last_ids, packed, ids)
        logits, scored, self.state = program(*args)
        return Pass(logits, scored, shape)

    def _draft_ids(self, shape: StepShape, drafts: Drafts | None) -> Any:
        if shape.tokens_per_decode == 1:
            assert drafts is None, "Steps of these shapes take no drafts."
            return None
        return (drafts or no_drafts(shape.decode_rows, shape.tokens_per_decode - 1)).ids_DK

    def draw(
        self,
        step: Pass,
        slots: Int32[np.ndarray, " R"],
        rows: SamplingRows,
        variant: SamplerVariant,
        *,
        drafts: Drafts | None = None,
        bias: tuple[np.ndarray, np.ndarray] | None = None,
        allowed: np.ndarray | None = None,
    ) -> Drawn:
        """Starts drawing a token for each row of a pass, or checking its drafts.

        Args:
            step: the pass.
            slots: whose tokens they are; one past the last slot for those that nobody wants.
            rows: how to draw.
            variant: the program that can.
            drafts: what the pass was given.
            bias: ids and values [R, MAX_BIASES], for a variant that edits.
            allowed: bit mask [R, W], for a variant that edits.
        """
        if drafts is not None and drafts.probs_DKV is not None:
            variant = _checks_probs(variant)
        if variant.penalizes:
            self._make_seen()
        seen = self._seen if variant.penalizes else None
        if variant.edits:
            bias = self.no_bias(len(slots)) if bias is None else bias
            allowed = self.all_allowed(len(slots)) if allowed is None else allowed
        else:
            bias = allowed = None
        arrays: tuple[Any, ...] = (
            *(step.logits, self._last_ids, seen, slots, rows, bias, allowed),
            *_draft_arrays(step.shape, drafts),
        )
        program = self._draw_program(step.shape, arrays, variant)
        packed, self._last_ids, seen = program(*arrays)
        if variant.penalizes:
            self._seen = seen
        return Drawn(packed, variant, step.shape.tokens_per_decode)

    def score(self, step: Pass, next_ids: Int32[np.ndarray, " T"], num_top: int) -> jax.Array:
        """Starts computing the log-probability of each prompt token's successor, as `unpack` reads it."""
        assert step.scored is not None, "The pass was not asked for scores."
        return self._score_program(step.shape, num_top)(step.scored, next_ids)

    # ---- penalties ------------------------------------------------------------------------------

    def see(self, slot: int, prompt_ids: Any, output_ids: Any) -> None:
        """Tells which tokens a slot's sequence has, before a variant that penalizes draws for it."""
        ids = (self._padded_ids(prompt_ids), self._padded_ids(output_ids))
        self._seen = self._see_program()(self._seen, np.int32(slot), *ids)

    def _make_seen(self) -> None:
        if self._seen is None:
            shape = (self.sizes.num_slots, self.sizes.vocab_size)
            zeros = (np.zeros(shape, np.int32), np.zeros(shape, np.bool_))
            self._seen = Seen(*(self._replicated(x) for x in zeros))

    def _padded_ids(self, ids: Any) -> np.ndarray:
        padded = np.full(self.sizes.max_length, self.sizes.vocab_size, np.int32)
        padded[: len(ids)] = ids
        return padded

    def no_bias(self, num_rows: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns biases that change nothing."""
        ids = np.full((num_rows, MAX_BIASES), self.sizes.vocab_size, np.int32)
        return ids, np.zeros((num_rows, MAX_BIASES), np.float32)

    def all_allowed(self, num_rows: int) -> np.ndarray:
        """Returns a mask that allows every token."""
        words = -(-self.sizes.vocab_size // 32)
        return np.full((num_rows, words), 0xFFFFFFFF, np.uint32)

    # ---- moving sequences -----------------------------------------------------------------------

    def take_out(self, pages: tuple[int, ...], slot: int) -> Tree:
        """Returns a sequence's state in host memory: its pages, in order, and what its slot holds."""
        indices = self._indices(pages, slot)
        taken = self._out_program(indices)(self.state, indices)
        return jax.device_get(self._cut(taken, len(pages)))

    def put_in(self, arrays: Tree, pages: tuple[int, ...], slot: int) -> None:
        """Writes what `take_out` returned, of this runner or of another of the same model and layout."""
        indices = self._indices(pages, slot)
        padded = self._padded(arrays, len(indices["page"]))
        self.state = self._in_program(indices)(self.state, indices, padded)

    def _indices(self, pages: tuple[int, ...], slot: int) -> dict[str, np.ndarray]:
        size = next(size for size in self._move_sizes() if size >= len(pages))
        padded = np.full(size, self.sizes.pages.num_pages, np.int32)
        padded[: len(pages)] = pages
        return {"page": padded, "slot": np.array([slot], np.int32)}

    def _move_sizes(self) -> list[int]:
        """Numbers of pages that moves are padded to: powers of two."""
        return [2**i for i in range(self.sizes.table_width.bit_length() + 1)]

    def _cut(self, taken: Tree, num_pages: int) -> Tree:
        cut = lambda axis, x: (
            jax.lax.slice_in_dim(x, 0, num_pages, axis=axis.axis) if axis.kind == "page" else x
        )
        return jax.tree.map(cut, self.state_axes, taken, is_leaf=is_state_axis)

    def _padded(self, arrays: Tree, size: int) -> Tree:
        def pad(axis: Any, x: np.ndarray) -> np.ndarray:
            if axis.kind != "page":
                return x
            widths = [(0, 0)] * x.ndim
            widths[axis.axis] = (0, size - x.shape[axis.axis])
            return np.pad(x, widths)

        return jax.tree.map(pad, self.state_axes, arrays, is_leaf=is_state_axis)

    # ---- programs -------------------------------------------------------------------------------

    def warm_up(
        self,
        variants: tuple[SamplerVariant, ...],
        *,
        with_draft_probs: bool = False,
        with_moves: bool = False,
    ) -> None:
        """Compiles a program for every shape, and the given variants of drawing for each number of rows.

        Args:
            variants: all that there will be.
            with_draft_probs: whether drafts may come with the distributions that they were drawn from.
            with_moves: whether sequences may be taken out and put in.
        """
        shapes = self.sizes.shapes.all()
        for shape in shapes:
            self._forward_program(shape)
            if shape.scores:
                for num_top in (0, NUM_ALTERNATIVES):
                    self._score_program(shape, num_top)
        for shape in shapes:
            for variant in variants:
                self._warm_draw(shape, variant, None)
            if with_draft_probs and shape.decode_rows:
                for variant in dict.fromkeys(_checks_probs(v) for v in variants if not v.greedy):
                    self._warm_draw(shape, variant, self._example_drafts(shape))
        if any(variant.penalizes for variant in variants):
            self._see_program()
        for num_pages in self._move_sizes() if with_moves else ():
            indices = self._indices((0,) * num_pages, 0)
            self._out_program(indices)
            self._in_program(indices)

    def _example_drafts(self, shape: StepShape) -> Drafts:
        """Returns drafts of a model, as far as a compiler looks at them."""
        D, K = shape.decode_rows, shape.tokens_per_decode - 1
        dims = (D, K, self.sizes.vocab_size)
        probs: Any = jax.ShapeDtypeStruct(dims, jnp.float32, sharding=self._whole())
        none = no_drafts(D, K)
        return dataclasses.replace(none, probs_DKV=probs, certain_D=np.zeros(D, np.bool_))

    def _warm_draw(self, shape: StepShape, variant: SamplerVariant, drafts: Drafts | None) -> None:
        if variant.penalizes:
            self._make_seen()
        num_rows = shape.decode_rows + shape.prefill_draws
        logits = self._example_logits(shape, shape.num_draws, output=0)
        arrays = (
            logits,
            self._last_ids,
            self._seen if variant.penalizes else None,
            np.zeros(num_rows, np.int32),
            SamplingRows.of([], [], [], num_rows),
            self.no_bias(num_rows) if variant.edits else None,
            self.all_allowed(num_rows) if variant.edits else None,
            *_draft_arrays(shape, drafts),
        )
        self._draw_program(shape, arrays, variant)

    def _forward_program(self, shape: StepShape) -> Program:
        width = self.sizes.table_width
        packed = jax.ShapeDtypeStruct((packed_size(shape, width),), jnp.int32)
        args = (self.params, self.state, self._last_ids, packed, self._draft_ids(shape, None))
        fn = forward_fn(self.model, shape, width)
        return self.programs.compiled(("forward", shape), fn, args, donated=(1,))

    def _example_logits(self, shape: StepShape, num_rows: int, *, output: int) -> Any:
        """Returns logits of a pass, as far as a compiler looks at them: on a mesh, how they are split."""
        sharding = None
        if self._mesh is not None:
            sharding = self._forward_program(shape).compiled.output_shardings[output]
        dims = (num_rows, self.sizes.vocab_size)
        return jax.ShapeDtypeStruct(dims, jnp.float32, sharding=sharding)

    def _score_program(self, shape: StepShape, num_top: int) -> Program:
        num_scored = shape.tiles * shape.tile_length
        logits = self._example_logits(shape, num_scored, output=1)
        args = (logits, np.zeros(num_scored, np.int32))
        return self.programs.compiled(("score", num_scored, num_top), score_fn(num_top), args)

    def _draw_program(
        self, shape: StepShape, arrays: tuple[Any, ...], variant: SamplerVariant
    ) -> Program:
        donated = (1, 2) if variant.penalizes else (1,)
        if shape.tokens_per_decode > 1:
            has_probs = arrays[-2] is not None
            check_key = ("check", arrays[0].shape, shape.decode_rows, variant, has_probs)
            fn = check_fn(variant, shape)
            return self.programs.compiled(check_key, fn, arrays, donated=donated)
        key = ("draw", arrays[0].shape, arrays[3].shape, variant)
        return self.programs.compiled(key, draw_fn(variant), arrays, donated=donated)

    def _see_program(self) -> Program:
        self._make_seen()
        ids = self._padded_ids(())
        args = (self._seen, np.int32(0), ids, ids)
        return self.programs.compiled(("see",), see, args, donated=(0,))

    def _out_program(self, indices: dict[str, np.ndarray]) -> Program:
        args = (self.state, indices)
        return self.programs.compiled(("out", indices["page"].shape), self._moved_out, args)

    def _in_program(self, indices: dict[str, np.ndarray]) -> Program:
        fn = lambda state, indices, new: moved_in(state, self.state_axes, indices, new)
        new = jax.eval_shape(self._moved_out, self.state, indices)
        args = (self.state, indices, new)
        return self.programs.compiled(("in", indices["page"].shape), fn, args, donated=(0,))

    def _moved_out(self, state: Tree, indices: dict[str, Array]) -> Tree:
        return moved_out(state, self.state_axes, indices)

    def _initial_state(self) -> Tree:
        sizes = self.sizes
        return self.model.init_state(
            batch_size=sizes.num_slots, max_length=sizes.max_length, pages=sizes.pages
        )

    def _replicated(self, x: np.ndarray) -> Int[Array, "*shape"]:
        return jnp.asarray(x) if self._mesh is None else jax.device_put(x, self._whole())

    def _whole(self) -> jax.sharding.Sharding | None:
        """How arrays lie that every device of the mesh has whole; None for one device."""
        if self._mesh is None:
            return None
        return jax.sharding.NamedSharding(self._mesh, jax.sharding.PartitionSpec())


def _checks_probs(variant: SamplerVariant) -> SamplerVariant:
    """Returns the variant of rows whose drafts come with distributions: one program less, and rows without limits cost no more."""
    return dataclasses.replace(variant, truncates=True)


def _draft_arrays(shape: StepShape, drafts: Drafts | None) -> tuple[Any, ...]:
    """Returns what the program that checks drafts is given of them; nothing for steps that take none."""
    if shape.tokens_per_decode == 1:
        return ()
    drafts = drafts or no_drafts(shape.decode_rows, shape.tokens_per_decode - 1)
    return drafts.ids_DK, drafts.counts_D, drafts.probs_DKV, drafts.certain_D
