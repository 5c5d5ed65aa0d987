"""The causal language model, its decoder, head and loss, and the form that published families share."""

from trellax.layers.causal_lm.decoder import Decoder
from trellax.layers.causal_lm.head import Head, LmHead
from trellax.layers.causal_lm.loss import CrossEntropyLoss, LossOutput
from trellax.layers.causal_lm.model import CausalLM
from trellax.layers.causal_lm.pre_norm import decoder_model, swiglu

__all__ = [
    "CausalLM",
    "CrossEntropyLoss",
    "Decoder",
    "Head",
    "LmHead",
    "LossOutput",
    "decoder_model",
    "swiglu",
]
