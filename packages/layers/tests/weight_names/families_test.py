"""Every parameter of every family's models has its one place in their files, whichever stack repeats the layers."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

from trellax.config import replace_config
from trellax.layers import (
    CausalLM,
    FeedForwardLayer,
    MoELayer,
    PipelinedStack,
    ScannedStack,
    UnrolledStack,
    decoder_model,
    swiglu,
)
from trellax.layers.attention import FusedQKVProjection, RotaryPositions
from trellax.layers.weight_names import (
    FAMILIES,
    Entry,
    Family,
    Form,
    WeightMap,
    parameter_shapes,
    weight_map,
)

FORMS: tuple[Form, ...] = ("hugging_face", "gguf")


def model_of(family: Family, *, tied: bool = False, experts: int = 3) -> CausalLM.Config:
    """Returns a small model whose dims all differ."""
    feed_forward: Any = swiglu(11)
    if family in ("mixtral", "qwen3_moe"):
        feed_forward = MoELayer.default_config().set(
            hidden_dim=11, num_experts=experts, experts_per_token=2
        )
    return decoder_model(
        num_layers=4,
        dim=20,
        num_heads=6,
        num_kv_heads=2,
        head_dim=8,
        vocab_size=17,
        feed_forward=feed_forward,
        positions=RotaryPositions.default_config(),
        normed_heads=family.startswith("qwen3"),
        tied=tied,
    )


def specs_of(cfg: CausalLM.Config) -> Any:
    return cfg.instantiate(name="root").all_parameter_specs()


# ---- properties --------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_element_has_one_place_and_comes_back(family: Family, tied: bool, form: Form) -> None:
    specs = specs_of(model_of(family, tied=tied))
    bound = weight_map(family, form=form).bind(specs)
    assert len({tensor.name for tensor in bound}) == len(bound)
    filled = {path: np.zeros(shape, np.int64) for path, shape in parameter_shapes(specs).items()}
    theirs: dict[str, np.ndarray] = {}
    start = 1
    for tensor in bound:
        size = int(np.prod(tensor.shape))
        theirs[tensor.name] = np.arange(start, start + size).reshape(tensor.shape)
        filled[tensor.path][tensor.index] += tensor.pattern.to_ours(theirs[tensor.name])
        start += size
    everything = np.concatenate([x.ravel() for x in filled.values()])
    np.testing.assert_array_equal(np.sort(everything), np.arange(1, start))
    for tensor in bound:
        back = tensor.pattern.to_theirs(filled[tensor.path][tensor.index])
        np.testing.assert_array_equal(back, theirs[tensor.name])


@pytest.mark.parametrize(
    "stack",
    [UnrolledStack.default_config(), PipelinedStack.default_config().set(num_microbatches=2)],
    ids=["unrolled", "pipelined"],
)
def test_how_layers_are_repeated_changes_nothing(stack: Any) -> None:
    cfg = model_of("qwen3_moe")
    expected = weight_map("qwen3_moe").bind(specs_of(cfg))
    replace_config(cfg, target=ScannedStack, new_cfg=stack)
    assert weight_map("qwen3_moe").bind(specs_of(cfg)) == expected


def test_names_are_those_of_the_released_files() -> None:
    bound = weight_map("mixtral").bind(specs_of(model_of("mixtral")))
    by_name = {tensor.name: tensor for tensor in bound}
    down = by_name["model.layers.3.block_sparse_moe.experts.1.w2.weight"]
    assert (down.path, down.index, down.shape) == (
        "decoder.stack.layer.feed_forward.experts.down",
        (3, 1),
        (20, 11),
    )
    assert by_name["model.layers.0.self_attn.q_proj.weight"].shape == (48, 20)
    assert by_name["lm_head.weight"].shape == (17, 20)
    counts = Counter(name.split(".")[1] for name in by_name)
    assert counts["layers"] == 4 * (4 + 2 + 1 + 3 * 3)


# ---- mistakes ----------------------------------------------------------------------------------------


def test_parameters_without_a_place_are_all_listed() -> None:
    cfg = model_of("llama")
    cfg.decoder.stack.layer.attention.projection = FusedQKVProjection.default_config()
    replace_config(
        cfg,
        target=FeedForwardLayer,
        new_cfg=MoELayer.default_config().set(num_experts=4),
    )
    with pytest.raises(ValueError) as caught:
        weight_map("llama").bind(specs_of(cfg))
    for path in ("attention.projection.fused.weight", "feed_forward.router.weight", "experts.down"):
        assert f"{path}: not in the map" in str(caught.value)


def test_a_parameter_with_two_entries_is_refused() -> None:
    entries = (Entry("a", "x", "D -> D"), Entry("a", "y", "D -> D"))
    with pytest.raises(ValueError, match="a: 2 entries"):
        WeightMap("mine", entries).bind({"a": np.zeros(3)})


def test_a_shape_that_fits_no_pattern_is_refused() -> None:
    with pytest.raises(ValueError, match="a: Shape \\(3, 4\\) does not fit"):
        WeightMap("mine", (Entry("a", "x", "D -> D"),)).bind({"a": np.zeros((3, 4))})


def test_unknown_indices_and_families_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown index"):
        Entry("a", "x.{layer}", "D -> D")
    with pytest.raises(ValueError, match="there are llama, mixtral"):
        weight_map("gpt2")  # type: ignore[arg-type]
