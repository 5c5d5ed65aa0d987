"""GGUF files: blocks to the bit, names, permuted rows, metadata; what is not read is refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from tests.weights.samples import (
    RawTensor,
    gguf_file,
    gguf_metadata,
    hf_folder,
    model_of,
    raw,
    their_tensors,
    tiny,
)
from trellax.layers.attention import Llama3RopeScaling
from trellax.layers.weight_names import FAMILIES, Family, weight_map
from trellax.parallel import MeshShape, build_mesh
from trellax.runtime.weights import (
    GgufFile,
    UnsupportedWeightsError,
    WeightsFormatError,
    WeightsMismatchError,
    open_pretrained,
)
from trellax.runtime.weights.gguf_blocks import BLOCK_TYPES, dequantized

GOLDEN = Path(__file__).parent / "goldens" / "gguf_blocks.npz"


def written(path: Path, architecture: Any, kind: str = "F32", **changes: Any) -> Path:
    """Writes a model's file."""
    tensors = {n: raw(x, kind) for n, x in their_tensors(architecture, form="gguf").items()}
    return gguf_file(path, gguf_metadata(architecture) | changes, tensors)


# ---- parity ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", BLOCK_TYPES)
def test_blocks_have_the_values_of_the_reference(kind: str) -> None:
    golden = np.load(GOLDEN)
    found = dequantized(golden[f"{kind}_raw"].reshape(-1), kind)
    expected = golden[f"{kind}_values"].reshape(-1)
    np.testing.assert_array_equal(found.view(np.uint32), expected.view(np.uint32))


@pytest.mark.parametrize("family", ["llama", "mixtral"])
def test_rows_of_queries_and_keys_are_put_back(family: Family, tmp_path: Path) -> None:
    architecture = tiny(family)
    theirs = their_tensors(architecture, form="gguf")
    file = gguf_file(
        tmp_path / "m.gguf", gguf_metadata(architecture), {n: raw(x) for n, x in theirs.items()}
    )
    params = open_pretrained(file).read(model_of(architecture))
    found = params["decoder"]["stack"]["layer"]["attention"]["projection"]["key"]["weight"][1]
    # As converters to Hugging Face's form do it.
    x = theirs["blk.1.attn_k.weight"]
    rows, D = x.shape
    x = x.reshape(2, rows // 2 // 2, 2, D).swapaxes(1, 2).reshape(rows, D)
    np.testing.assert_array_equal(found, x.reshape(2, 8, D).transpose(2, 0, 1))


# ---- properties --------------------------------------------------------------------------------------


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_file_says_what_model_it_holds(family: Family, tied: bool, tmp_path: Path) -> None:
    architecture = tiny(family, tied=tied, norm_eps=1e-5)
    pretrained = open_pretrained(written(tmp_path / "m.gguf", architecture))
    assert pretrained.architecture == architecture
    assert (pretrained.family, pretrained.max_length) == (family, 128)


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16"])
@pytest.mark.parametrize("family", FAMILIES)
def test_each_parameter_has_the_values_of_its_tensors(
    family: Family, kind: str, tmp_path: Path
) -> None:
    architecture = tiny(family)
    pretrained = open_pretrained(written(tmp_path / "m.gguf", architecture, kind))
    params = pretrained.read(model_of(architecture))
    for tensor in weight_map(family, form="gguf").bind(params):
        leaf: Any = params
        for key in tensor.path.split("."):
            leaf = leaf[key]
        with pretrained.source.tensor(tensor.name) as x:
            np.testing.assert_array_equal(leaf[tensor.index], tensor.pattern.to_ours(x))


def test_permuted_rows_can_be_cut_within_a_head(tmp_path: Path) -> None:
    architecture = tiny("llama")
    pretrained = open_pretrained(written(tmp_path / "m.gguf", architecture))
    model = model_of(architecture)
    mesh = build_mesh(MeshShape(model=2, data=4))
    heads = NamedSharding(mesh, PartitionSpec(None, None, None, "model"))
    whole = NamedSharding(mesh, PartitionSpec())
    is_spec = lambda x: hasattr(x, "logical_axes")
    shardings = jax.tree.map(
        lambda spec: (
            heads if spec.logical_axes[-1] == "head_dim" and len(spec.shape) == 4 else whole
        ),
        model.all_parameter_specs(),
        is_leaf=is_spec,
    )
    cut = pretrained.read(model, shardings=shardings)
    jax.tree.map(np.testing.assert_array_equal, cut, pretrained.read(model))


def test_scaling_of_llama_3_is_known_by_its_tensor(tmp_path: Path) -> None:
    scaling = Llama3RopeScaling.default_config().set(factor=32.0)
    architecture = tiny("llama", rope_theta=5e5)
    frequencies = 5e5 ** -(np.arange(0, 8, 2) / 8)
    divisors = frequencies / scaling.instantiate().frequencies(frequencies)
    tensors = {n: raw(x) for n, x in their_tensors(architecture, form="gguf").items()}
    path = tmp_path / "m.gguf"
    gguf_file(path, gguf_metadata(architecture), tensors | {"rope_freqs.weight": raw(divisors)})
    pretrained = open_pretrained(path)
    scaled: Any = pretrained.architecture.rope_scaling
    assert scaled.factor == 32.0
    pretrained.read(model_of(pretrained.architecture))
    divisors[-1] = 7.0
    gguf_file(path, gguf_metadata(architecture), tensors | {"rope_freqs.weight": raw(divisors)})
    with pytest.raises(UnsupportedWeightsError, match="rope_freqs.weight"):
        open_pretrained(path)


def test_metadata_of_every_type_is_read(tmp_path: Path) -> None:
    said = {
        "general.architecture": "none",
        "a": [1, 2, 3],
        "b": ["x", "ÿ"],
        "c": True,
        "d": 0.1,
        "e": [],
    }
    file = GgufFile(gguf_file(tmp_path / "m.gguf", said, {}))
    assert file.metadata == said


# ---- mistakes ----------------------------------------------------------------------------------------


def test_types_that_are_not_read_are_refused_by_name(tmp_path: Path) -> None:
    architecture = tiny("llama")
    tensors = {n: raw(x) for n, x in their_tensors(architecture, form="gguf").items()}
    tensors["blk.0.ffn_up.weight"] = RawTensor((40, 24), "Q5_0", b"\0" * 660)
    file = gguf_file(tmp_path / "m.gguf", gguf_metadata(architecture), tensors)
    with pytest.raises(
        WeightsMismatchError, match=r"ffn_up.weight is stored as Q5_0; read are F32, F16.*Q6_K"
    ):
        open_pretrained(file).read(model_of(architecture))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"general.architecture": "gemma3"}, "'gemma3'; supported: llama, qwen3"),
        ({"llama.rope.scaling.type": "yarn"}, "'yarn' is not implemented"),
        ({"llama.attention.sliding_window": 16}, "sliding_window = 16"),
        ({"llama.rope.dimension_count": 4}, "rope.dimension_count = 4"),
        ({"llama.logit_scale": 0.5}, "logit_scale = 0.5 is not known here"),
        ({"split.count": 2}, "one of 2 parts"),
    ],
)
def test_what_we_do_not_compute_is_refused_by_name(
    change: Any, message: str, tmp_path: Path
) -> None:
    with pytest.raises(UnsupportedWeightsError, match=message):
        open_pretrained(written(tmp_path / "m.gguf", tiny("llama"), **change))


def test_a_file_that_was_cut_short_or_is_another_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "m.gguf", tiny("llama"))
    whole = path.read_bytes()
    for size in (len(whole) - 64, 3000, 100, 12, 4):
        path.write_bytes(whole[:size])
        with pytest.raises(WeightsFormatError, match="cut short"):
            open_pretrained(path)
    path.write_bytes(b"PK\3\4" + whole[4:])
    with pytest.raises(WeightsFormatError, match="not a GGUF file"):
        open_pretrained(path)
    path.write_bytes(whole[:4] + b"\1" + whole[5:])
    with pytest.raises(UnsupportedWeightsError, match="version 1"):
        open_pretrained(path)


def test_missing_metadata_is_named(tmp_path: Path) -> None:
    metadata = gguf_metadata(tiny("llama"))
    del metadata["llama.block_count"]
    tensors = {n: raw(x) for n, x in their_tensors(tiny("llama"), form="gguf").items()}
    with pytest.raises(WeightsFormatError, match="no metadata llama.block_count"):
        open_pretrained(gguf_file(tmp_path / "m.gguf", metadata, tensors))


def test_a_folder_and_a_file_of_one_model_are_of_one_architecture(tmp_path: Path) -> None:
    architecture = tiny("mixtral")
    folder = hf_folder(tmp_path / "hf", architecture, their_tensors(architecture))
    file = written(tmp_path / "m.gguf", architecture)
    assert open_pretrained(folder).architecture == open_pretrained(file).architecture
