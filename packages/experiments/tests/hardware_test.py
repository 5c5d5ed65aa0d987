"""Mesh rules: each names hardware that exists, applies there, and leaves a config that is whole."""

from __future__ import annotations

from typing import Any

import pytest

from trellax.config import apply_overrides, diff, finalize, select
from trellax.experiments import experiment_names, get_experiment
from trellax.experiments.resolve import resolve
from trellax.layers import TransformerLayer
from trellax.parallel import Hardware, hardware_named, select_mesh_rule

HARDWARE = (
    "tpu-v4-1024",
    "tpu-v5p-512",
    "tpu-v5p-1024-2",
    "tpu-v5e-256",
    "tpu-v5e-256-4",
    "tpu-v6e-256",
    "tpu-v6e-256-2",
    "gpu-a100-64",
    "gpu-h100-256",
    "gpu-h200-8",
    "gpu-b200-512",
    "cpu",
)
FULL_SIZE = {
    "llama2_7b_tpu": {"tpu-v4", "tpu-v5p", "tpu-v5e", "tpu-v6e"},
    "llama2_70b_tpu": {"tpu-v5p", "tpu-v5e", "tpu-v6e"},
    "llama3_8b": {"tpu-v5p", "tpu-v5e", "tpu-v6e", "gpu-a100", "gpu-h100", "gpu-h200", "gpu-b200"},
}
DATA = [
    "input.dataset.documents.paths=/data/*.parquet",
    "input.tokenizer.file=/data/tokenizer.json",
    "input.tokenizer.eos_token=</s>",
]


def rule_for(name: str, hardware: str) -> Any:
    try:
        return select_mesh_rule(get_experiment(name).mesh_rules, hardware)
    except LookupError:
        return None


CASES = [(n, h) for n in experiment_names() for h in HARDWARE if rule_for(n, h) is not None]
FITTING = [(n, h) for n, h in CASES if n in FULL_SIZE or h in ("gpu-h200-8", "cpu")]


def final_for(name: str, hardware: Hardware) -> Any:
    cfg = resolve(name, hardware=hardware).cfg
    if hardware.platform != "cpu" and name in FULL_SIZE:
        apply_overrides(cfg, DATA)  # What every full-size run asks of its user.
    return finalize(cfg)


@pytest.mark.parametrize("name", experiment_names())
def test_every_rule_is_the_first_to_match_some_hardware(name: str) -> None:
    matched = [rule_for(name, hardware) for hardware in HARDWARE]
    for rule in get_experiment(name).mesh_rules:
        assert rule in matched, f"{rule.pattern!r} matches none of {HARDWARE}, or never comes first"


@pytest.mark.parametrize("name", FULL_SIZE)
def test_an_experiment_is_for_the_hardware_that_it_says(name: str) -> None:
    matched = {hardware_named(h).chip.name for n, h in CASES if n == name}
    assert matched - {"cpu"} == FULL_SIZE[name]


@pytest.mark.parametrize(("name", "hardware_name"), FITTING)
def test_a_rule_applies_and_its_mesh_fits_the_hardware(name: str, hardware_name: str) -> None:
    hardware = hardware_named(hardware_name)
    final = final_for(name, hardware)
    sizes = final.mesh_shape.resolved(hardware.num_devices).total_sizes()
    rows = final.input.global_batch_size
    split = sizes["data"] * sizes["fsdp"] * sizes["expert"]
    assert rows % (split * final.accumulation_steps) == 0, f"{rows} rows over {split} devices"


@pytest.mark.parametrize(("name", "hardware_name"), [c for c in CASES if c[0] in FULL_SIZE])
def test_on_its_hardware_the_real_thing_trains(name: str, hardware_name: str) -> None:
    """A rule changes how it is computed (mesh, remat), not what: rehearsal alone does that."""
    resolved = resolve(name, hardware=hardware_named(hardware_name))
    recipe = get_experiment(name)
    if hardware_name == "cpu":
        assert resolved.is_rehearsal and resolved.cfg.model.decoder.dim == 128
        return
    fields = {change.path.rsplit(".")[-1] for change in diff(recipe.model, resolved.cfg.model)}
    assert fields <= {"remat", "names", "offloaded"}
    ((_, layer),) = select(resolved.cfg, TransformerLayer)
    assert layer.remat is not None
    assert resolved.cfg.learner == recipe.learner and resolved.cfg.input == recipe.input


def test_without_a_rule_for_the_hardware_the_patterns_are_listed() -> None:
    with pytest.raises(
        LookupError, match=r"(?s)No mesh rule matches hardware 'gpu-h100-8'.*tpu-v5p"
    ):
        select_mesh_rule(get_experiment("llama2_7b_tpu").mesh_rules, "gpu-h100-8")
