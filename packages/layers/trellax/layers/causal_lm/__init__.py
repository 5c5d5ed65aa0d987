"""The causal language model, its decoder, head and loss."""

from trellax.layers.causal_lm.decoder import Decoder
from trellax.layers.causal_lm.head import Head, LmHead
from trellax.layers.causal_lm.loss import CrossEntropyLoss, LossOutput
from trellax.layers.causal_lm.model import CausalLM

__all__ = ["CausalLM", "CrossEntropyLoss", "Decoder", "Head", "LmHead", "LossOutput"]
