"""Hand-overs to test with."""

import ml_dtypes
import numpy as np

from trellax.inference.disaggregation import HandOver
from trellax.inference.requests import Request, SamplingParams

FINGERPRINT = "model-a/bfloat16/page-16"


def make_handover(request_id: str = "cmpl-1", *, num_bytes: int = 4096, seed: int = 0) -> HandOver:
    """Keys and values of so many bytes together, of random bits."""
    bits = np.random.default_rng(seed).integers(0, 2**16, num_bytes // 2, dtype=np.uint16)
    keys, values = bits.view(ml_dtypes.bfloat16).reshape(2, -1)
    request = Request(id=request_id, prompt_ids=(1, 5, 9), params=SamplingParams(max_tokens=8))
    return HandOver(request, token_ids=(17,), arrays={"keys": keys, "values": values})


def assert_same(received: HandOver, sent: HandOver) -> None:
    """All of it, arrays bit by bit."""
    assert received.request == sent.request
    assert received.token_ids == sent.token_ids
    assert list(received.arrays) == list(sent.arrays)
    for name, array in sent.arrays.items():
        assert received.arrays[name].dtype == array.dtype
        assert received.arrays[name].shape == array.shape
        assert received.arrays[name].tobytes() == array.tobytes()
