"""What the command line serves: a model with its weights and tokenizer, from published files or from a run.

served = served_weights("smollm2_135m", "SmolLM2-135M-Instruct")      # a Hugging Face folder or GGUF file
served = served_run(trainer, lambda: params, name="llama2_7b_tpu")    # a run's checkpoint
engine = start_engine(engine_cfg, served)
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

from trellax.config import Config, apply_overrides, finalize
from trellax.experiments.registry import get_experiment
from trellax.inference.engine import (
    Engine,
    EngineConfig,
    EngineCore,
    ModelCard,
    Speculation,
    build_core,
)
from trellax.parallel import Hardware
from trellax.runtime import use_compilation_cache
from trellax.runtime.pretrained_tokenizer import PretrainedTokenizer, as_pretrained
from trellax.runtime.weights import check_same_architecture, open_pretrained

ENGINE = "engine."
"""Overrides that begin so are of the engine, not of the experiment."""


@dataclasses.dataclass(frozen=True)
class Served:
    """A model that can be served.

    Attributes:
        name: what clients call it.
        model_cfg: its config in training.
        params_fn: makes its parameters, as `build_core` takes it.
        tokenizer: the model's.
        eos_ids: tokens that end a text.
        max_length: tokens that it was made for; None if nothing says.
    """

    name: str
    model_cfg: Any
    params_fn: Callable[[Any, Any], Any]
    tokenizer: PretrainedTokenizer
    eos_ids: frozenset[int]
    max_length: int | None

    @functools.cached_property
    def vocab_size(self) -> int:
        """V of the model, which may be more than the tokenizer's."""
        return vocab_size_of(self.model_cfg)


def vocab_size_of(model_cfg: Any) -> int:
    """Returns V, which the model itself says, whatever it is made of. No parameters are made."""
    return finalize(model_cfg.clone()).instantiate().vocab_size


def served_weights(
    experiment: str, weights: str, *, name: str | None = None, dtype: str | None = None
) -> Served:
    """Returns an experiment's model with published weights.

    Args:
        experiment: whose model it is.
        weights: a Hugging Face folder or a GGUF file.
        name: what clients call it; None for the experiment's name.
        dtype: that weights are read in; None for the files' own.

    Raises:
        WeightsMismatchError: the weights are of another model; all differences are listed.
    """
    model_cfg: Any = get_experiment(experiment).model
    pretrained = open_pretrained(weights)
    check_same_architecture(model_cfg, pretrained)
    tokenizer = pretrained.tokenizer()
    return Served(
        name=name or experiment,
        model_cfg=model_cfg,
        params_fn=lambda model, shardings: pretrained.read(model, dtype=dtype, shardings=shardings),
        tokenizer=tokenizer,
        eos_ids=frozenset(tokenizer.eos_ids) | frozenset(pretrained.generation.eos_ids),
        max_length=pretrained.max_length,
    )


def served_run(trainer: Any, load_fn: Callable[[], Any], *, name: str) -> Served:
    """Returns the model of a run's checkpoint.

    Args:
        trainer: of the run.
        load_fn: returns the parameters; is called once they are needed.
        name: what clients call it.
    """
    tokenizer = as_pretrained(trainer.input.tokenizer)
    return Served(
        name=name,
        model_cfg=trainer.cfg.model,
        params_fn=lambda model, shardings: load_fn(),
        tokenizer=tokenizer,
        eos_ids=frozenset(tokenizer.eos_ids),
        max_length=trainer.cfg.input.sequence_length,
    )


def split_overrides(overrides: Sequence[str]) -> tuple[list[str], list[str]]:
    """Returns the overrides of the engine, and the others."""
    engine = [o.removeprefix(ENGINE) for o in overrides if o.startswith(ENGINE)]
    return engine, [o for o in overrides if not o.startswith(ENGINE)]


def engine_config(
    hardware: Hardware,
    served: Served,
    overrides: Sequence[str],
    *,
    speculation: Speculation.Config | None = None,
) -> Any:
    """Returns the engine's config for this machine, with the user's changes.

    Args:
        hardware: that it runs on.
        served: the model.
        overrides: of the engine's fields.
        speculation: how tokens are proposed; its fields can be overridden, too.

    Raises:
        ConfigError: an override names no field, or a value is wrong.
    """
    cfg: Config = EngineConfig.default_config()
    if hardware.platform == "cpu":
        # 256 tokens of prompts beside those that decode: small steps cost CPUs nothing, and nobody waits long for the next.
        cfg.set(dtype="float32", weights="float32", max_sequences=32, max_tokens_per_step=288)
    else:
        cfg.set(dtype="bfloat16", max_sequences=128, max_tokens_per_step=2048, tile_length=128)
    if served.max_length is not None:
        cfg.set(max_length=min(served.max_length, 4096))
    cfg.set(speculation=speculation)
    apply_overrides(cfg, list(overrides))
    return finalize(cfg)


def start_core(cfg: Any, served: Served, *, prefill_only: bool = False) -> EngineCore:
    """Returns an engine's core with its programs compiled, or found where an earlier start has left them.

    Args:
        cfg: of the engine.
        served: the model.
        prefill_only: whether sequences decode elsewhere.
    """
    use_compilation_cache(min_compile_s=0.05)
    return build_core(
        cfg,
        served.model_cfg,
        served.params_fn,
        tokenizer=served.tokenizer,
        eos_ids=served.eos_ids,
        prefill_only=prefill_only,
    )


def model_card(cfg: Any, served: Served) -> ModelCard:
    """Returns what clients are told of the model."""
    return ModelCard(id=served.name, max_length=cfg.max_length, vocab_size=served.vocab_size)


def start_engine(cfg: Any, served: Served) -> Engine:
    """Returns a running engine that does all."""
    return engine_of(start_core(cfg, served), cfg, served)


def engine_of(core: EngineCore, cfg: Any, served: Served) -> Engine:
    """Returns a running engine over a core."""
    return Engine(core, tokenizer=served.tokenizer, model=model_card(cfg, served))
