"""The causal language model, its head and its loss."""

from trellax.layers.causal_lm.decoder import Decoder
from trellax.layers.causal_lm.head import Head, LmHead
from trellax.layers.causal_lm.loss import CrossEntropyLoss, LossOutput
from trellax.layers.causal_lm.model import CausalLM

__all__ = ["CausalLM", "CrossEntropyLoss", "Head", "LmHead", "LossOutput"]
