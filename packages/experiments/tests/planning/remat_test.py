"""The sweep over remat policies: what is kept falls along the front as what is computed again rises."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.planning.tiny_plans import needs_libtpu, output_of, tiny_resolved
from trellax.experiments.planning import planned_program, remat_rows
from trellax.experiments.planning.remat import (
    POLICIES,
    current_policy,
    current_policy_name,
    policies_of,
    rematerialized_class,
    with_policy,
)
from trellax.parallel import offload_names, save_names

HARDWARE = "trn2-16"
"""Policies are compared before compiling, for any hardware."""


@pytest.fixture(scope="module")
def rows() -> list[Any]:
    resolved = tiny_resolved(HARDWARE)
    return remat_rows(planned_program(resolved.cfg, resolved.hardware))


def test_rows_are_ordered_by_what_devices_keep(rows: list[Any]) -> None:
    kept = [row.device_bytes for row in rows]
    assert kept == sorted(kept, reverse=True) and len({row.policy for row in rows}) == len(rows)


def test_the_extremes_keep_all_or_compute_all_again(rows: list[Any]) -> None:
    by_name = {row.policy: row for row in rows}
    assert by_name["keep all"].recomputed == 0 and rows[0].policy == "keep all"
    least = by_name["keep nothing"]
    assert least.recomputed == max(row.recomputed for row in rows) > 0.15
    assert by_name["offload inputs"].device_bytes < least.device_bytes
    assert by_name["offload inputs"].host_bytes > 0 == least.host_bytes


def test_along_the_front_bytes_fall_and_flops_rise(rows: list[Any]) -> None:
    front = [row for row in rows if row.is_on_front and not row.host_bytes]
    assert len(front) >= 4
    recomputed = [row.recomputed for row in front]
    assert recomputed == sorted(recomputed)


def test_what_is_on_the_front_is_undercut_by_none_and_the_rest_by_some(rows: list[Any]) -> None:
    def costs(row: Any) -> tuple[float, ...]:
        return (row.device_bytes, row.host_bytes, row.recomputed)

    for row in rows:
        better = [
            other
            for other in rows
            if costs(other) != costs(row)
            and all(a <= b for a, b in zip(costs(other), costs(row), strict=True))
        ]
        assert row.is_on_front == (not better), row.policy


def test_the_plans_own_policy_is_marked_and_added_where_it_is_none_of_the_named(
    rows: list[Any],
) -> None:
    (own,) = (row for row in rows if row.is_the_plans)
    assert own.policy == "keep q_proj, k_proj, v_proj" and own.policy not in POLICIES
    resolved = tiny_resolved(HARDWARE)
    named = with_policy(resolved.cfg, POLICIES["keep attention"])
    assert current_policy_name(named) == "keep attention" and policies_of(named) == dict(POLICIES)
    assert current_policy_name(with_policy(resolved.cfg, None)) == "keep all"


def test_a_policy_is_named_by_all_that_it_does() -> None:
    policy = offload_names("k_proj")
    policy.set(save=("q_proj",))
    cfg = with_policy(tiny_resolved(HARDWARE).cfg, policy)
    assert current_policy_name(cfg) == "keep q_proj; offload k_proj"


def test_policies_replace_those_of_the_layers_that_have_one() -> None:
    cfg = tiny_resolved(HARDWARE).cfg
    changed = with_policy(cfg, save_names("o_proj"))
    assert current_policy(changed) == save_names("o_proj") != current_policy(cfg)
    assert changed.model.decoder.stack.layer.remat == save_names("o_proj")
    assert rematerialized_class(changed) == "TransformerLayer"


def test_the_table_names_the_hardware_and_every_policy() -> None:
    code, text = output_of("plan", "--remat", f"--hardware={HARDWARE}")
    assert code == 0 and text.startswith(f"llama3_8b on {HARDWARE}: remat policies")
    assert all(f"\n  {policy}  " in text for policy in POLICIES)
    assert text.count("* this plan\n") + text.count("  this plan\n") == 1


@needs_libtpu
def test_as_json_it_is_one_document_for_all_hardware() -> None:
    code, text = output_of(
        "plan", "--remat", "--json", f"--hardware={HARDWARE}", "--hardware=tpu-v5e-4"
    )
    sweeps = json.loads(text)
    assert code == 0 and [sweep["hardware"] for sweep in sweeps] == [HARDWARE, "tpu-v5e-4"]
    assert {row["policy"] for row in sweeps[0]["policies"]} >= set(POLICIES)
