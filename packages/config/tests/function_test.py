"""Functions and classes of others as nodes."""

import pytest

from tests.config_components import Schedule, adam, lion
from trellax.config import (
    REQUIRED,
    ConfigDefinitionError,
    FieldTypeError,
    MissingRequiredError,
    config_for_class,
    config_for_function,
)


def test_fields_are_the_parameters_with_their_defaults():
    cfg = config_for_function(adam)
    assert dict(cfg.items()) == {"learning_rate": REQUIRED, "betas": (0.9, 0.999)}


def test_instantiate_makes_the_call():
    cfg = config_for_function(adam).set(learning_rate=0.5)
    assert cfg.instantiate() == ("adam", 0.5, (0.9, 0.999), {})
    assert cfg.instantiate(mask="m")[3] == {"mask": "m"}


def test_arguments_that_are_configs_are_built_first():
    schedule = config_for_class(Schedule).set(peak=0.1)
    built = config_for_function(adam).set(learning_rate=schedule).instantiate()
    assert isinstance(built[1], Schedule)
    assert built[1].steps == 10


def test_arguments_are_checked_by_their_annotations():
    with pytest.raises(FieldTypeError, match=r"betas\[1\]: expected float, got 'x'"):
        config_for_function(adam).set(betas=(0.9, "x"))


def test_missing_arguments_are_reported():
    with pytest.raises(MissingRequiredError, match="learning_rate"):
        config_for_function(lion).instantiate()


def test_configs_of_one_function_are_of_one_class():
    assert config_for_function(adam) == config_for_function(adam)
    assert config_for_function(adam) != config_for_function(lion)


@pytest.mark.parametrize("fn", [lambda *args: 0, lambda x, /: 0, lambda _x: 0])
def test_parameters_that_cannot_be_named_are_refused(fn):
    with pytest.raises(ConfigDefinitionError):
        config_for_function(fn)
