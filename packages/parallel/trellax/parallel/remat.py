"""Rematerialization: which activations the backward pass finds in memory, and which it computes again.

    policy = RematPolicy.Config(save=("q_proj", "k_proj", "v_proj"), offload=("block_input",))
    jax.checkpoint(block, policy=policy.instantiate().policy())

Layers name activations with `tag`; a policy says for each name what becomes of it, and what becomes
of everything else. Names that no layer gives have no effect; `tagged_names` lists those that exist.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from trellax.config import Configurable

if TYPE_CHECKING:
    from jaxtyping import Array, PyTree, Shaped

    AnyArrays = TypeVar("AnyArrays", bound=PyTree[Shaped[Array, "..."]])

Others = Literal[
    "recompute", "save_tagged", "save_dots", "save_batchless_dots", "offload_batchless_dots", "save"
]
"""What becomes of values that a policy does not name: computed again; kept if tagged; kept if they
come from a matrix multiplication, or from one without batch dimensions (weights times activations,
but not attention scores); the latter moved to host memory; kept."""


class RematPolicy(Configurable):
    """A policy for `jax.checkpoint`, by names of activations."""

    class Config(Configurable.Config):
        """
        Fields:
            save: names of activations to keep on the device.
            offload: names of activations to keep in `offload_to`.
            recompute: names to compute again although `others` is "save_tagged".
            others: what becomes of all other values.
            offload_to: memory kind of the host.
        """

        save: tuple[str, ...] = ()
        offload: tuple[str, ...] = ()
        recompute: tuple[str, ...] = ()
        others: Others = "recompute"
        offload_to: str = "pinned_host"

        def check(self) -> None:
            named = [*self.save, *self.offload, *self.recompute]
            twice = sorted({name for name in named if named.count(name) > 1})
            if twice:
                raise ValueError(f"{', '.join(twice)}: save, offload or recompute it, not several.")
            if self.recompute and self.others != "save_tagged":
                raise ValueError(
                    f'recompute has no effect with others="{self.others}", which decides about the '
                    f'value under the tag too; leave it out, or write others="save_tagged".'
                )

    cfg: Config

    def policy(self) -> Callable[..., Any]:
        """Returns the policy in JAX's form; equal policies compare equal."""
        cfg = self.cfg
        return _Policy(cfg.save, cfg.offload, cfg.recompute, cfg.others, cfg.offload_to)


def nothing_saveable() -> RematPolicy.Config:
    """Keeps only the inputs: least memory, about a third more FLOPs."""
    return RematPolicy.Config()


def dots_saveable() -> RematPolicy.Config:
    """Keeps the results of matrix multiplications and computes the cheap operations again."""
    return RematPolicy.Config(others="save_dots")


def save_names(*names: str) -> RematPolicy.Config:
    """Keeps the activations with these tags."""
    return RematPolicy.Config(save=names)


def offload_names(*names: str) -> RematPolicy.Config:
    """Keeps the activations with these tags in the host's memory."""
    return RematPolicy.Config(offload=names)


def tag(x: AnyArrays, name: str) -> AnyArrays:
    """Names activations for remat policies; computes nothing.

    Args:
        x: an array, or a tree of arrays which all get the name.
        name: such as "q_proj"; tags of different layers may be equal and are then treated alike.
    """
    from jax.ad_checkpoint import checkpoint_name

    return checkpoint_name(x, name)


def tagged_names(fn: Callable[..., Any], *args: Any, **kwargs: Any) -> set[str]:
    """Returns all tags that `fn` gives, inner functions and loops included; traces, runs nothing.

    Args:
        fn: a function of arrays.
        *args: its arguments; `jax.ShapeDtypeStruct`s will do.
        **kwargs: its keyword arguments.
    """
    import jax

    traced = jax.make_jaxpr(fn)(*args, **kwargs)
    return {eqn.params["name"] for eqn in _equations(traced.jaxpr) if eqn.primitive.name == "name"}


@dataclasses.dataclass(frozen=True)
class _Policy:
    """What names say, and for what they leave open what `others` says.

    `jax.checkpoint_policies.save_from_both_policies` refuses policies that offload, and most of
    JAX's policies compare by identity, which would trace a checkpointed function again and again.
    """

    save: tuple[str, ...]
    offload: tuple[str, ...]
    recompute: tuple[str, ...]
    others: Others
    offload_to: str

    def __call__(self, primitive: Any, *avals: Any, **params: Any) -> Any:
        from jax.ad_checkpoint import Recompute

        verdict = self._of_names(primitive, *avals, **params)
        if verdict is not Recompute:
            return verdict
        return self._of_others(primitive, *avals, **params)

    @functools.cached_property
    def _of_names(self) -> Callable[..., Any]:
        import jax

        return jax.checkpoint_policies.save_and_offload_only_these_names(
            names_which_can_be_saved=self.save,
            names_which_can_be_offloaded=self.offload,
            offload_src="device",
            offload_dst=self.offload_to,
        )

    @functools.cached_property
    def _of_others(self) -> Callable[..., Any]:
        import jax

        policies = jax.checkpoint_policies
        if self.others == "save_tagged":
            return policies.save_any_names_but_these(*self.recompute)
        if self.others == "offload_batchless_dots":
            return policies.offload_dot_with_no_batch_dims("device", self.offload_to)
        simple: dict[str, Callable[..., Any]] = {
            "recompute": policies.nothing_saveable,
            "save_dots": policies.dots_saveable,
            "save_batchless_dots": policies.dots_with_no_batch_dims_saveable,
            "save": policies.everything_saveable,
        }
        return simple[self.others]


def _equations(jaxpr: Any) -> Iterator[Any]:
    for eqn in jaxpr.eqns:
        yield eqn
        for value in eqn.params.values():
            for inner in value if isinstance(value, tuple | list) else [value]:
                inner = getattr(inner, "jaxpr", inner)  # Closed ones hold an open one.
                if hasattr(inner, "eqns"):
                    yield from _equations(inner)
