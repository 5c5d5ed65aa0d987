"""Hand-overs arrive whole over sockets and within a process, wait where there is no room, and fail alone and clearly."""

import contextlib
import threading
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tests.disaggregation.handovers import FINGERPRINT, assert_same, make_handover
from trellax.inference.disaggregation import (
    ConnectionLostError,
    HandOver,
    PageChannel,
    PageReceiver,
    PageSender,
    RefusedError,
    flat_arrays,
    nested_arrays,
)
from trellax.inference.disaggregation.handover import _DTYPES
from trellax.inference.requests import Request

MIB = 1 << 20


@contextlib.contextmanager
def over_sockets(**options):
    receiver = PageReceiver(fingerprint=FINGERPRINT, **options)
    sender = PageSender(receiver.address, fingerprint=FINGERPRINT, max_waiting=2)
    yield sender, receiver
    sender.close(timeout=0)
    receiver.close()


@contextlib.contextmanager
def in_process(**options):
    channel = PageChannel(max_waiting=2, **options)
    yield channel, channel
    channel.close()


both = pytest.mark.parametrize("transport", [over_sockets, in_process])


@both
def test_a_handover_arrives_whole_and_is_done_once_accepted(transport):
    sent = make_handover(num_bytes=3 * MIB)
    with transport(capacity_bytes=4 * MIB) as (sender, receiver):
        future = sender.send(sent)
        delivery = receiver.receive(timeout=10)
        assert_same(delivery.handover, sent)
        assert not future.done()
        delivery.accept()
        assert future.result(10) is None


@st.composite
def arrays(draw):
    dtype = draw(st.sampled_from(list(_DTYPES.values())))
    shape = draw(hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5))
    num_bytes = int(np.prod(shape)) * dtype.itemsize
    bits = draw(st.binary(min_size=num_bytes, max_size=num_bytes))
    array = np.frombuffer(bits, np.uint8).copy().view(dtype) if bits else np.empty(0, dtype)
    array = array.reshape(shape)
    return array.T if draw(st.booleans()) else array


@pytest.fixture(scope="module")
def lasting():
    with over_sockets(capacity_bytes=MIB) as ends:
        yield ends


@settings(max_examples=200, deadline=None)
@given(data=st.dictionaries(st.text(), arrays(), max_size=4), token_ids=st.lists(st.integers()))
def test_arrays_of_every_dtype_and_shape_arrive_bit_by_bit(lasting, data, token_ids):
    sender, receiver = lasting
    sent = HandOver(Request(id="a", prompt_ids=(1,)), tuple(token_ids), data)
    future = sender.send(sent)
    delivery = receiver.receive(timeout=10)
    assert_same(delivery.handover, sent)
    delivery.accept()
    future.result(10)


def test_a_tree_of_arrays_has_paths_as_names_and_comes_back():
    tree = {
        "decoder": {"stack": {"keys": np.arange(3), "values": np.arange(2)}},
        "step": np.ones(1),
    }
    flat = flat_arrays(tree)
    assert list(flat) == ["decoder/stack/keys", "decoder/stack/values", "step"]
    assert nested_arrays(flat) == tree


@both
def test_a_receiver_without_room_holds_up_its_senders(transport):
    with transport(capacity_bytes=3 * MIB) as (sender, receiver):
        futures = [sender.send(make_handover(f"{i}", num_bytes=MIB)) for i in range(4)]
        first = receiver.receive(timeout=10)
        receiver.receive(timeout=10)
        # Two have taken the room, two wait: the next call blocks, and nothing more arrives.
        with pytest.raises(TimeoutError, match="2 hand-overs have waited for 0.2 s"):
            sender.send(make_handover("4", num_bytes=MIB), timeout=0.2)
        with pytest.raises(TimeoutError, match=r"No hand-over has come in 0\.1 s"):
            receiver.receive(timeout=0.1)
        assert not any(future.done() for future in futures)

        first.accept()
        futures[0].result(10)
        assert receiver.receive(timeout=10).handover.request.id == "2"
        assert not futures[3].running()


@both
def test_a_handover_that_can_never_fit_is_refused_at_once(transport):
    with (
        transport(capacity_bytes=MIB) as (sender, _),
        pytest.raises(
            ValueError, match=r"'cmpl-1' has \d+ bytes and the receiver has room for 1048576"
        ),
    ):
        sender.send(make_handover(num_bytes=MIB))


@both
def test_a_refusal_fails_its_own_handover_alone(transport):
    with transport(capacity_bytes=MIB) as (sender, receiver):
        refused, accepted = (sender.send(make_handover(name)) for name in "ab")
        receiver.receive(timeout=10).refuse("No request of this id is known.")
        receiver.receive(timeout=10).accept()
        with pytest.raises(RefusedError, match="No request of this id is known"):
            refused.result(10)
        accepted.result(10)


@both
def test_what_is_cancelled_while_it_waits_never_arrives_and_frees_its_place(transport):
    with transport(capacity_bytes=2 * MIB) as (sender, receiver):
        sender.send(make_handover("a", num_bytes=MIB))
        occupant = receiver.receive(timeout=10)
        cancelled, kept = (sender.send(make_handover(name, num_bytes=MIB)) for name in "bc")
        time.sleep(0.05)  # So that, over a socket, the first has been offered.
        assert cancelled.cancel()
        occupant.accept()
        delivery = receiver.receive(timeout=10)
        assert delivery.handover.request.id == "c"
        delivery.accept()
        kept.result(10)


@both
def test_closing_the_receiver_fails_what_is_not_accepted(transport):
    with transport(capacity_bytes=2 * MIB) as (sender, receiver):
        futures = [sender.send(make_handover(name, num_bytes=MIB)) for name in "abc"]
        receiver.receive(timeout=10)
        receiver.close()
        for future in futures:
            assert isinstance(future.exception(10), ConnectionLostError | RefusedError)
        with pytest.raises(ConnectionLostError, match="The receiver is closed"):
            receiver.receive()
        assert sender.is_closed
        with pytest.raises(ConnectionLostError):
            sender.send(make_handover())


def test_closing_the_sender_waits_for_what_is_under_way():
    with over_sockets(capacity_bytes=MIB) as (sender, receiver):
        futures = [sender.send(make_handover(name)) for name in "ab"]
        closing = threading.Thread(target=sender.close)
        closing.start()
        for _ in futures:
            receiver.receive(timeout=10).accept()
        closing.join(10)
        assert [future.result(0) for future in futures] == [None, None]


def test_senders_share_one_room_and_each_gets_its_turn():
    num_senders, num_each = 6, 10
    receiver = PageReceiver(fingerprint=FINGERPRINT, capacity_bytes=3 * 66_000)
    sent = {
        f"{i}-{j}": make_handover(f"{i}-{j}", num_bytes=65_536 - 2048 * j, seed=100 * i + j)
        for i in range(num_senders)
        for j in range(num_each)
    }

    def send_all(i):
        sender = PageSender(receiver.address, fingerprint=FINGERPRINT)
        for future in [sender.send(sent[f"{i}-{j}"]) for j in range(num_each)]:
            future.result(30)
        sender.close()

    threads = [threading.Thread(target=send_all, args=(i,)) for i in range(num_senders)]
    for thread in threads:
        thread.start()
    received = set()
    for _ in sent:
        delivery = receiver.receive(timeout=30)
        assert receiver.used_bytes <= 3 * 66_000
        assert_same(delivery.handover, sent[delivery.handover.request.id])
        received.add(delivery.handover.request.id)
        delivery.accept()
    for thread in threads:
        thread.join(30)
    assert received == sent.keys()
    assert receiver.used_bytes == 0
    receiver.close()


def test_arrays_of_a_dtype_that_does_not_travel_are_refused():
    sent = HandOver(Request("a", (1,)), (), {"keys": np.zeros(2, ">f4")})
    with (
        over_sockets(capacity_bytes=MIB) as (sender, _),
        pytest.raises(ValueError, match="Array 'keys' is dtype"),
    ):
        sender.send(sent)


def test_a_request_that_is_too_long_to_be_read_fails_alone():
    long = HandOver(Request("long", tuple(range(1000))), (), {})
    with over_sockets(capacity_bytes=MIB, max_header_bytes=2000) as (sender, receiver):
        with pytest.raises(
            ValueError, match="'long' has .* bytes as JSON and the receiver reads 2000"
        ):
            sender.send(long)
        future = sender.send(make_handover())
        receiver.receive(timeout=10).accept()
        future.result(10)
