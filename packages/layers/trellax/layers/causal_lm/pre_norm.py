"""The decoder that published families share: what a recipe or a file of weights fills in.

    model = decoder_model(num_layers=32, dim=4096, num_heads=32, vocab_size=32_000, feed_forward=swiglu(11_008), …)

What differs between families (experts or not, norms of queries and keys, scaling of positions) is a config that the
caller passes in, so nothing here asks which family it is for.
"""

from __future__ import annotations

from trellax.layers.attention import Positions
from trellax.layers.base import BaseLayer, VarianceScalingInitializer
from trellax.layers.causal_lm.decoder import Decoder
from trellax.layers.causal_lm.model import CausalLM
from trellax.layers.feed_forward import FeedForwardLayer
from trellax.layers.norm import RMSNorm
from trellax.layers.stack import ScannedStack
from trellax.layers.transformer import TransformerLayer


def decoder_model(
    *,
    num_layers: int,
    dim: int,
    num_heads: int,
    num_kv_heads: int | None = None,
    head_dim: int | None = None,
    vocab_size: int,
    feed_forward: BaseLayer.Config,
    positions: Positions.Config,
    norm_eps: float = 1e-5,
    normed_heads: bool = False,
    tied: bool = False,
) -> CausalLM.Config:
    """Returns a pre-norm decoder: RMSNorm, grouped-query attention, no biases.

    Args:
        num_layers: L.
        dim: D.
        num_heads: N.
        num_kv_heads: K; None for N.
        head_dim: H; None for D / N.
        vocab_size: V.
        feed_forward: what follows attention in every layer.
        positions: how queries and keys learn where they stand.
        norm_eps: added to the mean square in every norm.
        normed_heads: whether each head's queries and keys are normed before positions (arXiv:2302.05442).
        tied: whether the output layer is the embedding.
    """
    norm = RMSNorm.default_config().set(eps=norm_eps)
    layer = TransformerLayer.default_config()
    layer.attention.set(
        num_heads=num_heads, num_kv_heads=num_kv_heads, head_dim=head_dim, positions=positions
    )
    if normed_heads:
        layer.attention.set(query_norm=norm, key_norm=norm)
    layer.set(attention_norm=norm, feed_forward=feed_forward, feed_forward_norm=norm)
    decoder = Decoder.default_config().set(dim=dim, vocab_size=vocab_size, output_norm=norm)
    decoder.stack = ScannedStack.default_config().set(layer=layer, num_layers=num_layers)
    if tied:
        decoder.lm_head = None
    else:  # First logits are near zero, the first loss near ln(V).
        decoder.lm_head.initializer = VarianceScalingInitializer.default_config().set(scale=0.02)
    return CausalLM.default_config().set(decoder=decoder)


def swiglu(hidden_dim: int) -> FeedForwardLayer.Config:
    """Returns a gated feed-forward layer with SiLU (Shazeer 2020, arXiv:2002.05202)."""
    return FeedForwardLayer.default_config().set(hidden_dim=hidden_dim)
