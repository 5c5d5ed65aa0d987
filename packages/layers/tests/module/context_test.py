"""Contexts: what a call sees, what becomes of its outputs, and where its keys come from."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.calls import called
from trellax.config import REQUIRED, Required
from trellax.layers.module import (
    Module,
    OutputCollection,
    current_context,
    fold_in_name,
    functional,
    structural,
    total_loss,
)


class Noise(Module):
    """Returns its key's bits."""

    def forward(self) -> Any:
        return jax.random.key_data(self.prng_key)


class Scale(Module):
    """Multiplies with a parameter, and counts its calls in its state."""

    def forward(self, x: Any) -> Any:
        y = x * self.parameters["scale"]
        self.add_summary("mean", y.mean())
        self.add_loss("penalty", 0.5 * y.sum())
        self.add_module_output("y", y)
        if self.state is not None:
            self.add_state_update("count", self.state["count"] + 1)
        return y

    def negated(self, x: Any) -> Any:
        return -self.forward(x)


class Parent(Module):
    """Builds the children it is told and calls them as it is told."""

    class Config(Module.Config):
        children: Required[dict[str, Module.Config]] = REQUIRED

    def __init__(self, cfg: Any, *, name: str = "root", parent: Module | None = None):
        super().__init__(cfg, name=name, parent=parent)
        for child, child_cfg in cfg.children.items():
            self.add_child(child, child_cfg)

    def keys(self) -> Any:
        return {name: child() for name, child in self.children.items()}

    def twice(self, name: str, *args: Any) -> Any:
        return self.children[name](*args), self.children[name](*args)

    def call(self, name: str, method: str, *args: Any) -> Any:
        return getattr(self.children[name], method)(*args)


class Borrower(Module):
    """Calls what an ancestor shares."""

    def forward(self, *args: Any) -> Any:
        return self.shared("lent")(*args)


def parent_of(**children: Any) -> Any:
    cfgs = {name: cls.default_config() for name, cls in children.items()}
    return Parent.default_config().set(children=cfgs).instantiate()


# ---- randomness ---------------------------------------------------------------------------------


def test_a_new_child_changes_no_other_childs_key():
    two, _ = called(parent_of(a=Noise, b=Noise), {}, method="keys")
    three, _ = called(parent_of(new=Noise, b=Noise, a=Noise), {}, method="keys")
    np.testing.assert_array_equal(two["a"], three["a"])
    np.testing.assert_array_equal(two["b"], three["b"])
    assert len({tuple(np.asarray(k)) for k in three.values()}) == 3


def test_keys_are_those_of_the_names_on_the_path():
    keys, _ = called(parent_of(a=Noise), {}, seed=7, method="keys")
    expected = fold_in_name(jax.random.key(7), "a")
    np.testing.assert_array_equal(keys["a"], jax.random.key_data(expected))


def test_a_second_call_of_a_child_draws_anew():
    (first, second), _ = called(parent_of(a=Noise), {}, "a", method="twice")
    assert not np.array_equal(first, second)


def test_without_a_key_only_what_needs_one_complains():
    module = parent_of(a=Noise)
    with pytest.raises(ValueError, match="a needs randomness: give `functional` a prng_key"):
        called(module, {}, seed=None, method="keys")


def test_a_lazy_key_is_computed_only_when_it_is_needed():
    asked = []

    def key() -> jax.Array:
        asked.append(True)
        return jax.random.key(1)

    scale = Scale.default_config().instantiate(name="scale")
    functional(
        scale,
        params={"scale": jnp.ones(())},
        args=(jnp.ones(2),),
        prng_key=key,
        is_training=False,
    )
    assert not asked
    noise = Noise.default_config().instantiate(name="noise")
    eager, _ = functional(noise, params={}, prng_key=key, is_training=False)
    np.testing.assert_array_equal(eager, jax.random.key_data(jax.random.key(1)))


# ---- outputs ------------------------------------------------------------------------------------


def test_outputs_are_trees_keyed_by_names():
    params = {"a": {"scale": jnp.float32(2.0)}}
    state = {"a": {"count": jnp.int32(4)}}
    y, out = called(
        parent_of(a=Scale), params, "a", "forward", jnp.ones(3), method="call", state=state
    )
    np.testing.assert_array_equal(y, 2.0 * np.ones(3))
    assert out.summaries == {"a": {"mean": 2.0}}
    assert out.losses == {"a": {"penalty": 3.0}}
    assert out.state_updates == {"a": {"count": 5}}
    assert total_loss(out) == 3.0
    assert total_loss(OutputCollection()) == 0.0


def test_a_second_call_keeps_its_outputs_apart():
    params = {"a": {"scale": jnp.float32(2.0)}}
    _, out = called(parent_of(a=Scale), params, "a", jnp.ones(3), method="twice")
    assert set(out.summaries) == {"a", "a_1"}


def test_two_state_updates_in_one_call_are_refused():
    params = {"a": {"scale": jnp.float32(2.0)}}
    state = {"a": {"count": jnp.int32(4)}}
    with pytest.raises(ValueError, match="both give state_updates called 'a'"):
        called(parent_of(a=Scale), params, "a", jnp.ones(3), method="twice", state=state)


def test_the_same_name_twice_is_refused():
    class Repeats(Module):
        def forward(self) -> None:
            self.add_summary("x", jnp.ones(()))
            self.add_summary("x", jnp.ones(()))

    with pytest.raises(ValueError, match="'x' is already among the call's summaries"):
        called(Repeats.default_config().instantiate(), {})


def test_methods_of_a_child_other_than_forward_run_in_its_context():
    params = {"a": {"scale": jnp.float32(2.0)}}
    y, out = called(parent_of(a=Scale), params, "a", "negated", jnp.ones(3), method="call")
    np.testing.assert_array_equal(y, -2.0 * np.ones(3))
    assert set(out.summaries) == {"a"}  # One call, although it called another method of itself.


def test_a_call_can_be_jitted_and_leaves_no_context_behind():
    module, params = parent_of(a=Scale), {"a": {"scale": jnp.float32(2.0)}}
    fn = lambda p, x: called(module, p, "a", "forward", x, method="call")
    y, out = jax.jit(fn)(params, jnp.ones(3))
    assert y.sum() == 6.0 and out.losses["a"]["penalty"] == 3.0
    assert current_context() is None


def test_an_exception_leaves_no_context_behind():
    with pytest.raises(KeyError):
        called(parent_of(a=Scale), {}, "a", "forward", jnp.ones(3), method="call")
    assert current_context() is None


# ---- shared modules -----------------------------------------------------------------------------


def sharing(**children: Any) -> Any:
    module = parent_of(**children)
    module.share("lent", module.children["lender"])
    return module


def test_a_shared_module_uses_its_own_parameters():
    module = sharing(lender=Scale, borrower=Borrower)
    params = {"lender": {"scale": jnp.float32(3.0)}}
    y, out = called(module, params, "borrower", "forward", jnp.ones(2), method="call")
    np.testing.assert_array_equal(y, 3.0 * np.ones(2))
    assert set(out.summaries["borrower"]) == {"lender"}


def test_two_borrowers_draw_differently():
    module = sharing(lender=Noise, one=Borrower, two=Borrower)
    keys, _ = called(module, {}, method="keys")
    assert len({tuple(np.asarray(k)) for k in keys.values()}) == 3


def test_a_borrower_cannot_update_state():
    module = sharing(lender=Scale, borrower=Borrower)
    params = {"lender": {"scale": jnp.float32(3.0)}}
    state = {"lender": {"count": jnp.int32(0)}}
    with pytest.raises(ValueError, match="lender is shared and cannot update state"):
        called(module, params, "borrower", "forward", jnp.ones(2), method="call", state=state)


def test_an_unknown_shared_name_is_an_error():
    with pytest.raises(LookupError, match="no ancestor shares a module called 'lent'"):
        called(parent_of(borrower=Borrower), {}, "borrower", "forward", method="call")


# ---- structure and misuse -----------------------------------------------------------------------


def test_a_call_outside_of_functional_says_so():
    with pytest.raises(RuntimeError, match="runs only inside `functional"):
        parent_of(a=Noise).keys()
    with pytest.raises(RuntimeError, match="a is not being called"):
        _ = parent_of(a=Noise).a.prng_key


def test_a_stranger_cannot_be_called():
    stranger = Noise.default_config().instantiate(name="stranger")

    class Calls(Module):
        def forward(self) -> Any:
            return stranger()

    with pytest.raises(RuntimeError, match="neither its child nor shared by an ancestor"):
        called(Calls.default_config().instantiate(), {})


@pytest.mark.parametrize("name", ["forward", "state", "name", "Upper", "with-dash", "_private"])
def test_bad_child_names_are_refused(name: str):
    with pytest.raises(ValueError, match="a child cannot be called"):
        parent_of(**{name: Noise})


def test_a_name_cannot_be_given_twice():
    module = parent_of(a=Noise)
    with pytest.raises(ValueError, match="cannot be called 'a'"):
        module.add_child("a", Noise.default_config())


def test_an_optional_child_that_is_none_leaves_none():
    module = parent_of(a=Noise)
    assert module.add_child("b", None) is None
    assert module.b is None and set(module.children) == {"a"}


def test_overrides_of_structural_methods_need_no_context():
    class Structured(Noise):
        @structural
        def describe(self) -> str:
            return "first"

    class Derived(Structured):
        def describe(self) -> str:
            return "second"

    assert Derived.default_config().instantiate().describe() == "second"


def test_paths_leave_the_root_out():
    module = parent_of()
    module.add_child("a", Parent.default_config().set(children={}))
    child = module.a.add_child("b", Noise.default_config())
    assert (module.path(), module.a.path(), child.path()) == ("root", "a", "a.b")
