"""The draft model beside a served one: `trellax serve NAME --weights=… --draft_weights=PATH --draft_experiment=OTHER`.

speculation = draft_speculation(served, "SmolLM2-135M-Instruct", experiment="smollm2_135m")
cfg = engine_config(hardware, served, overrides, speculation=speculation)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from trellax.config import config_for_function
from trellax.experiments.registry import get_experiment
from trellax.experiments.serving import Served, vocab_size_of
from trellax.inference.engine import DraftModelSpeculation
from trellax.runtime.pretrained_tokenizer import PretrainedTokenizer
from trellax.runtime.weights import (
    WeightsMismatchError,
    check_same_architecture,
    open_pretrained,
)


def published_params(weights: str) -> Callable[[Any, Any], Any]:
    """Returns what reads the parameters of a model, of (model, shardings).

    Args:
        weights: a Hugging Face folder or a GGUF file.
    """
    pretrained = open_pretrained(weights)
    return lambda model, shardings: pretrained.read(model, shardings=shardings)


def draft_speculation(
    served: Served, weights: str, *, experiment: str
) -> DraftModelSpeculation.Config:
    """Returns the config of speculation with an experiment's model. No parameters are read yet.

    Args:
        served: the model that it drafts for.
        weights: of the draft model, a Hugging Face folder or a GGUF file.
        experiment: whose model it is.

    Raises:
        WeightsMismatchError: the weights are of another model, or tokens mean something else to it.
    """
    model_cfg: Any = get_experiment(experiment).model
    pretrained = open_pretrained(weights)
    check_same_architecture(model_cfg, pretrained)
    _check_same_vocabulary(served, model_cfg, pretrained.tokenizer(), weights)
    return DraftModelSpeculation.default_config().set(
        model=model_cfg, params=config_for_function(published_params).set(weights=weights)
    )


def _check_same_vocabulary(
    served: Served, model_cfg: Any, tokenizer: PretrainedTokenizer, weights: str
) -> None:
    mend = f"A draft model needs the tokenizer of {served.name}; name other --draft_weights."
    size = vocab_size_of(model_cfg)
    if size != served.vocab_size:
        raise WeightsMismatchError(
            f"{weights} has a vocabulary of {size} tokens, {served.name} one of {served.vocab_size}. {mend}"
        )
    for token_id in range(size):
        ours, theirs = (t.token_bytes(token_id) for t in (served.tokenizer, tokenizer))
        if ours != theirs:
            raise WeightsMismatchError(
                f"Token {token_id} is {theirs!r} in {weights}, {ours!r} in {served.name}. {mend}"
            )
