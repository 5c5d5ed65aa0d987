"""Accelerator-aware array operations: one op a folder, many implementations, one contract.

    from trellax.kernels.attention import attention, explain
    from trellax.kernels.masks import CausalMask

Every op takes `implementation=`: None picks the best that supports the input and always works, a name
must work or raises with its reason, a sequence is tried in order. See `dispatch` for the mechanism.
"""

from trellax.kernels.dispatch import Choice, UnsupportedError

__all__ = ["Choice", "UnsupportedError"]
