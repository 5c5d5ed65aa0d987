"""Room is granted in the order of asking, never twice, and comes back whole."""

import functools

from hypothesis import given
from hypothesis import strategies as st

from trellax.inference.disaggregation.delivery import Claim, Room

CAPACITY = 10


@given(st.lists(st.integers(0, CAPACITY) | st.tuples(st.integers(0, 30)), max_size=60))
def test_room_is_granted_in_order_and_never_twice(history):
    """A number asks for so many bytes; a tuple gives up the claim of that index, perhaps again."""
    room, claims, granted = Room(CAPACITY), [], []
    for event in history:
        if isinstance(event, int):
            claim = Claim(event, functools.partial(granted.append, len(claims)))
            claims.append(claim)
            room.ask(claim)
        elif event[0] < len(claims):
            room.give_up(claims[event[0]])
        held = [claim for claim in claims if claim.state == "granted"]
        waiting = [claim for claim in claims if claim.state == "waiting"]
        assert room.used_bytes == sum(claim.num_bytes for claim in held) <= CAPACITY
        # Nobody waits who could have room, and nobody is passed over.
        assert not waiting or waiting[0].num_bytes > CAPACITY - room.used_bytes
        assert granted == sorted(set(granted))
    for claim in claims:
        room.give_up(claim)
    assert room.used_bytes == 0
