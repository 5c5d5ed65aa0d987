"""What is written is what other libraries read and what comes back to the bit; a failure leaves nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import ml_dtypes
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from safetensors import safe_open

from tests.weights.samples import MAX_LENGTH, model_of, our_parameters, tiny
from trellax.layers.weight_names import FAMILIES, Family, weight_map
from trellax.parallel import MeshShape, build_mesh
from trellax.runtime.input import ByteTokenizer
from trellax.runtime.pretrained_tokenizer import as_pretrained
from trellax.runtime.weights import (
    GenerationDefaults,
    UnsupportedWeightsError,
    check_same_architecture,
    open_pretrained,
    write_weights,
)


def write(folder: Path, params: Any, architecture: Any = None, **options: Any) -> None:
    cfg = (architecture or tiny("llama")).model_config()
    write_weights(folder, params, model_config=cfg, max_length=MAX_LENGTH, **options)


def assert_same_bits(a: Any, b: Any) -> None:
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        x, y = np.asarray(x), np.asarray(y)
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(x.view(np.uint8), y.view(np.uint8))


# ---- parity ------------------------------------------------------------------------------------------


def test_the_safetensors_library_reads_the_same_values(tmp_path: Path) -> None:
    params = our_parameters(tiny("mixtral"))
    write(tmp_path / "out", params, tiny("mixtral"))
    with safe_open(tmp_path / "out/model.safetensors", "numpy") as file:
        assert file.metadata() == {"format": "pt"}
        bound = weight_map("mixtral").bind(params)
        assert set(file.keys()) == {tensor.name for tensor in bound}
        for tensor in bound:
            leaf = params
            for key in tensor.path.split("."):
                leaf = leaf[key]
            expected = tensor.pattern.to_theirs(leaf[tensor.index])
            np.testing.assert_array_equal(file.get_tensor(tensor.name), expected)


# ---- properties --------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", FAMILIES)
def test_out_and_in_again_is_bit_exact(family: Family, dtype: str, tmp_path: Path) -> None:
    architecture = tiny(family)
    params = our_parameters(architecture, np.dtype(dtype))
    write(tmp_path / "out", params, architecture)
    pretrained = open_pretrained(tmp_path / "out")
    check_same_architecture(architecture.model_config(), pretrained)
    assert pretrained.max_length == MAX_LENGTH
    assert_same_bits(pretrained.read(model_of(architecture), dtype=dtype), params)


def test_odd_values_survive(tmp_path: Path) -> None:
    params = our_parameters(tiny("llama"), ml_dtypes.bfloat16)
    bits = np.arange(24 * 50, dtype=np.uint16) * 55  # Infinities and subnormals are among them.
    params["decoder"]["embedding"]["weight"] = bits.view(ml_dtypes.bfloat16).reshape(50, 24)
    write(tmp_path / "out", params)
    read = open_pretrained(tmp_path / "out").read(model_of(tiny("llama")), dtype="bfloat16")
    assert_same_bits(read, params)


def test_files_stay_below_the_limit_and_are_indexed(tmp_path: Path) -> None:
    params = our_parameters(tiny("llama"))
    write(tmp_path / "out", params, max_file_bytes=10_000)
    index = json.loads((tmp_path / "out/model.safetensors.index.json").read_text())
    names = set(index["weight_map"].values())
    assert len(names) > 3
    for name in names:
        assert (tmp_path / "out" / name).stat().st_size < 10_000 + 2000  # The header.
    assert index["metadata"]["total_size"] == sum(4 * x.size for x in jax.tree.leaves(params))
    assert_same_bits(open_pretrained(tmp_path / "out").read(model_of(tiny("llama"))), params)


def test_sharded_parameters_are_gathered_tensor_by_tensor(tmp_path: Path) -> None:
    params = our_parameters(tiny("llama", num_layers=4))
    mesh = build_mesh(MeshShape(fsdp=4, data=2))
    spread = jax.tree.map(
        lambda x: jax.device_put(
            x, NamedSharding(mesh, PartitionSpec("fsdp" if x.shape[0] == 4 else None))
        ),
        params,
    )
    write(tmp_path / "out", spread, tiny("llama", num_layers=4))
    read = open_pretrained(tmp_path / "out").read(model_of(tiny("llama", num_layers=4)))
    assert_same_bits(read, params)


def test_weights_can_be_stored_in_another_type(tmp_path: Path) -> None:
    params = our_parameters(tiny("llama"))
    write(tmp_path / "out", params, dtype="bfloat16")
    assert json.loads((tmp_path / "out/config.json").read_text())["torch_dtype"] == "bfloat16"
    read = open_pretrained(tmp_path / "out").read(model_of(tiny("llama")), dtype="bfloat16")
    assert_same_bits(read, jax.tree.map(lambda x: x.astype(ml_dtypes.bfloat16), params))


def test_the_tokenizer_and_generation_defaults_go_along(tmp_path: Path) -> None:
    tokenizer = as_pretrained(ByteTokenizer.default_config().instantiate())
    generation = GenerationDefaults(frozenset({3, 257}), bos_id=256, sampling={"temperature": 0.6})
    params = our_parameters(tiny("llama"))
    write(tmp_path / "out", params, tokenizer=tokenizer, generation=generation)
    pretrained = open_pretrained(tmp_path / "out")
    assert pretrained.generation == generation
    copy = pretrained.tokenizer()
    assert copy.to_json() == tokenizer.to_json()
    assert (copy.bos_id, copy.eos_id, copy.eos_ids) == (256, 257, frozenset({3, 257}))
    for special in (False, True):
        expected = tokenizer.encode("naïve", add_special_tokens=special)
        np.testing.assert_array_equal(copy.encode("naïve", add_special_tokens=special), expected)


# ---- mistakes ----------------------------------------------------------------------------------------


def test_a_failure_leaves_nothing_behind(tmp_path: Path) -> None:
    params = our_parameters(tiny("llama"))
    params["decoder"]["output_norm"]["scale"] = Unreadable()
    with pytest.raises(RuntimeError, match="lost"):
        write(tmp_path / "out", params)
    assert not list(tmp_path.iterdir())


class Unreadable(np.ndarray):
    """Fails when its values are asked for."""

    def __new__(cls) -> Unreadable:
        return np.zeros(24, np.float32).view(cls)

    def astype(self, *_: Any, **__: Any) -> Any:
        raise RuntimeError("lost")

    def __array__(self, *_: Any, **__: Any) -> Any:
        raise RuntimeError("lost")


def test_a_folder_that_holds_something_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(FileExistsError, match="not empty"):
        write(tmp_path, our_parameters(tiny("llama")))
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]


def test_parameters_of_another_model_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="query_norm.scale: not in the map"):
        write(tmp_path / "out", our_parameters(tiny("qwen3")))
    assert not list(tmp_path.iterdir())


def test_types_that_files_do_not_have_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        UnsupportedWeightsError, match="stored as int8; supported are float64, float32"
    ):
        write(tmp_path / "out", our_parameters(tiny("llama")), dtype="int8")
