"""`HandOver`: a sequence that goes on elsewhere, and how its arrays are described on the way.

    handover = HandOver(request, token_ids=(17,), arrays={"keys": keys, "values": values})

The engine that prefills makes it, the engine that decodes goes on from it. What the arrays are called and hold (pages of
keys and values, a recurrent state …) is between the two engines; the transport sees bytes.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np

from trellax.inference.disaggregation.codec import from_json, is_integer, to_json
from trellax.inference.requests import Request

_DTYPES = {
    np.dtype(dtype).name: np.dtype(dtype)
    for dtype in (
        *(np.bool_, np.int8, np.int16, np.int32, np.int64),
        *(np.uint8, np.uint16, np.uint32, np.uint64),
        *(np.float16, np.float32, np.float64, ml_dtypes.bfloat16, ml_dtypes.int4, ml_dtypes.uint4),
        *(ml_dtypes.float8_e4m3, ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2),
        *(ml_dtypes.float8_e4m3b11fnuz, ml_dtypes.float8_e4m3fnuz, ml_dtypes.float8_e5m2fnuz),
        ml_dtypes.float8_e8m0fnu,
    )
}
_MAX_DIMS = 32
_MAX_ELEMENTS = 1 << 40
"""Of a peer's array, dims of 0 left out: numpy makes no array of shape (0, 2⁶³)."""


@dataclasses.dataclass(frozen=True, eq=False)
class HandOver:
    """All that an engine needs to go on with a sequence.

    Attributes:
        request: what was asked; its id is unique among the sequences of both engines.
        token_ids: what was drawn so far. The last one's keys and values are not computed yet.
        arrays: the cache of the prompt and of `token_ids` but the last, on the host. Not to be written to.
    """

    request: Request
    token_ids: tuple[int, ...]
    arrays: Mapping[str, np.ndarray]

    @property
    def num_bytes(self) -> int:
        """Of the arrays, and about as many as the rest takes up."""
        num_array_bytes = sum(array.nbytes for array in self.arrays.values())
        return num_array_bytes + bookkeeping_bytes(self.request, self.token_ids)


def flat_arrays(tree: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Returns the arrays of nested dicts by their path, "decoder/stack/attention/cache/keys"."""
    flat = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            flat.update({f"{name}/{path}": array for path, array in flat_arrays(value).items()})
        else:
            flat[name] = value
    return flat


def nested_arrays(flat: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Returns the nested dicts that `flat_arrays` was given, but for empty ones."""
    tree: dict[str, Any] = {}
    for path, array in flat.items():
        *parents, name = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = array
    return tree


def describe(handover: HandOver) -> dict[str, Any]:
    """Returns what precedes the arrays' bytes, as a JSON value.

    Raises:
        ValueError: if an array's dtype does not travel.
    """
    arrays = []
    for name, array in handover.arrays.items():
        if _DTYPES.get(array.dtype.name) != array.dtype:
            raise ValueError(f"Array {name!r} is {array.dtype!r}; expected one of {list(_DTYPES)}.")
        arrays.append({"name": name, "dtype": array.dtype.name, "shape": list(array.shape)})
    token_ids = list(handover.token_ids)
    return {"request": to_json(handover.request), "token_ids": token_ids, "arrays": arrays}


@dataclasses.dataclass(frozen=True)
class Description:
    """A hand-over of a peer before its arrays have come, checked."""

    request: Request
    token_ids: tuple[int, ...]
    arrays: dict[str, tuple[np.dtype, tuple[int, ...]]]

    @classmethod
    def parse(cls, data: Any) -> Description:
        """Reads what `describe` made.

        Raises:
            ValueError: if it is anything else.
        """
        if not isinstance(data, dict) or data.keys() != {"request", "token_ids", "arrays"}:
            raise ValueError("a hand-over has the fields request, token_ids and arrays")
        token_ids = data["token_ids"]
        if not isinstance(token_ids, list) or not all(map(is_integer, token_ids)):
            raise ValueError("token_ids must be integers")
        if not isinstance(data["arrays"], list):
            raise ValueError("arrays must be a list")
        arrays = dict(_array(item) for item in data["arrays"])
        if len(arrays) != len(data["arrays"]):
            raise ValueError("two arrays have the same name")
        return cls(from_json(Request, data["request"]), tuple(token_ids), arrays)

    @property
    def num_bytes(self) -> int:
        """As of the hand-over."""
        # Plain integers: the product of a hostile peer's dims overflows numpy's.
        num_array_bytes = sum(math.prod(s) * dtype.itemsize for dtype, s in self.arrays.values())
        return num_array_bytes + bookkeeping_bytes(self.request, self.token_ids)

    def allocate(self) -> HandOver:
        """Returns the hand-over with arrays that are yet to be filled."""
        arrays = {name: np.empty(shape, dtype) for name, (dtype, shape) in self.arrays.items()}
        return HandOver(self.request, self.token_ids, arrays)


def check_fits(handover: HandOver, capacity_bytes: int) -> None:
    """Raises a `ValueError` if a receiver has never room for `handover`."""
    if handover.num_bytes > capacity_bytes:
        raise ValueError(
            f"The hand-over of {handover.request.id!r} has {handover.num_bytes} bytes and the receiver "
            f"has room for {capacity_bytes} in all; give it a larger capacity_bytes."
        )


def _array(item: Any) -> tuple[str, tuple[np.dtype, tuple[int, ...]]]:
    if not isinstance(item, dict) or item.keys() != {"name", "dtype", "shape"}:
        raise ValueError("an array has the fields name, dtype and shape")
    name, dtype, shape = item["name"], item["dtype"], item["shape"]
    if not isinstance(name, str) or not isinstance(dtype, str) or dtype not in _DTYPES:
        raise ValueError(f"array {str(name)[:50]!r} has the dtype {str(dtype)[:50]!r}")
    if not isinstance(shape, list) or len(shape) > _MAX_DIMS:
        raise ValueError(f"array {name[:50]!r} has no shape")
    if not all(is_integer(n) and n >= 0 for n in shape):
        raise ValueError(f"array {name[:50]!r} has a dim that is no size")
    if math.prod(max(n, 1) for n in shape) > _MAX_ELEMENTS:
        raise ValueError(f"array {name[:50]!r} has a shape that no array has")
    return name, (_DTYPES[dtype], tuple(shape))


def bookkeeping_bytes(request: Request, token_ids: tuple[int, ...]) -> int:
    """Returns about what a hand-over takes besides its arrays."""
    # 36 bytes a Python integer in a tuple. Without it, hand-overs with no arrays would be free and could pile up.
    return 2048 + 36 * (len(request.prompt_ids) + len(token_ids))


def byte_view(array: np.ndarray) -> memoryview:
    """Returns the bytes of an array in C order; they are the array's own if it is laid out so."""
    # numpy cannot lend the memory of ml_dtypes' types, but can see it as integers.
    return memoryview(np.ascontiguousarray(array).reshape(-1).view(np.uint8))
