"""Widths of feed-forward layers that follow from the model dim.

hidden_dim = config_for_function(scaled_hidden_dim).set(scale=8 / 3, multiple_of=256)
"""

from __future__ import annotations

import operator

from trellax.config import InstantiableConfig


def scaled_hidden_dim(input_dim: int, scale: float = 4.0, multiple_of: int = 1) -> int:
    """Returns `scale · input_dim`, truncated and then rounded up to a multiple.

    With 8/3 and 256 these are Llama's widths (11,008 for 4,096).
    """
    return -(-int(scale * input_dim) // multiple_of) * multiple_of


def resolved_hidden_dim(hidden_dim: int | InstantiableConfig, input_dim: int) -> int:
    """Returns the width that `hidden_dim` means for `input_dim`, in a config's `derive`.

    A config of a function with a parameter `input_dim`, such as `scaled_hidden_dim`, is called.

    Raises:
        RequiredValueUsedError: if the function is to be called and `input_dim` is unset.
    """
    if not isinstance(hidden_dim, InstantiableConfig):
        return hidden_dim
    return hidden_dim.clone(input_dim=operator.index(input_dim)).instantiate()
