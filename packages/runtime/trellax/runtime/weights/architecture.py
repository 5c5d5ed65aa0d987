"""`Architecture`: the hyperparameters that the families share, to a model's config and back.

    Architecture.of(cfg.model).model_config()  # computes the same function as cfg.model

A config that says anything more than these numbers (a sliding window, a soft cap, biases …) has none: it is refused by path.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from typing import Any

import numpy as np

from trellax.config import Change, Config, diff, finalize, format_diff, format_value
from trellax.layers import CausalLM, MoELayer, TopKRouter, decoder_model, swiglu
from trellax.layers.attention import RopeScaling, RotaryPositions
from trellax.layers.weight_names import Family
from trellax.runtime.weights.errors import UnsupportedWeightsError


@dataclasses.dataclass(frozen=True)
class Architecture:
    """A decoder of one of the families.

    Attributes:
        family: which.
        num_layers: L.
        dim: D.
        num_heads: N.
        num_kv_heads: K.
        head_dim: H.
        hidden_dim: F, of one expert where there are experts.
        vocab_size: V.
        norm_eps: of every norm.
        rope_theta: base of the rotary wavelengths.
        rope_scaling: of them, or None.
        tied: whether the output layer is the embedding.
        num_experts: E, 0 for none.
        experts_per_token: C.
        normalize_weights: whether the weights of a token's experts sum to one.
        load_balance_weight: of the router's loss; it matters to training alone.
    """

    family: Family
    num_layers: int
    dim: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    hidden_dim: int
    vocab_size: int
    norm_eps: float
    rope_theta: float
    rope_scaling: RopeScaling.Config | None = None
    tied: bool = False
    num_experts: int = 0
    experts_per_token: int = 0
    normalize_weights: bool = True
    load_balance_weight: float = 0.001

    def model_config(self) -> CausalLM.Config:
        """Returns the config of the model."""
        feed_forward: Any = swiglu(self.hidden_dim)
        if self.num_experts:
            router = TopKRouter.default_config().set(
                normalize_weights=self.normalize_weights,
                load_balance_weight=self.load_balance_weight,
                z_loss_weight=0.0,
            )
            feed_forward = MoELayer.default_config().set(
                hidden_dim=self.hidden_dim,
                num_experts=self.num_experts,
                experts_per_token=self.experts_per_token,
                router=router,
            )
        return decoder_model(
            num_layers=self.num_layers,
            dim=self.dim,
            num_heads=self.num_heads,
            num_kv_heads=self.num_kv_heads,
            head_dim=self.head_dim,
            vocab_size=self.vocab_size,
            feed_forward=feed_forward,
            positions=RotaryPositions.default_config().set(
                theta=self.rope_theta, scaling=self.rope_scaling
            ),
            norm_eps=self.norm_eps,
            normed_heads=self.family in ("qwen3", "qwen3_moe"),
            tied=self.tied,
        )

    @classmethod
    def of(cls, model_cfg: CausalLM.Config) -> Architecture:
        """Returns the architecture of a model.

        Raises:
            UnsupportedWeightsError: listing by path what no architecture of these families has.
        """
        cfg = finalize(model_cfg.clone())
        try:
            found = _read(cfg)
        except AttributeError as e:
            raise UnsupportedWeightsError(
                f"The model is none of the families that weights are exchanged in: {e}."
            ) from None
        others = _material_changes(found.model_config(), cfg)
        if others:
            raise UnsupportedWeightsError(
                f"The model has what weights of the family {found.family!r} cannot have "
                f"(theirs -> the model's):\n{format_diff(others)}"
            )
        return found


_ATTENTION, _FEED_FORWARD = "decoder.stack.layer.attention", "decoder.stack.layer.feed_forward"
_PATHS = {
    "num_layers": "decoder.stack.num_layers",
    "dim": "decoder.dim",
    "num_heads": f"{_ATTENTION}.num_heads",
    "num_kv_heads": f"{_ATTENTION}.num_kv_heads",
    "head_dim": f"{_ATTENTION}.head_dim",
    "hidden_dim": f"{_FEED_FORWARD}.hidden_dim",
    "vocab_size": "decoder.vocab_size",
    "norm_eps": "decoder.stack.layer.attention_norm.eps",
    "rope_theta": f"{_ATTENTION}.positions.theta",
    "rope_scaling": f"{_ATTENTION}.positions.scaling",
}
_EXPERT_PATHS = {
    "num_experts": f"{_FEED_FORWARD}.num_experts",
    "experts_per_token": f"{_FEED_FORWARD}.experts_per_token",
    "normalize_weights": f"{_FEED_FORWARD}.router.normalize_weights",
    "load_balance_weight": f"{_FEED_FORWARD}.router.load_balance_weight",
}


def _read(cfg: Any) -> Architecture:
    has_experts = hasattr(_at(cfg, _FEED_FORWARD), "num_experts")
    normed_heads = _at(cfg, f"{_ATTENTION}.query_norm") is not None
    family = _FAMILY_OF[normed_heads, has_experts]
    paths = _PATHS | _EXPERT_PATHS if has_experts else _PATHS
    values = {attribute: _at(cfg, path) for attribute, path in paths.items()}
    if family == "mixtral":
        del values["normalize_weights"]  # It has no say in that.
    return Architecture(family=family, tied=_at(cfg, "decoder.lm_head") is None, **values)


_FAMILY_OF: dict[tuple[bool, bool], Family] = {
    (False, False): "llama",
    (False, True): "mixtral",
    (True, False): "qwen3",
    (True, True): "qwen3_moe",
}


def _at(cfg: Any, path: str) -> Any:
    return functools.reduce(getattr, path.split("."), cfg)


def unequal_hyperparameters(theirs: Architecture, ours: Architecture) -> list[str]:
    """Returns a line for each that differs, by its path in a model's config."""
    if theirs.family != ours.family:
        return [
            f"the weights are of the family {theirs.family}, the config describes a {ours.family}"
        ]
    lines = []
    for attribute, path in (_PATHS | _EXPERT_PATHS).items():
        their, our = getattr(theirs, attribute), getattr(ours, attribute)
        if attribute != "load_balance_weight" and not _is_equal(their, our):
            lines.append(_unequal(path, format_value(their), format_value(our)))
    if theirs.tied != ours.tied:
        kinds = {True: "None", False: "a head of its own"}
        lines.append(_unequal("decoder.lm_head", kinds[theirs.tied], kinds[ours.tied]))
    return lines


def _unequal(path: str, their: str, our: str) -> str:
    return f"{path}: {their} in the weights, {our} in the config"


# How a model starts, trains, is stored and is computed; not what it computes.
_IMMATERIAL = re.compile(
    r"(.*\.)?(initializer|remat|cache|dispatch|context|dropout|loss|param_dtype|implementation|load_balance_weight"
    r"|z_loss_weight)(\..*)?"
)
_STACK = "decoder.stack"
_MATERIAL_OF_STACK = re.compile(r"decoder\.stack\.(layer(\..*)?|num_layers)")


def _material_changes(a: CausalLM.Config, b: CausalLM.Config) -> list[Change]:
    """Returns where two models compute different functions of the same weights, `a` -> `b`."""
    changes = diff(finalize(a.clone()), finalize(b.clone()))
    return [change for change in changes if _is_material(change)]


def _is_material(change: Change) -> bool:
    path = change.path
    of_stack = path == _STACK or path.startswith(f"{_STACK}.")
    if _IMMATERIAL.fullmatch(path) or (of_stack and not _MATERIAL_OF_STACK.fullmatch(path)):
        return False
    return not _is_equal(change.old, change.new)


def _is_equal(a: Any, b: Any) -> bool:
    """Compares values; files hold some numbers as float32."""
    if isinstance(a, float) and isinstance(b, float):
        return np.float32(a) == np.float32(b)
    if isinstance(a, Config) and isinstance(b, Config):
        return not diff(a, b)
    return bool(a == b)
