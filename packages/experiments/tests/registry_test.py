"""Names become recipes, one module at a time; a wrong name says what is near."""

from __future__ import annotations

import pytest

from tests import recipes_of_others
from tests.programs import modules_after
from trellax.experiments import UnknownExperimentError, experiment_names, get_experiment
from trellax.experiments.registry import recipe_summary
from trellax.runtime import Trainer

NAMES = [
    "llama2_13b",
    "llama2_70b_tpu",
    "llama2_7b_tpu",
    "llama3_1_405b",
    "llama3_1_70b",
    "llama3_1_8b",
    "llama3_2_1b",
    "llama3_2_3b",
    "llama3_8b",
    "llama_30m_local",
    "mixtral_8x7b",
    "qwen3_0_6b",
    "qwen3_14b",
    "qwen3_1_7b",
    "qwen3_30b_a3b",
    "qwen3_32b",
    "qwen3_4b",
    "qwen3_8b",
    "smollm2_135m",
]
OTHERS = recipes_of_others.__name__  # Imported, so that a build brings it along.
OWN = f"{OTHERS}:own_llama"


def test_the_names_are_sorted_and_each_gives_a_trainer_of_that_name() -> None:
    assert experiment_names() == NAMES
    for name in NAMES:
        cfg = get_experiment(name)
        assert isinstance(cfg, Trainer.Config) and cfg.name == name
        assert recipe_summary(name)


def test_naming_experiments_imports_none_and_neither_jax() -> None:
    loaded = modules_after("from trellax.experiments import experiment_names; experiment_names()")
    assert not {module for module in loaded if module.startswith("trellax.experiments.llama")}
    assert not {"jax", "trellax.layers", "trellax.runtime"} & loaded


def test_asking_for_one_experiment_imports_its_module_alone() -> None:
    code = (
        "from trellax.experiments import registry\n"
        f"registry._RECIPES['other'] = {OWN!r}\n"
        "registry.get_experiment('llama3_8b')"
    )
    loaded = modules_after(code)
    assert "trellax.experiments.llama3" in loaded
    assert not {OTHERS, "trellax.experiments.llama2", "trellax.experiments.qwen3"} & loaded


def test_a_config_is_had_without_starting_a_backend_or_reading_data() -> None:
    loaded = modules_after("import trellax.experiments as e; e.get_experiment('llama2_7b_tpu')")
    assert not {"grain", "tokenizers", "pyarrow", "orbax.checkpoint", "tensorboardX"} & loaded


def test_a_recipe_elsewhere_needs_no_registration() -> None:
    assert get_experiment(OWN).name == "own_llama"
    assert recipe_summary(OWN) == "A Llama of somebody else."


MISTAKES = [
    (
        "llama2_7b",
        "There is no experiment 'llama2_7b'. Did you mean 'llama2_13b' or 'llama2_7b_tpu' or "
        "'llama3_2_3b'? `trellax list` names them all.",
    ),
    ("gpt4", "There is no experiment 'gpt4'. `trellax list` names them all."),
    ("nowhere.recipes:mine", "nowhere.recipes:mine: there is no module 'nowhere.recipes'."),
    (
        "tests.recipes_of_others:mine",
        "tests.recipes_of_others:mine: tests.recipes_of_others has no recipe 'mine'.",
    ),
    (
        "tests.recipes_of_others:NOT_A_RECIPE",
        "tests.recipes_of_others:NOT_A_RECIPE: it is no function without arguments that returns a "
        "trainer config.",
    ),
    (
        "trellax.experiments.decoders:pretraining",
        "trellax.experiments.decoders:pretraining: it is no function without arguments that returns a "
        "trainer config.",
    ),
    (":mine", "':mine' is not of the form module:function."),
    ("a b:mine", "'a b:mine' is not of the form module:function."),
]


@pytest.mark.parametrize(("name", "message"), MISTAKES)
def test_a_wrong_name_gives_its_one_clear_error(name: str, message: str) -> None:
    with pytest.raises(UnknownExperimentError) as e:
        get_experiment(name)
    assert str(e.value) == message


def test_a_recipe_whose_own_import_fails_says_what_is_missing(tmp_path, monkeypatch) -> None:
    (tmp_path / "broken_recipes.py").write_text("import not_installed_anywhere\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="not_installed_anywhere"):
        get_experiment("broken_recipes:mine")
