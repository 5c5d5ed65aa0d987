"""Every experiment survives being written down: as JSON, as Python, as a clone."""

from __future__ import annotations

from typing import Any

import pytest

from trellax.config import diff, finalize, from_json, nodes, to_json, to_python, to_text
from trellax.experiments import experiment_names, get_experiment
from trellax.experiments.resolve import resolve
from trellax.parallel import hardware_named


def rehearsed(name: str) -> Any:
    return resolve(name, hardware=hardware_named("cpu"), overrides=["seed=3"]).cfg


TREES = [(name, made) for name in experiment_names() for made in (get_experiment, rehearsed)]


def executed(source: str) -> Any:
    namespace: dict[str, Any] = {}
    exec(compile(source, "config.py", "exec"), namespace)
    return namespace["config"]()


@pytest.mark.parametrize(("name", "made"), TREES)
def test_json_is_lossless(name: str, made: Any) -> None:
    cfg = made(name)
    again = from_json(to_json(cfg))
    assert again == cfg and to_json(again) == to_json(cfg)
    assert [sorted(n._origins) for _, n in nodes(again)] == [
        sorted(n._origins) for _, n in nodes(cfg)
    ]


@pytest.mark.parametrize(("name", "made"), TREES)
def test_python_makes_the_tree_anew(name: str, made: Any) -> None:
    cfg = made(name)
    source = to_python(cfg)
    assert executed(source) == cfg
    # Mesh rules, whose fields all say something, are most of a recipe's lines.
    bare = cfg.clone(mesh_rules=())
    assert to_python(bare).count("\n") < 0.6 * to_text(bare).count("\n"), "defaults are left out"


def test_a_final_tree_survives_too() -> None:
    final = finalize(rehearsed("llama2_7b_tpu"))
    assert from_json(to_json(final)) == final and executed(to_python(final)) == final


@pytest.mark.parametrize("name", experiment_names())
def test_a_recipe_gives_a_new_and_equal_tree_each_time(name: str) -> None:
    first, second = get_experiment(name), get_experiment(name)
    second.model.decoder.dim = 8
    assert get_experiment(name) == first
    assert [change.path for change in diff(first, second)] == ["model.decoder.dim"]


@pytest.mark.parametrize("name", experiment_names())
def test_finalizing_leaves_the_recipe_as_it_is_and_ends_once(name: str) -> None:
    cfg = rehearsed(name)
    before = to_text(cfg)
    final = finalize(cfg)
    assert to_text(cfg) == before
    assert finalize(final) is final and finalize(from_json(to_json(final))) == final
