"""Mesh rules: each names hardware that exists, applies there, and leaves a config that is whole and fits the mesh."""

from __future__ import annotations

from typing import Any

import pytest

from trellax.config import apply_overrides, diff, finalize, select
from trellax.experiments import experiment_names, get_experiment
from trellax.experiments.goldens import GOLDEN_HARDWARE
from trellax.experiments.mesh_plans import FSDP_ALL, LARGE, Batch, Plan, Size, mesh_rules
from trellax.experiments.resolve import resolve
from trellax.layers import TransformerLayer
from trellax.parallel import hardware_named, known_chips, save_names, select_mesh_rule

LOCAL = "llama_30m_local"
FULL_SIZE = tuple(name for name in experiment_names() if name != LOCAL)
HARDWARE = (
    *GOLDEN_HARDWARE,
    "tpu-v4-32",
    "tpu-v4-256",
    "tpu-v4-2048",
    "tpu-v4-32-4",
    "tpu-v5e-64",
    "tpu-v5e-256",
    "tpu-v5e-256-2",
    "tpu-v5e-256-8",
    "tpu-v5e-16-4",
    "tpu-v5p-8",
    "tpu-v5p-1024",
    "tpu-v5p-1024-2",
    "tpu-v5p-2048",
    "tpu-v5p-8-4",
    "tpu-v6e-8",
    "tpu-v6e-256-2",
    "tpu-v6e-256-4",
    "tpu-v6e-256-8",
    "tpu-v6e-16-4",
    "tpu-7x-8",
    "tpu-7x-1024",
    "tpu-7x-2048",
    "tpu-7x-8-4",
    "gpu-a100-4",
    "gpu-h100-8",
    "gpu-h100-1024",
    "gpu-h100-2048",
    "gpu-b200-1",
    "gpu-b200-64",
    "gpu-b200-1024",
    "gpu-b200-2048",
    "trn2-16",
    "trn2-128",
    "trn2-1024",
)
COMPUTED_OTHERWISE = {"remat", "buffer_factor"}
DATA = [
    "input.dataset.documents.paths=/data/*.parquet",
    "input.tokenizer.file=/data/tokenizer.json",
    "input.tokenizer.eos_token=</s>",
]


def devices(hardware_name: str) -> int:
    return hardware_named(hardware_name).num_devices


def rule_for(name: str, hardware: str) -> Any:
    return select_mesh_rule(get_experiment(name).mesh_rules, hardware)


def final_for(name: str, hardware_name: str) -> Any:
    cfg = resolve(name, hardware=hardware_named(hardware_name)).cfg
    if hardware_name != "cpu" and name != LOCAL:
        apply_overrides(cfg, DATA)  # What every full-size run asks of its user.
    return finalize(cfg)


def rows_split(cfg: Any, num_devices: int) -> int:
    sizes = cfg.mesh_shape.resolved(num_devices).total_sizes()
    return sizes["data"] * sizes["expert"] * sizes["fsdp"]


def test_the_golden_hardware_is_one_of_each_chip() -> None:
    named = [hardware_named(name).chip.name for name in GOLDEN_HARDWARE]
    assert sorted(named) == sorted(known_chips())


@pytest.mark.parametrize("name", FULL_SIZE)
def test_every_rule_is_the_first_to_match_some_hardware(name: str) -> None:
    matched = {rule_for(name, hardware).pattern for hardware in HARDWARE}
    patterns = [rule.pattern for rule in get_experiment(name).mesh_rules]
    assert len(set(patterns)) == len(patterns)
    assert set(patterns) <= matched, f"never come first: {set(patterns) - matched}"


@pytest.mark.parametrize("name", experiment_names())
def test_every_rule_applies_and_its_mesh_fits_the_hardware_the_model_and_the_batch(
    name: str,
) -> None:
    checked = 0
    for hardware in HARDWARE:
        final, num_devices = final_for(name, hardware), devices(hardware)
        sizes = final.mesh_shape.resolved(num_devices).total_sizes()
        if rows_split(final, num_devices) > final.input.global_batch_size:
            continue  # More devices than rows, which the trainer refuses: see below.
        final.check_mesh(sizes)
        checked += 1
    assert checked >= (4 if name == LOCAL else len(HARDWARE) - 5)


@pytest.mark.parametrize("name", FULL_SIZE)
def test_on_one_of_each_chip_the_batch_divides_among_the_devices(name: str) -> None:
    for hardware in GOLDEN_HARDWARE:
        final, num_devices = final_for(name, hardware), devices(hardware)
        rows = final.input.global_batch_size
        assert rows % (rows_split(final, num_devices) * final.accumulation_steps) == 0


def test_more_devices_than_rows_are_refused() -> None:
    final = final_for("llama2_7b_tpu", "trn2-4096")
    sizes = final.mesh_shape.resolved(devices("trn2-4096")).total_sizes()
    with pytest.raises(ValueError, match="1024 rows a pass do not divide among fsdp=4096"):
        final.check_mesh(sizes)


@pytest.mark.parametrize("name", FULL_SIZE)
def test_on_its_hardware_the_real_thing_trains(name: str) -> None:
    """A rule changes how it is computed (mesh, remat, buffers), not what: rehearsal alone does that."""
    recipe = get_experiment(name)
    for hardware in HARDWARE:
        resolved = resolve(name, hardware=hardware_named(hardware))
        if hardware == "cpu":
            assert resolved.is_rehearsal and resolved.cfg.model.decoder.dim == 128
            continue
        fields = {change.path.rsplit(".")[-1] for change in diff(recipe.model, resolved.cfg.model)}
        assert "remat" in fields <= COMPUTED_OTHERWISE
        ((_, layer),) = select(resolved.cfg, TransformerLayer)
        assert layer.remat is not None
        assert resolved.cfg.learner == recipe.learner and resolved.cfg.input == recipe.input


def test_large_models_split_norms_and_heads_within_nodes_of_gpus() -> None:
    cfg = resolve("llama3_1_70b", hardware=hardware_named("gpu-h100-256")).cfg
    mesh = cfg.mesh_shape.resolved(256)
    assert (mesh.model, mesh.dcn.fsdp) == (8, 32)
    assert cfg.axis_rules.mesh_axes("residual_length") == ("seq", "model")


@pytest.mark.parametrize("name", ("mixtral_8x7b", "qwen3_30b_a3b"))
def test_experts_are_divided_within_a_node_or_slice(name: str) -> None:
    node = resolve(name, hardware=hardware_named("gpu-b200-256")).cfg.mesh_shape.resolved(256)
    assert (node.expert, node.dcn.expert, node.dcn.fsdp) == (8, 1, 32)
    slices = resolve(name, hardware=hardware_named("tpu-v5e-256-4")).cfg.mesh_shape
    assert slices.resolved(1024).total_sizes()["data"] == 4  # The outermost crosses slices.


def test_few_devices_accumulate_what_many_do_at_once() -> None:
    steps = [
        final_for("llama3_1_70b", name).accumulation_steps
        for name in ("tpu-v5e-256", "tpu-v5e-256-4", "tpu-v5e-256-8")
    ]
    assert steps == [8, 2, 1]


def test_ranges_of_sizes_that_would_say_the_same_share_a_rule() -> None:
    sizes = (
        Size("[0-9]", 4, 4, is_small=True),
        Size("[0-9]{2}", 8, 8),
        Size("[0-9]{3}", 8, 8),
        Size(".*", 1, None),
    )
    plan = Plan("gpu-b200", sizes, FSDP_ALL, save_names("q_proj"), tokens=64)
    patterns = [rule.pattern for rule in mesh_rules((plan,), Batch(rows=16, length=64))]
    assert patterns == ["gpu-b200-[0-9]", "gpu-b200-([0-9]{2}|[0-9]{3})", "gpu-b200-.*"]
    patterns = [rule.pattern for rule in mesh_rules((plan,), Batch(rows=4, length=64))]
    assert patterns == ["gpu-b200-.*"]


def test_without_a_rule_for_the_hardware_the_patterns_are_listed() -> None:
    rules = mesh_rules(LARGE[:3], Batch(rows=1024, length=4096))
    with pytest.raises(
        LookupError, match=r"(?s)No mesh rule matches hardware 'gpu-h100-8'.*tpu-v5p"
    ):
        select_mesh_rule(rules, "gpu-h100-8")
