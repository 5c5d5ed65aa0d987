"""The registered experiments: names to recipes, imported one at a time.

    cfg = get_experiment("llama2_7b_tpu")

A recipe is a function without arguments that returns a trainer config. Recipes of others need no
registration: `get_experiment("their_package.recipes:my_llama")` imports and calls theirs.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from trellax.config import did_you_mean

if TYPE_CHECKING:
    from trellax.runtime import Trainer

_RECIPES = {
    "llama2_13b": "trellax.experiments.llama2:llama2_13b",
    "llama2_70b_tpu": "trellax.experiments.llama2:llama2_70b_tpu",
    "llama2_7b_tpu": "trellax.experiments.llama2:llama2_7b_tpu",
    "llama3_1_405b": "trellax.experiments.llama3:llama3_1_405b",
    "llama3_1_70b": "trellax.experiments.llama3:llama3_1_70b",
    "llama3_1_8b": "trellax.experiments.llama3:llama3_1_8b",
    "llama3_2_1b": "trellax.experiments.llama3:llama3_2_1b",
    "llama3_2_3b": "trellax.experiments.llama3:llama3_2_3b",
    "llama3_8b": "trellax.experiments.llama3:llama3_8b",
    "llama_30m_local": "trellax.experiments.llama_local:llama_30m_local",
    "mixtral_8x7b": "trellax.experiments.mixtral:mixtral_8x7b",
    "qwen3_0_6b": "trellax.experiments.qwen3:qwen3_0_6b",
    "qwen3_14b": "trellax.experiments.qwen3:qwen3_14b",
    "qwen3_1_7b": "trellax.experiments.qwen3:qwen3_1_7b",
    "qwen3_30b_a3b": "trellax.experiments.qwen3:qwen3_30b_a3b",
    "qwen3_32b": "trellax.experiments.qwen3:qwen3_32b",
    "qwen3_4b": "trellax.experiments.qwen3:qwen3_4b",
    "qwen3_8b": "trellax.experiments.qwen3:qwen3_8b",
    "smollm2_135m": "trellax.experiments.smollm2:smollm2_135m",
}


class UnknownExperimentError(LookupError):
    """No experiment has this name."""

    def __str__(self) -> str:
        return str(self.args[0])


def experiment_names() -> list[str]:
    """Returns the names of all registered experiments."""
    return sorted(_RECIPES)


def get_experiment(name: str) -> Trainer.Config:
    """Returns a new trainer config of the experiment.

    Args:
        name: a registered name, or "module:function" of a recipe elsewhere.

    Raises:
        UnknownExperimentError: with near names.
    """
    return _recipe(name)()


def recipe_summary(name: str) -> str:
    """Returns the first line of the recipe's docstring."""
    return (inspect.getdoc(_recipe(name)) or "").partition("\n")[0]


def _recipe(name: str) -> Callable[[], Trainer.Config]:
    target = _RECIPES.get(name, name)
    if ":" not in target:
        near = did_you_mean(name, _RECIPES)
        raise UnknownExperimentError(
            f"There is no experiment {name!r}.{near} `trellax list` names them all."
        )
    module_name, _, function = target.partition(":")
    if not all(part.isidentifier() for part in (*module_name.split("."), function)):
        raise UnknownExperimentError(f"{name!r} is not of the form module:function.")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as e:
        if e.name is None or not module_name.startswith(e.name):
            raise  # The recipe's module is there; something that it imports is not.
        raise UnknownExperimentError(f"{name}: there is no module {module_name!r}.") from e
    if not hasattr(module, function):
        near = did_you_mean(function, [n for n in dir(module) if n[0] != "_"])
        raise UnknownExperimentError(f"{name}: {module_name} has no recipe {function!r}.{near}")
    recipe = getattr(module, function)
    if not _takes_nothing(recipe):
        raise UnknownExperimentError(
            f"{name}: it is no function without arguments that returns a trainer config."
        )
    return recipe


def _takes_nothing(recipe: Any) -> bool:
    try:
        inspect.signature(recipe).bind()
    except TypeError:  # No function, or one with arguments.
        return False
    return True
