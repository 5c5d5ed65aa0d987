"""One layer, repeated with its own parameters each time: scanned or unrolled, with the same results.

    cfg = ScannedStack.default_config().set(layer=TransformerLayer.default_config(), num_layers=32)
    y_BSD = stack(x_BSD, tokens)

Both stacks keep the parameters of all layers stacked on a leading "layers" axis, as {"layer": ...},
and draw the same random numbers, so one can replace the other at any time, checkpoints included.

Axes: B batch, S sequence, D model, L layers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from trellax.config import REQUIRED, Required
from trellax.layers.base import BaseLayer, PagePool, Prepare, is_spec, is_state_axis
from trellax.layers.module import Module, OutputCollection, fold_in_name, functional, structural
from trellax.layers.stack.base import Stack
from trellax.layers.stack.collections import per_layer, stacked, summed


class RepeatedStack(Stack):
    """Interface: `num_layers` copies of `layer`, one after the other."""

    layer: BaseLayer

    class Config(Stack.Config):
        """
        Fields:
            layer: maps `x_BSD` and whatever else the stack is called with to a new `x_BSD`.
            num_layers: L.
            input_dim: D.
        """

        layer: Required[BaseLayer.Config] = REQUIRED
        num_layers: Required[int] = REQUIRED
        input_dim: Required[int] = REQUIRED

        def derive(self) -> None:
            super().derive()
            if self.layer is not REQUIRED:
                self.provide(self.layer, input_dim=self.input_dim)

        def check(self) -> None:
            super().check()
            if self.num_layers < 1:
                raise ValueError(f"num_layers={self.num_layers}; a stack needs at least 1.")

    def __init__(self, cfg: Config, *, name: str, parent: Module | None = None):
        super().__init__(cfg, name=name, parent=parent)
        self.add_child("layer", cfg.layer)

    # ---- parameters and state, stacked ------------------------------------------------------------

    @structural
    def all_parameter_specs(self) -> dict[str, Any]:
        stack = lambda spec: spec.stacked(self.cfg.num_layers)
        specs = self.layer.all_parameter_specs()
        return {"layer": jax.tree.map(stack, specs, is_leaf=is_spec)} if specs else {}

    @structural
    def init(self, prng_key: jax.Array) -> dict[str, Any]:
        layer_key = fold_in_name(prng_key, "layer")
        # A map rather than a vmap: some generators give other bits when they are batched.
        one = lambda index: self.layer.init(jax.random.fold_in(layer_key, index))
        params = jax.lax.map(one, jnp.arange(self.cfg.num_layers))
        return {"layer": params} if params else {}

    @structural
    def init_state(
        self, *, batch_size: int, max_length: int, pages: PagePool | None = None
    ) -> dict[str, Any]:
        state = self.layer.init_state(batch_size=batch_size, max_length=max_length, pages=pages)
        copies = lambda x: jnp.broadcast_to(x, (self.cfg.num_layers, *x.shape))
        return {"layer": jax.tree.map(copies, state)} if state else {}

    @structural
    def state_axes(self) -> dict[str, Any]:
        axes = self.layer.state_axes()
        stack = lambda one: dataclasses.replace(one, axis=one.axis + 1)
        return {"layer": jax.tree.map(stack, axes, is_leaf=is_state_axis)} if axes else {}

    @structural
    def prepared(self, params: dict[str, Any], prepare: Prepare) -> dict[str, Any]:
        if "layer" not in params:
            return params
        layers = params["layer"]
        if isinstance(layers, tuple):
            return params | {"layer": tuple(self.layer.prepared(p, prepare) for p in layers)}
        return params | {"layer": self.layer.prepared(layers, prepare)}

    @structural
    def forward_flops_per_token(self, sequence_length: int) -> float:
        return self.cfg.num_layers * self.layer.forward_flops_per_token(sequence_length)

    # ---- one layer of a call ----------------------------------------------------------------------

    def _layer_trees(self) -> tuple[Any, Any]:
        """Returns the stacked parameters and state of the layers."""
        state = self.state
        return self.parameters.get("layer", {}), None if state is None else state.get("layer", {})

    def _layer_call(
        self, args: Any, *, in_loop: bool, microbatch: Any = None
    ) -> Callable[..., Any]:
        """Returns the function of one layer, of (x, parameters, state, index).

        Args:
            args: what the layer is called with beside x.
            in_loop: whether the function is called in a loop's body.
            microbatch: index of the part of the batch that it is called on, for other random
                numbers on each part; None for all of the batch.
        """
        context = self.context

        def call(x: Any, params: Any, state: Any, index: Any) -> tuple[Any, OutputCollection]:
            def key() -> jax.Array | None:
                own = context.prng_key()
                if own is None:
                    return None
                own = jax.random.fold_in(fold_in_name(own, "layer"), index)
                return own if microbatch is None else jax.random.fold_in(own, microbatch)

            return functional(
                self.layer,
                params=params,
                args=(x, *args),
                state=state,
                prng_key=key,
                is_training=context.is_training,
                in_loop=in_loop,
            )

        return call

    def _scanned(self, x_BSD: Array, args: Any, *, unroll: int = 1) -> Array:
        """Runs all layers, of which one is traced and compiled."""
        params, state = self._layer_trees()
        call = self._layer_call(args, in_loop=True)
        xs = (params, state, jnp.arange(self.cfg.num_layers))
        x_BSD, outputs = jax.lax.scan(lambda x, layer: call(x, *layer), x_BSD, xs, unroll=unroll)
        self._adopt(outputs)
        return x_BSD

    def _adopt(self, outputs: OutputCollection) -> None:
        """Takes in the outputs of all layers, whose arrays are stacked on a leading axis."""
        context = self.context
        context.outputs.adopt(
            "layer",
            OutputCollection(
                module_outputs=outputs.module_outputs,
                state_updates=outputs.state_updates,
                losses=summed(outputs.losses),
            ),
        )
        if outputs.summaries:
            context.outputs.summaries |= per_layer(outputs.summaries, self.cfg.num_layers)


class ScannedStack(RepeatedStack):
    """Repeats the layer by `jax.lax.scan`: one layer is traced and compiled, whatever L is."""

    class Config(RepeatedStack.Config):
        """
        Fields:
            unroll: how many layers one iteration of the compiled loop runs.
        """

        unroll: int = 1

    def forward(self, x_BSD: Float[Array, "B S D"], *args: Any) -> Float[Array, "B S D"]:
        """Returns `x_BSD` after all layers; `args` go to each of them unchanged."""
        return self._scanned(x_BSD, args, unroll=self.cfg.unroll)


class UnrolledStack(RepeatedStack):
    """Repeats the layer by a Python loop: XLA sees, and may optimize across, all layers.

    Each layer has a state of its own, {"layer": (state of layer 0, …)}; parameters may come so, too (`unstacked`). Then
    nothing is sliced or stacked, and each cache is updated where it lies.
    """

    @structural
    def init_state(
        self, *, batch_size: int, max_length: int, pages: PagePool | None = None
    ) -> dict[str, Any]:
        one = lambda: self.layer.init_state(
            batch_size=batch_size, max_length=max_length, pages=pages
        )
        state = tuple(one() for _ in range(self.cfg.num_layers))
        return {"layer": state} if any(state) else {}

    @structural
    def state_axes(self) -> dict[str, Any]:
        axes = self.layer.state_axes()
        return {"layer": (axes,) * self.cfg.num_layers} if axes else {}

    @structural
    def unstacked(self, params: dict[str, Any]) -> dict[str, Any]:
        if "layer" not in params:
            return params
        layers = _unstacked(params["layer"], self.cfg.num_layers)
        return params | {"layer": tuple(self.layer.unstacked(p) for p in layers)}

    def forward(self, x_BSD: Float[Array, "B S D"], *args: Any) -> Float[Array, "B S D"]:
        """Returns `x_BSD` after all layers; `args` go to each of them unchanged."""
        call = self._layer_call(args, in_loop=False)
        params, states = (_unstacked(tree, self.cfg.num_layers) for tree in self._layer_trees())
        collected = []
        for index in range(self.cfg.num_layers):
            x_BSD, outputs = call(x_BSD, params[index], states[index], index)
            collected.append(outputs)
        self._adopt_each(collected)
        return x_BSD

    def _adopt_each(self, collected: list[OutputCollection]) -> None:
        """Takes in the outputs of each layer; states stay apart as they came."""
        updates = tuple(outputs.state_updates for outputs in collected)
        self._adopt(stacked([dataclasses.replace(o, state_updates={}) for o in collected]))
        if any(updates):
            self.context.outputs.adopt("layer", OutputCollection(state_updates=updates))  # type: ignore[arg-type]


def _unstacked(tree: Any, num: int) -> list[Any]:
    """Returns the `num` trees that are stacked in `tree`; a tuple of them is what it is.

    The arrays are split at once, not indexed: the gradient of a split is one concatenation, that
    of `num` indexings is as many sums of full-size arrays.
    """
    if isinstance(tree, tuple):
        return list(tree)
    leaves, treedef = jax.tree.flatten(tree)
    split = [[x[0] for x in jax.lax.split(leaf, [1] * num)] for leaf in leaves]
    return [jax.tree.unflatten(treedef, layer) for layer in zip(*split)] or [tree] * num
