"""Weights reach the right place, whatever the file, the type and the devices; what does not fit is listed first."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax
import ml_dtypes
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from tests.weights.samples import hf_folder, model_of, our_parameters, their_tensors, tiny
from trellax.config import replace_config
from trellax.layers import ScannedStack, UnrolledStack
from trellax.layers.weight_names import FAMILIES, Family, weight_map
from trellax.parallel import LogicalAxisRules, MeshShape, build_mesh, shardings_for
from trellax.runtime.weights import (
    SafetensorsFolder,
    WeightsFormatError,
    WeightsMismatchError,
    open_pretrained,
    read_weights,
)


def check_values(
    params: Any, theirs: dict[str, np.ndarray], family: Family, dtype: Any = None
) -> None:
    """Fails unless each parameter has the bits of the tensors that it is made of."""
    for tensor in weight_map(family).bind(params):
        leaf = params
        for key in tensor.path.split("."):
            leaf = leaf[key]
        found = np.asarray(leaf)[tensor.index]
        expected = tensor.pattern.to_ours(theirs[tensor.name]).astype(dtype or found.dtype)
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(
            found.view(np.uint8), np.ascontiguousarray(expected).view(np.uint8)
        )


# ---- parity ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_each_parameter_has_the_values_of_its_tensors(family: Family, tmp_path: Path) -> None:
    architecture = tiny(family)
    theirs = their_tensors(architecture)
    pretrained = open_pretrained(hf_folder(tmp_path, architecture, theirs, num_files=3))
    assert (pretrained.family, pretrained.max_length) == (family, 128)
    params = pretrained.read(pretrained.model_config().instantiate(name="root"))
    check_values(params, theirs, family, np.float32)


@pytest.mark.parametrize("stored", [ml_dtypes.bfloat16, np.float16, np.float64])
@pytest.mark.parametrize("wanted", ["float32", "bfloat16"])
def test_types_are_converted_as_numpy_converts_them(
    stored: Any, wanted: str, tmp_path: Path
) -> None:
    theirs = their_tensors(tiny("llama"), dtype=stored)
    pretrained = open_pretrained(hf_folder(tmp_path, tiny("llama"), theirs))
    params = pretrained.read(model_of(tiny("llama")), dtype=wanted)
    # float64 goes by way of float32, which JAX has.
    theirs = {k: v.astype(np.float32) if v.dtype == np.float64 else v for k, v in theirs.items()}
    check_values(params, theirs, "llama", np.dtype(wanted))


PLANS = {
    "fsdp": MeshShape(fsdp=4, data=2),
    "tensor": MeshShape(fsdp=2, model=2, data=2),
    "expert": MeshShape(expert=4, fsdp=2),
}


@pytest.mark.parametrize("plan", PLANS)
def test_any_sharding_gives_the_same_parameters(plan: str, tmp_path: Path) -> None:
    architecture = tiny("qwen3_moe")
    theirs = their_tensors(architecture)
    pretrained = open_pretrained(hf_folder(tmp_path, architecture, theirs))
    model = model_of(architecture)
    mesh = build_mesh(PLANS[plan])
    shardings = shardings_for(model.all_parameter_specs(), mesh, LogicalAxisRules())
    params = pretrained.read(model, shardings=shardings)
    assert jax.tree.map(lambda x: x.sharding, params) == shardings
    check_values(params, theirs, "qwen3_moe", np.float32)


def test_layers_can_be_split_over_devices(tmp_path: Path) -> None:
    architecture = tiny("llama", num_layers=4)
    theirs = their_tensors(architecture)
    source = SafetensorsFolder(hf_folder(tmp_path, architecture, theirs))
    mesh = build_mesh(MeshShape(pipeline=4, fsdp=2))
    where = lambda spec: NamedSharding(
        mesh, PartitionSpec("pipeline" if spec.logical_axes[0] == "layers" else None)
    )
    abstract = jax.tree.map(
        lambda spec: jax.ShapeDtypeStruct(spec.shape, spec.dtype, sharding=where(spec)),
        model_of(architecture).all_parameter_specs(),
        is_leaf=lambda x: hasattr(x, "logical_axes"),
    )
    params = read_weights(source, abstract, weight_map=weight_map("llama"))
    query = params["decoder"]["stack"]["layer"]["attention"]["projection"]["query"]["weight"]
    assert {shard.data.shape[0] for shard in query.addressable_shards} == {1}
    check_values(params, theirs, "llama", np.float32)


def test_how_layers_are_repeated_is_invisible(tmp_path: Path) -> None:
    theirs = their_tensors(tiny("llama"))
    pretrained = open_pretrained(hf_folder(tmp_path, tiny("llama"), theirs))
    cfg = pretrained.model_config()
    replace_config(cfg, target=ScannedStack, new_cfg=UnrolledStack.default_config())
    check_values(pretrained.read(cfg.instantiate(name="root")), theirs, "llama", np.float32)


# ---- properties --------------------------------------------------------------------------------------


def test_a_copy_of_the_embedding_and_derived_tensors_may_be_there(tmp_path: Path) -> None:
    architecture = tiny("llama", tied=True)
    theirs = their_tensors(architecture)
    extra = {
        "lm_head.weight": theirs["model.embed_tokens.weight"],
        "model.layers.0.self_attn.rotary_emb.inv_freq": np.zeros(4, np.float32),
    }
    pretrained = open_pretrained(hf_folder(tmp_path, architecture, theirs | extra))
    check_values(pretrained.read(model_of(architecture)), theirs, "llama")


def test_parameters_do_not_change_with_the_file(tmp_path: Path) -> None:
    architecture = tiny("llama", tied=True)
    theirs = their_tensors(architecture)
    folder = hf_folder(tmp_path, architecture, theirs)
    params = open_pretrained(folder).read(model_of(architecture))
    with open(folder / "model.safetensors", "r+b") as file:
        size = file.seek(0, 2)
        file.seek(0)
        file.write(b"\xff" * size)
    check_values(params, theirs, "llama")


# ---- mistakes ----------------------------------------------------------------------------------------


def test_all_that_does_not_fit_is_listed_before_anything_is_read(tmp_path: Path) -> None:
    theirs = their_tensors(tiny("llama"))
    del theirs["model.layers.1.mlp.up_proj.weight"]
    theirs["model.layers.2.self_attn.k_proj.weight"] = np.zeros((7, 24), np.float32)
    theirs["model.layers.3.mlp.up_proj.weight"] = np.zeros((40, 24), np.float32)
    theirs["model.norm.weight"] = np.zeros(24, np.int8)
    pretrained = open_pretrained(hf_folder(tmp_path, tiny("llama"), theirs))
    with pytest.raises(WeightsMismatchError) as caught:
        pretrained.read(model_of(tiny("llama")))
    lines = [line.strip() for line in str(caught.value).splitlines()[1:-1]]
    layer = "decoder.stack.layer"
    assert lines == [
        f"missing: model.layers.1.mlp.up_proj.weight, {layer}.feed_forward.up.weight[1]",
        "misshapen: model.layers.2.self_attn.k_proj.weight is [7, 24]; "
        f"{layer}.attention.projection.key.weight[2] takes [16, 24]",
        "not read: model.norm.weight is stored as I8; read are F64, F32, F16, BF16",
        "surplus: model.layers.3.mlp.up_proj.weight [40, 24]",
    ]


def test_a_head_that_differs_from_the_tied_embedding_is_refused(tmp_path: Path) -> None:
    theirs = their_tensors(tiny("llama"))
    pretrained = open_pretrained(hf_folder(tmp_path, tiny("llama", tied=True), theirs))
    with pytest.raises(
        WeightsMismatchError, match="lm_head.weight differs from model.embed_tokens"
    ):
        pretrained.read(model_of(tiny("llama", tied=True)))


def test_a_file_that_was_cut_short_is_refused(tmp_path: Path) -> None:
    folder = hf_folder(tmp_path, tiny("llama"), their_tensors(tiny("llama")))
    file = folder / "model.safetensors"
    whole = file.read_bytes()
    for size in (len(whole) - 1, 4000, 20, 4, 0):
        file.write_bytes(whole[:size])
        with pytest.raises(WeightsFormatError, match="model.safetensors"):
            open_pretrained(folder).read(model_of(tiny("llama")))


@pytest.mark.parametrize(
    "header",
    [b"{", b"[]", b'{"x": 1}', b'{"x": {"dtype": "F32", "shape": [3], "data_offsets": [0, 4]}}'],
)
def test_a_damaged_header_is_refused(header: bytes, tmp_path: Path) -> None:
    folder = hf_folder(tmp_path, tiny("llama"), {})
    content = len(header).to_bytes(8, "little") + header + b"\0" * 16
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(WeightsFormatError, match="model.safetensors"):
        open_pretrained(folder).source.tensors  # noqa: B018


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsFormatError, match="no such file"):
        open_pretrained(tmp_path / "nowhere")
    with pytest.raises(WeightsFormatError, match="has no config.json"):
        open_pretrained(tmp_path)
    folder = hf_folder(tmp_path, tiny("llama"), their_tensors(tiny("llama")), num_files=2)
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(WeightsFormatError, match="model-00002-of-00002"):
        open_pretrained(folder).read(model_of(tiny("llama")))
    (folder / "model.safetensors.index.json").unlink()
    (folder / "pytorch_model.bin").touch()
    with pytest.raises(WeightsFormatError, match=r"pytorch_model.bin: convert it"):
        open_pretrained(folder).read(model_of(tiny("llama")))


def test_shardings_of_another_model_are_refused(tmp_path: Path) -> None:
    pretrained = open_pretrained(hf_folder(tmp_path, tiny("llama"), their_tensors(tiny("llama"))))
    one = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    shardings = jax.tree.map(lambda _: one, our_parameters(tiny("llama", tied=True)))
    with pytest.raises(ValueError, match=r"differ at: decoder.lm_head.weight"):
        pretrained.read(model_of(tiny("llama")), shardings=shardings)


def test_weights_of_a_larger_vocabulary_do_not_fit(tmp_path: Path) -> None:
    larger = dataclasses.replace(tiny("llama"), vocab_size=64)
    pretrained = open_pretrained(hf_folder(tmp_path, larger, their_tensors(larger)))
    with pytest.raises(
        WeightsMismatchError, match=r"embed_tokens.weight is \[64, 24\].*takes \[50, 24\]"
    ):
        pretrained.read(model_of(tiny("llama")))
