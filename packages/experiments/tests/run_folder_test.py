"""A run's folder: written whole, resumed by the same run only, read back by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests import recipes_of_others
from trellax.config import SerializationError, replace_config
from trellax.experiments import get_experiment
from trellax.experiments.run_folder import RunFolder, RunFolderError
from trellax.layers import FeedForwardLayer, MoELayer
from trellax.parallel import MeshShape

NAME, OWN = "llama2_7b_tpu", f"{recipes_of_others.__name__}:own_llama"


def started(folder: Path, cfg: Any) -> RunFolder:
    run = RunFolder(folder)
    run.start(cfg, hardware="cpu", argv=["trellax", "train", NAME])
    return run


def test_what_was_started_is_read_back(tmp_path: Path) -> None:
    cfg = get_experiment(NAME)
    run = RunFolder(tmp_path / "a" / "run")
    assert not run.holds_run()
    run.check_resumable(cfg)
    assert not run.path.exists(), "looking writes nothing"
    started(run.path, cfg)
    assert run.holds_run() and run.config() == cfg


@pytest.mark.parametrize(
    "left",
    [
        ["config.py"],
        ["config.py", "environment.json"],
        [".config.py.k3j5h2"],
        ["config.py", "environment.json", ".config.json.abc"],
    ],
)
def test_a_start_that_was_killed_can_be_repeated(tmp_path: Path, left: list[str]) -> None:
    for name in left:
        (tmp_path / name).write_text("half")
    cfg = get_experiment(NAME)
    RunFolder(tmp_path).check_resumable(cfg)
    assert started(tmp_path, cfg).config() == cfg


def test_other_folders_are_refused(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text("")
    with pytest.raises(RunFolderError, match="is not empty and holds no run; use another --dir"):
        RunFolder(tmp_path).check_resumable(get_experiment(NAME))
    with pytest.raises(RunFolderError, match=r"metrics\.jsonl is a file; use another --dir"):
        RunFolder(tmp_path / "metrics.jsonl").check_resumable(get_experiment(NAME))
    with pytest.raises(RunFolderError, match=r"holds no run \(there is no config\.json in it\)"):
        RunFolder(tmp_path).config()


def test_what_does_not_change_the_computation_may_differ(tmp_path: Path) -> None:
    run = started(tmp_path, get_experiment(NAME))
    cfg = get_experiment(NAME).set(max_steps=7, log_every_steps=1, mesh_shape=MeshShape(data=-1))
    cfg.checkpointer.save_every_steps = 3
    cfg.writer.writers = {}
    cfg.input.prefetch_batches = 1
    run.check_resumable(cfg)


@pytest.mark.parametrize(
    "path", ["seed", "learner.schedule.peak", "input.global_batch_size", "accumulation_steps"]
)
def test_what_does_change_it_may_not(tmp_path: Path, path: str) -> None:
    run = started(tmp_path, get_experiment(NAME))
    with pytest.raises(RunFolderError, match=rf"(?s)holds a run with another config.*~ {path} "):
        run.check_resumable(get_experiment(NAME).set_at(path, 2))


def test_another_layer_in_the_same_place_is_another_run(tmp_path: Path) -> None:
    run = started(tmp_path, get_experiment(NAME))
    cfg = get_experiment(NAME)
    replace_config(cfg, FeedForwardLayer, MoELayer.default_config().set(num_experts=2))
    with pytest.raises(RunFolderError, match="feed_forward .* FeedForwardLayer -> MoELayer"):
        run.check_resumable(cfg)


def test_components_of_others_are_imported_for_whoever_has_them_in_hand(tmp_path: Path) -> None:
    run = started(tmp_path, get_experiment(OWN))
    run.check_resumable(get_experiment(OWN))
    assert run.config(trusted=["tests"]) == get_experiment(OWN)
    with pytest.raises(SerializationError, match="'tests' is not among the packages"):
        run.config()
