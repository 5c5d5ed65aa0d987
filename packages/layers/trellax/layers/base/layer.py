"""`BaseLayer`: a module with parameters, remat, activation tags and sharding constraints."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Literal, Protocol

import jax

from trellax.config import DType
from trellax.layers.base.initializers import Initializer, VarianceScalingInitializer
from trellax.layers.base.specs import ParameterSpec
from trellax.layers.base.state import PagePool
from trellax.layers.module import InvocationContext, Module, entered, fold_in_name, structural
from trellax.parallel import RematPolicy, constrain, tag


class Prepare(Protocol):
    """Makes a prepared weight, such as `functools.partial(trellax.kernels.matmul.prepare, format="int8")`."""

    def __call__(self, weight: jax.Array, *, axes: Literal["DF", "VD"] = "DF") -> Any: ...


class BaseLayer(Module):
    """A module that declares parameters."""

    class Config(Module.Config):
        """
        Fields:
            param_dtype: type that parameters are stored in.
            initializer: how weights start, unless a layer says otherwise for one of its own.
            remat: what of this layer's activations is kept for the backward pass; None keeps all.
        """

        param_dtype: DType = "float32"
        initializer: Initializer.Config = VarianceScalingInitializer.default_config()
        remat: RematPolicy.Config | None = None

    # ---- parameters and state -------------------------------------------------------------------

    @structural
    def parameter_specs(self) -> dict[str, ParameterSpec]:
        """Returns the specs of the layer's own parameters (not its children's)."""
        return {}

    @structural
    def all_parameter_specs(self) -> dict[str, Any]:
        """Returns the tree of specs of this layer and everything below."""
        specs: dict[str, Any] = dict(self.parameter_specs())
        for name, child in self._layers():
            assert name not in specs, f"{self.path()}: {name!r} is a child and a parameter."
            below = child.all_parameter_specs()
            if below:
                specs[name] = below
        return specs

    @structural
    def init(self, prng_key: jax.Array) -> dict[str, Any]:
        """Returns first values for the whole parameter tree.

        Each key is derived from names, so an added layer changes no other layer's values.
        """
        params: dict[str, Any] = {
            name: spec.init(fold_in_name(prng_key, name))
            for name, spec in self.parameter_specs().items()
        }
        for name, child in self._layers():
            below = child.init(fold_in_name(prng_key, name))
            if below:
                params[name] = below
        return params

    @structural
    def init_state(
        self, *, batch_size: int, max_length: int, pages: PagePool | None = None
    ) -> dict[str, Any]:
        """Returns the mutable state for decoding (caches), {} where a layer has none.

        Args:
            batch_size: number of sequences that are decoded together.
            max_length: tokens that a sequence may grow to.
            pages: what layouts in pages share among all sequences; None for as much as `batch_size` sequences of
                `max_length` take.
        """
        state: dict[str, Any] = {}
        for name, child in self._layers():
            below = child.init_state(batch_size=batch_size, max_length=max_length, pages=pages)
            if below:
                state[name] = below
        return state

    @structural
    def state_axes(self) -> dict[str, Any]:
        """Returns the tree of `init_state` with a `StateAxis` for each array: what its entries belong to.

        So whoever serves can move a sequence's state (to host memory, to another machine) without knowing what it is.
        """
        axes: dict[str, Any] = {}
        for name, child in self._layers():
            below = child.state_axes()
            if below:
                axes[name] = below
        return axes

    @structural
    def unstacked(self, params: dict[str, Any]) -> dict[str, Any]:
        """Returns the parameters with those of repeated layers as a tuple of trees, one a layer.

        An `UnrolledStack` takes both forms. To slice a layer out of a stacked array copies it, once a call: a training
        step does not notice, a decoding step, which does little else than to read its weights, does.
        """
        unstacked = dict(params)
        for name, child in self._layers():
            if name in params:
                unstacked[name] = child.unstacked(params[name])
        return unstacked

    @structural
    def prepared(self, params: dict[str, Any], prepare: Prepare) -> dict[str, Any]:
        """Returns the parameters with the weights of matrix products rounded or quantized, for inference.

        Args:
            params: of this layer and everything below.
            prepare: makes a `trellax.kernels.matmul.PreparedWeight` of a weight [D, F], or [V, D] with `axes="VD"`.
        """
        prepared = dict(params)
        for name, child in self._layers():
            if name in params:
                prepared[name] = child.prepared(params[name], prepare)
        return prepared

    def _layers(self) -> Iterator[tuple[str, BaseLayer]]:
        """Yields the children that have, or may have, parameters and state."""
        for name, child in self.children.items():
            if isinstance(child, BaseLayer):
                yield name, child

    # ---- activations ----------------------------------------------------------------------------

    @structural
    def tag(self, x: jax.Array, name: str) -> jax.Array:
        """Names an activation, so that remat policies can save, offload or recompute it."""
        return tag(x, name)

    @structural
    def constrain(self, x: jax.Array, logical_axes: tuple[str | None, ...]) -> jax.Array:
        """States the logical axes of an activation; sharding rules decide what that means."""
        return constrain(x, logical_axes)

    def _invoke(
        self, method: Callable[..., Any], context: InvocationContext, args: Any, kwargs: Any
    ) -> Any:
        if self.cfg.remat is None or not context.is_training or method.__name__ != "forward":
            return method(self, *args, **kwargs)
        return self._rematerialized(method, context, args, kwargs)

    def _rematerialized(
        self, method: Callable[..., Any], context: InvocationContext, args: Any, kwargs: Any
    ) -> Any:
        leaves, treedef = jax.tree.flatten((args, kwargs))
        arrays = {i: x for i, x in enumerate(leaves) if isinstance(x, jax.Array)}

        def pure(params: Any, state: Any, arrays: dict[int, jax.Array]) -> Any:
            filled = [arrays.get(i, x) for i, x in enumerate(leaves)]
            inner_args, inner_kwargs = jax.tree.unflatten(treedef, filled)
            inner = context.repeated(params=params, state=state)
            with entered(inner):
                return method(self, *inner_args, **inner_kwargs), inner.outputs

        policy = self.cfg.remat.instantiate().policy()
        # A loop by itself keeps XLA from merging the recomputation with the first computation.
        checkpointed = jax.checkpoint(pure, policy=policy, prevent_cse=not context.in_loop)
        result, context.outputs = checkpointed(context.params, context.state, arrays)
        return result
