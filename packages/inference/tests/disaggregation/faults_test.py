"""Connections that break, damage what they carry, or lead to the wrong peer: the right hand-overs fail, with the reason."""

import threading
import time
import tracemalloc

import pytest

from tests.disaggregation.handovers import FINGERPRINT, assert_same, make_handover
from tests.disaggregation.proxy import Proxy, cut, flip
from trellax.inference.disaggregation import (
    ConnectionLostError,
    HandshakeError,
    PageReceiver,
    PageSender,
    RefusedError,
    handshake,
)

MIB = 1 << 20


@pytest.fixture
def receiver():
    receiver = PageReceiver(fingerprint=FINGERPRINT, capacity_bytes=32 * MIB)
    yield receiver
    receiver.close()


def wait_until(condition):
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass in 10 s"
        time.sleep(0.01)


def test_damaged_arrays_are_refused_and_the_connection_goes_on(receiver):
    sender = PageSender(
        Proxy(receiver.address, change_fn=flip(MIB)).address, fingerprint=FINGERPRINT
    )
    damaged, whole = (sender.send(make_handover(name, num_bytes=2 * MIB)) for name in "ab")
    with pytest.raises(RefusedError, match="arrays came damaged: their checksums differ"):
        damaged.result(10)
    delivery = receiver.receive(timeout=10)
    assert_same(delivery.handover, make_handover("b", num_bytes=2 * MIB))
    delivery.accept()
    whole.result(10)
    assert receiver.used_bytes == 0
    sender.close()


def test_a_damaged_header_ends_the_connection(receiver):
    sender = PageSender(
        Proxy(receiver.address, change_fn=flip(600)).address, fingerprint=FINGERPRINT
    )
    future = sender.send(make_handover())
    with pytest.raises(ConnectionLostError):
        future.result(10)
    assert sender.is_closed
    wait_until(lambda: receiver.used_bytes == 0)


def test_a_connection_that_breaks_fails_what_is_on_it_and_nothing_else(receiver):
    breaking = PageSender(
        Proxy(receiver.address, change_fn=cut(MIB)).address, fingerprint=FINGERPRINT
    )
    steady = PageSender(receiver.address, fingerprint=FINGERPRINT)
    arrived = breaking.send(make_handover("arrived"))
    receiver.receive(timeout=10).accept()
    arrived.result(10)
    steady.send(make_handover("occupant", num_bytes=30 * MIB))
    occupant = receiver.receive(timeout=10)  # So that all is under way before the break.
    lost = [breaking.send(make_handover(f"lost-{i}", num_bytes=4 * MIB)) for i in range(2)]
    occupant.accept()
    for future in lost:
        with pytest.raises(ConnectionLostError, match=r"127\.0\.0\.1:\d+: "):
            future.result(10)
    with pytest.raises(ConnectionLostError):
        breaking.send(make_handover())

    kept = steady.send(make_handover("kept", num_bytes=4 * MIB))
    delivery = receiver.receive(timeout=10)
    assert delivery.handover.request.id == "kept"
    delivery.accept()
    kept.result(10)
    wait_until(lambda: receiver.used_bytes == 0)
    steady.close()


def test_what_a_lost_sender_left_unreceived_is_dropped(receiver):
    sender = PageSender(receiver.address, fingerprint=FINGERPRINT)
    sender.send(make_handover(num_bytes=MIB))
    wait_until(lambda: receiver.used_bytes > MIB)
    sender.close(timeout=0)
    wait_until(lambda: receiver.used_bytes == 0)
    with pytest.raises(TimeoutError):
        receiver.receive(timeout=0)


def test_a_peer_that_stops_reading_is_given_up_after_the_timeout():
    receiver = PageReceiver(fingerprint=FINGERPRINT, capacity_bytes=64 * MIB)
    stuck = threading.Event()

    def stop(data, offset):
        if offset > MIB:
            stuck.wait(20)
        return data

    sender = PageSender(
        Proxy(receiver.address, change_fn=stop).address, fingerprint=FINGERPRINT, io_timeout=0.3
    )
    future = sender.send(make_handover(num_bytes=60 * MIB))
    with pytest.raises(ConnectionLostError, match="lost while sending: timed out"):
        future.result(10)
    stuck.set()
    receiver.close()


def test_memory_of_a_sender_stays_flat_while_the_receiver_grants_nothing(receiver):
    sender = PageSender(receiver.address, fingerprint=FINGERPRINT, max_waiting=2)
    handover = make_handover(num_bytes=20 * MIB)
    tracemalloc.start()
    sender.send(handover)
    receiver.receive(timeout=10)  # And not accepted: its bytes stay taken.
    before, _ = tracemalloc.get_traced_memory()
    for _ in range(2):
        sender.send(handover)
    for _ in range(20):
        with pytest.raises(TimeoutError):
            sender.send(handover, timeout=0.01)
    after, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert max(after, peak) - before < MIB
    sender.close(timeout=0)


@pytest.mark.parametrize(
    ("field", "options", "values"),
    [
        ("fingerprint", {"fingerprint": "model-b"}, f"'model-b'.*'{FINGERPRINT}'"),
        ("has_secret", {"fingerprint": FINGERPRINT, "secret": b"x"}, "True.*False"),
    ],
)
def test_a_peer_that_does_not_match_is_refused_with_both_values(receiver, field, options, values):
    with pytest.raises(HandshakeError, match=f"The {field} of one end is .*") as refused:
        PageSender(receiver.address, **options)
    a, b = values.split(".*")
    assert a in str(refused.value) and b in str(refused.value)


def test_another_version_is_refused_with_both_values(receiver, monkeypatch):
    def hello_of_the_future(identity):
        return {**hello(identity), "version": 7}

    hello = handshake._hello
    calls = iter([hello_of_the_future, hello])  # The sender's comes first.
    monkeypatch.setattr(handshake, "_hello", lambda identity: next(calls)(identity))
    with pytest.raises(HandshakeError, match=r"version of one end is (1|7), of the other (1|7)"):
        PageSender(receiver.address, fingerprint=FINGERPRINT)


def test_the_right_secret_opens_and_a_wrong_one_is_refused():
    options = {"fingerprint": FINGERPRINT}
    receiver = PageReceiver(**options, capacity_bytes=MIB, secret=b"open sesame")
    with pytest.raises(HandshakeError, match="does not know the shared secret"):
        PageSender(receiver.address, **options, secret=b"open barley")
    sender = PageSender(receiver.address, **options, secret=b"open sesame")
    future = sender.send(make_handover())
    receiver.receive(timeout=10).accept()
    future.result(10)
    sender.close()
    receiver.close()


def test_nobody_at_the_address_is_said_so(receiver):
    receiver.close()
    with pytest.raises(ConnectionLostError, match=f"{receiver.address}: no receiver answers"):
        PageSender(receiver.address, fingerprint=FINGERPRINT)
    with pytest.raises(ValueError, match="'somewhere' must be 'host:port'"):
        PageSender("somewhere", fingerprint=FINGERPRINT)
