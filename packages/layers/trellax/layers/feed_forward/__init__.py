"""Feed-forward layers and the activations they use."""

from trellax.layers.feed_forward.activations import activation_fn
from trellax.layers.feed_forward.feed_forward import FeedForwardLayer
from trellax.layers.feed_forward.hidden_dim import resolved_hidden_dim, scaled_hidden_dim

__all__ = ["FeedForwardLayer", "activation_fn", "resolved_hidden_dim", "scaled_hidden_dim"]
