"""Groups of devices are read in each form that XLA writes them in, and named by the mesh axes that they run along."""

import pytest

from trellax.parallel.planning import collectives_in
from trellax.parallel.planning.hlo_text import parse_hlo
from trellax.parallel.planning.replica_groups import replica_groups

SIZES = {"data": 2, "fsdp": 3, "model": 2}


@pytest.mark.parametrize(
    ("text", "groups"),
    [
        ("replica_groups={{0,1},{2,3}}, x", ((0, 1), (2, 3))),
        ("replica_groups={}, x", ()),
        ("to_apply=%add", ()),
        ("replica_groups=[2,2]<=[4], x", ((0, 1), (2, 3))),
        ("replica_groups=[2,2]<=[2,2]T(1,0), x", ((0, 2), (1, 3))),
        ("replica_groups=mesh['a'=2,'b'=2] {'b'}, x", ((0, 1), (2, 3))),
        ("replica_groups=mesh['a'=2,'b'=2] {'a'}, x", ((0, 2), (1, 3))),
        ("replica_groups=mesh['a'=2,'b'=2] {'a','b'}, x", ((0, 1, 2, 3),)),
        ("replica_groups=mesh['a'=4] {'a':(1)2}, x", ((0, 2), (1, 3))),
        ("replica_groups=mesh['a'=4] {'a':(2)2}, x", ((0, 1), (2, 3))),
        ("replica_groups=mesh['a'=2,'b'=2], device_ids=([2,2]T(1,0)) {'b'}, x", ((0, 2), (1, 3))),
        ("replica_groups=mesh['a'=2,'b'=2], device_ids=(3,2,1,0) {'b'}, x", ((3, 2), (1, 0))),
    ],
)
def test_each_form_of_groups_is_read(text, groups):
    assert replica_groups(text) == groups


def test_an_unknown_form_is_an_error():
    with pytest.raises(ValueError, match="Unknown form of replica groups"):
        replica_groups("replica_groups=<something new>")


def module(body, times=None):
    """Returns a module whose entry has these lines, or calls them in a loop."""
    if times is None:
        return parse_hlo(
            f"ENTRY %main (p: f32[8]) -> f32[8] {{\n  %p = f32[8]{{0}} parameter(0)\n{body}\n}}\n"
        )
    return parse_hlo(
        f"%body (p: (s32[], f32[8])) -> (s32[], f32[8]) {{\n  %p = (s32[], f32[8]{{0}}) parameter(0)\n{body}\n}}\n\n"
        "%cond (p: (s32[], f32[8])) -> pred[] {\n  %p = (s32[], f32[8]{0}) parameter(0)\n"
        f"  %n = s32[] constant({times})\n  ROOT %lt = pred[] compare(%p#0, %n), direction=LT\n}}\n\n"
        "ENTRY %main (p: (s32[], f32[8])) -> (s32[], f32[8]) {\n  %p = (s32[], f32[8]{0}) parameter(0)\n"
        "  ROOT %w = (s32[], f32[8]{0}) while(%p), condition=%cond, body=%body\n}\n"
    )


@pytest.mark.parametrize(
    ("groups", "axes", "size"),
    [
        ("{{0,1},{2,3},{4,5},{6,7},{8,9},{10,11}}", ("model",), 2),
        ("{{0,2,4},{1,3,5},{6,8,10},{7,9,11}}", ("fsdp",), 3),
        ("{{0,6},{1,7},{2,8},{3,9},{4,10},{5,11}}", ("data",), 2),
        ("[2,6]<=[12]", ("fsdp", "model"), 6),
        ("{}", ("data", "fsdp", "model"), 12),
        ("{{0,1,2},{3,4,5},{6,7,8},{9,10,11}}", (), 3),
    ],
)
def test_groups_are_named_by_the_axes_that_they_run_along(groups, axes, size):
    line = f"  ROOT %g = f32[8]{{0}} all-reduce(%p), channel_id=1, replica_groups={groups}, to_apply=%add"
    (collective,) = collectives_in(module(line), SIZES)
    assert (collective.kind, collective.axes, collective.group_size) == ("all-reduce", axes, size)
    assert collective.total_bytes == 32


def test_a_loop_multiplies_what_is_in_it():
    line = "  %g = f32[4]{0} all-to-all(%p#1), replica_groups={{0,1}}"
    (collective,) = collectives_in(module(line, times=7), {"model": 2})
    assert (collective.kind, collective.times, collective.total_bytes) == ("all-to-all", 7, 7 * 16)


def test_permutes_run_along_the_axes_in_which_sender_and_receiver_differ():
    line = "  ROOT %g = f32[8]{0} collective-permute(%p), source_target_pairs={{0,2},{2,4},{4,0},{1,3}}"
    (collective,) = collectives_in(module(line), SIZES)
    assert (collective.kind, collective.axes) == ("permute", ("fsdp",))


def test_an_all_reduce_of_which_only_a_part_is_kept_is_a_reduce_scatter():
    kept = (
        "  %big = f32[128]{0} broadcast(%p), dimensions={}\n"
        "  %g = f32[128]{0} all-reduce(%big), replica_groups={{0,1}}, to_apply=%add\n"
        "  ROOT %part = f32[64]{0} dynamic-slice(%g, %i), dynamic_slice_sizes={64}"
    )
    (collective,) = collectives_in(module(kept), {"model": 2})
    assert (collective.kind, collective.bytes) == ("reduce-scatter", 512)
    used = kept.replace("ROOT %part", "%part") + "\n  ROOT %all = f32[128]{0} negate(%g)"
    (collective,) = collectives_in(module(used), {"model": 2})
    assert collective.kind == "all-reduce"


def test_groups_of_one_device_move_nothing():
    line = "  ROOT %g = f32[8]{0} all-reduce(%p), replica_groups={{0},{1}}, to_apply=%add"
    assert collectives_in(module(line), {"model": 2}) == ()


def test_text_that_is_no_module_is_refused():
    with pytest.raises(ValueError, match="no ENTRY"):
        parse_hlo("nothing")


def test_a_ragged_exchange_moves_what_is_sent_not_the_room_for_the_worst_case():
    out = (
        "  %room = f32[64]{0} broadcast(%p), dimensions={}\n"
        "  ROOT %g = f32[64]{0} ragged-all-to-all(%p, %room, %s, %s, %s, %s), replica_groups={{0,1}}"
    )
    back = out.replace(
        "f32[64]{0} ragged-all-to-all(%p, %room", "f32[8]{0} ragged-all-to-all(%room, %p"
    )
    for line in (out, back):
        (collective,) = collectives_in(module(line), {"model": 2})
        assert (collective.kind, collective.bytes) == ("all-to-all", 32)
