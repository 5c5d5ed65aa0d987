"""Mask components: which keys a query may attend to, as a config.

    attention_cfg.set(mask=SlidingWindow.default_config().set(window=4096))

They build symbolic masks, which kernels recognise, and not arrays. Documents packed into one row are
kept apart by the attention layer itself, whatever the mask.
"""

from __future__ import annotations

from trellax.config import REQUIRED, Configurable, Required
from trellax.kernels.masks import CausalMask, FullMask, Mask, SlidingWindowMask


class AttentionMask(Configurable):
    """Interface: builds a symbolic mask."""

    def mask(self) -> Mask:
        """Returns what a query may attend to within its document."""
        raise NotImplementedError


class Causal(AttentionMask):
    """A token attends to itself and to what precedes it."""

    def mask(self) -> Mask:
        return CausalMask()


class SlidingWindow(AttentionMask):
    """A token attends to itself and to the window - 1 tokens before it (2310.06825)."""

    class Config(AttentionMask.Config):
        """
        Fields:
            window: number of tokens that are attended to, the query's own included.
        """

        window: Required[int] = REQUIRED

        def check(self) -> None:
            super().check()
            if self.window < 1:
                raise ValueError(f"window must be at least 1, got {self.window}.")

    def mask(self) -> Mask:
        return SlidingWindowMask(self.cfg.window)


class Full(AttentionMask):
    """Every token attends to every token, as in an encoder."""

    def mask(self) -> Mask:
        return FullMask()
