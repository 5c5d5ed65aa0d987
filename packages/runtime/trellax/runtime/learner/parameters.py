"""What the learner knows of each parameter: its spec and the rule that applies to its path."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax

from trellax.config import (
    REQUIRED,
    Configurable,
    NoMatchError,
    Required,
    format_path,
    path_matches,
)
from trellax.layers import ParameterSpec, is_spec


class ParameterRule(Configurable):
    """How some parameters are treated, chosen by their paths."""

    class Config(Configurable.Config):
        """
        Fields:
            parameters: a glob over parameter paths, such as "**.norm*.**" or "embedding.weight".
            learning_rate_multiplier: scales the schedule.
            weight_decay_multiplier: scales the optimizer's weight decay.
            frozen: keep the parameters as they are; no gradient is computed for them.
        """

        parameters: Required[str] = REQUIRED
        learning_rate_multiplier: float = 1.0
        weight_decay_multiplier: float = 1.0
        frozen: bool = False


@dataclasses.dataclass(frozen=True)
class Parameter:
    """One parameter as the learner sees it."""

    path: str
    spec: ParameterSpec
    learning_rate_multiplier: float = 1.0
    weight_decay_multiplier: float = 1.0
    is_trained: bool = True


def resolve_parameters(specs: Any, rules: Sequence[ParameterRule.Config]) -> Any:
    """Returns the tree of `Parameter`s; of several rules that match, the first applies.

    Raises:
        NoMatchError: for a rule that no parameter matches (a typo, most likely).
    """
    unused = set(range(len(rules)))

    def resolve(key_path: Any, spec: ParameterSpec) -> Parameter:
        path = format_path([k.key for k in key_path])
        hits = [i for i, rule in enumerate(rules) if path_matches(rule.parameters, path)]
        unused.difference_update(hits)
        return _parameter(path, spec, rules[hits[0]] if hits else None)

    tree = jax.tree_util.tree_map_with_path(resolve, specs, is_leaf=is_spec)
    if unused:
        names = ", ".join(repr(rules[i].parameters) for i in sorted(unused))
        raise NoMatchError(f"No parameter matches the rule {names}; list them with `show --specs`.")
    return tree


def map_parameters(fn: Callable[..., Any], parameters: Any, *trees: Any) -> Any:
    """Maps `fn(parameter, *leaves)` over the parameters and trees of the same structure."""
    return jax.tree.map(fn, parameters, *trees, is_leaf=lambda p: isinstance(p, Parameter))


def _parameter(path: str, spec: ParameterSpec, rule: ParameterRule.Config | None) -> Parameter:
    if rule is None:
        return Parameter(path, spec, is_trained=spec.trainable)
    return Parameter(
        path,
        spec,
        rule.learning_rate_multiplier,
        rule.weight_decay_multiplier,
        spec.trainable and not rule.frozen,
    )
