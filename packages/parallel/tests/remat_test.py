"""A policy keeps exactly what it names, and gradients do not depend on it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.ad_checkpoint import print_saved_residuals

from trellax.config import finalize
from trellax.parallel import (
    RematPolicy,
    dots_saveable,
    nothing_saveable,
    offload_names,
    save_names,
    tag,
    tagged_names,
)

ARGUMENTS = 2
X = np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4)
W = np.linspace(-1, 1, 16, dtype=np.float32).reshape(4, 4)


def block(w, x):
    hidden = tag(x @ w, "hidden")
    scores = tag(jnp.einsum("bd,be->bde", hidden, jnp.sin(hidden)), "scores")
    return jnp.sum(tag(jnp.tanh(jnp.sum(scores, -1)), "gate") ** 2)


def saved(policy_cfg, capsys):
    """Returns what is kept for the backward pass apart from the arguments, one line each."""
    policy = policy_cfg.instantiate().policy()
    print_saved_residuals(jax.checkpoint(block, policy=policy), W, X)
    lines = capsys.readouterr().out.splitlines()
    return [line for line in lines if "from the argument" not in line]


def test_nothing_saveable_keeps_only_the_arguments(capsys):
    assert saved(nothing_saveable(), capsys) == []


@pytest.mark.parametrize("name", ["hidden", "scores", "gate"])
def test_a_named_activation_is_kept_and_no_other(name, capsys):
    (line,) = saved(save_names(name), capsys)
    assert f"named '{name}'" in line


def test_an_offloaded_activation_is_kept_in_host_memory(capsys):
    (line,) = saved(offload_names("hidden"), capsys)
    assert line.startswith("f32<host>[3,4]")


def test_dots_saveable_keeps_results_of_matrix_multiplications(capsys):
    lines = saved(dots_saveable(), capsys)
    assert lines and all("dot_general" in line for line in lines)


def test_batchless_dots_leave_out_products_of_activations(capsys):
    (line,) = saved(RematPolicy.Config(others="save_batchless_dots"), capsys)
    assert line.startswith("f32[3,4] output of dot_general")


def test_save_tagged_keeps_every_tag_but_those_to_recompute(capsys):
    lines = saved(RematPolicy.Config(others="save_tagged", recompute=("scores",)), capsys)
    assert "".join(lines).count("named") == len(lines) == 2
    assert not any("'scores'" in line for line in lines)


def test_offloading_names_combines_with_saving_dots(capsys):
    lines = saved(RematPolicy.Config(offload=("gate",), others="save_dots"), capsys)
    assert sum("<host>" in line for line in lines) == 1
    assert sum("dot_general" in line for line in lines) == len(lines) - 1 > 0


@pytest.mark.parametrize(
    "cfg",
    [
        nothing_saveable(),
        dots_saveable(),
        save_names("hidden", "scores"),
        offload_names("hidden"),
        RematPolicy.Config(save=("gate",), offload=("hidden",), others="save_batchless_dots"),
        RematPolicy.Config(others="save_tagged", recompute=("scores",)),
        RematPolicy.Config(others="save"),
    ],
)
def test_gradients_do_not_depend_on_the_policy(cfg):
    rematted = jax.checkpoint(block, policy=cfg.instantiate().policy())
    actual = jax.jit(jax.grad(rematted, argnums=(0, 1)))(W, X)
    for a, e in zip(actual, jax.grad(block, argnums=(0, 1))(W, X), strict=True):
        np.testing.assert_allclose(a, e, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "cfg", [save_names("a"), RematPolicy.Config(save=("a",), others="save_dots")]
)
def test_equal_policies_compare_equal_so_that_nothing_is_traced_again(cfg):
    first, second = (cfg.clone().instantiate().policy() for _ in range(2))
    assert first == second and hash(first) == hash(second)


def test_tagged_names_are_found_in_inner_functions_and_loops():
    def scanned(w, x):
        return jax.lax.scan(lambda c, _: (jax.jit(block)(w, x) + c, None), 0.0, None, length=2)[0]

    assert tagged_names(jax.grad(scanned), W, X) == {"hidden", "scores", "gate"}


def test_tag_returns_the_same_values_and_tree():
    tree = {"a": jnp.ones(3), "b": [jnp.zeros(2)]}
    tagged = tag(tree, "both")
    assert jax.tree.structure(tagged) == jax.tree.structure(tree)
    assert tagged_names(lambda t: tag(t, "both"), tree) == {"both"}


def test_one_name_in_two_roles_is_refused():
    with pytest.raises(ValueError, match="hidden: save, offload or recompute it, not several"):
        finalize(RematPolicy.Config(save=("hidden",), offload=("hidden",)))


def test_recompute_that_would_have_no_effect_is_refused():
    with pytest.raises(ValueError, match='recompute has no effect with others="save_dots"'):
        finalize(RematPolicy.Config(recompute=("scores",), others="save_dots"))
