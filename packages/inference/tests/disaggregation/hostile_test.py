"""A receiver under attack: whatever a peer sends, it takes up bounded memory, and others are served."""

import contextlib
import json
import socket
import struct
import time
import zlib

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.disaggregation.handovers import FINGERPRINT, assert_same, make_handover
from trellax.inference.disaggregation import PageReceiver, PageSender
from trellax.inference.disaggregation.addresses import parse_address
from trellax.inference.disaggregation.handover import describe
from trellax.inference.disaggregation.handshake import Identity, greet, take_steps
from trellax.inference.disaggregation.wire import Wire

MIB = 1 << 20


@pytest.fixture(scope="module")
def receiver():
    receiver = PageReceiver(fingerprint=FINGERPRINT, capacity_bytes=MIB, io_timeout=0.5)
    yield receiver
    receiver.close()


@pytest.fixture(autouse=True)
def still_serves(receiver):
    yield
    sender = PageSender(receiver.address, fingerprint=FINGERPRINT)
    future = sender.send(make_handover(num_bytes=900_000))
    delivery = receiver.receive(timeout=10)
    assert_same(delivery.handover, make_handover(num_bytes=900_000))
    delivery.accept()
    future.result(10)
    sender.close()
    assert receiver.used_bytes == 0


def connect(receiver):
    return socket.create_connection(parse_address(receiver.address), timeout=10)


def frame(header: bytes, *, length=None, checksum=None):
    length = len(header) if length is None else length
    return struct.pack("!4sII", b"TLXP", length, checksum or zlib.crc32(header)) + header


def assert_hung_up(sock, *, within=5.0):
    """The receiver ends the connection, whatever it says before."""
    begin = time.monotonic()
    with contextlib.suppress(ConnectionResetError):
        while sock.recv(1 << 16):
            pass
    assert time.monotonic() - begin < within
    sock.close()


@pytest.mark.parametrize(
    "sent",
    [
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        frame(b"", length=2**32 - 1),
        frame(b"{}", length=5000),
        frame(b'{"kind": "hello"}', checksum=1),
        frame(b"not json"),
        frame(b"[" * 4000),
        frame(b"[1]"),
        frame(b'{"kind": 1}'),
        frame(b'{"kind": "offer"}'),
        frame(b'{"kind": "hello", "version": {}}'),
        b"",
        b"TLX",
    ],
    ids=lambda sent: repr(sent[:40]),
)
def test_what_is_no_greeting_is_hung_up_on(receiver, sent):
    sock = connect(receiver)
    sock.sendall(sent)
    assert_hung_up(sock)


def test_a_peer_that_drips_bytes_is_hung_up_on(receiver):
    sock = connect(receiver)
    begin = time.monotonic()
    with pytest.raises(OSError):  # noqa: PT011
        for byte in frame(b"x" * 4000):
            sock.sendall(bytes([byte]))
            time.sleep(0.05)
    assert time.monotonic() - begin < 5
    sock.close()


@contextlib.contextmanager
def admitted(receiver):
    """A peer that has passed the handshake and now speaks freely."""
    wire = Wire(connect(receiver), io_timeout=10)
    take_steps(greet(Identity(FINGERPRINT)), wire, timeout=10)
    yield wire
    wire.close()


def offer_with(**changes):
    return {**describe(make_handover()), **changes}


@pytest.mark.parametrize(
    "arrays",
    [
        [{"name": "a", "dtype": "uint8", "shape": [2 * MIB]}],
        [{"name": "a", "dtype": "float32", "shape": [2**62, 2**62, 2**62]}],
        [{"name": f"{i}", "dtype": "uint8", "shape": [600_000]} for i in range(2)],
        [{"name": "a", "dtype": "object", "shape": [1]}],
        [{"name": "a", "dtype": "V8", "shape": [1]}],
        [{"name": "a", "dtype": "uint8", "shape": [-1]}],
        [{"name": "a", "dtype": "uint8", "shape": [0, 2**63]}],
        [{"name": "a", "dtype": "uint8", "shape": [1.0]}],
        [{"name": "a", "dtype": "uint8", "shape": [1] * 65}],
        [{"name": "a", "dtype": "uint8", "shape": [1]}] * 2,
        [{"name": 1, "dtype": "uint8", "shape": [1]}],
        [{"name": "a", "dtype": ["uint8"], "shape": [1]}],
        [[]],
        {},
    ],
    ids=str,
)
def test_offers_that_are_malformed_or_too_large_are_refused(receiver, arrays):
    with admitted(receiver) as wire:
        wire.write("offer", id=1, handover=offer_with(arrays=arrays))
        answer = wire.read(patience=10)
        assert (answer["kind"], answer["id"]) == ("refused", 1)
        assert receiver.used_bytes == 0


@pytest.mark.parametrize(
    "changes", [{"request": 1}, {"token_ids": ["1"]}, {"token_ids": None}, {"surplus": 1}], ids=str
)
def test_offers_without_a_request_are_refused(receiver, changes):
    with admitted(receiver) as wire:
        wire.write("offer", id=1, handover=offer_with(**changes))
        assert wire.read(patience=10)["kind"] == "refused"


def test_a_second_offer_at_once_ends_the_connection(receiver):
    with admitted(receiver) as wire:
        for offer_id in (1, 2):
            wire.write("offer", id=offer_id, handover=offer_with())
        assert wire.read(patience=10)["kind"] == "grant"
        assert wire.read(patience=10) is None


@pytest.mark.parametrize("kind", ["payload", "checksums", "accepted", "offer", "kind"])
def test_frames_out_of_turn_end_the_connection(receiver, kind):
    with admitted(receiver) as wire:
        wire.write(kind, id=1)
        assert wire.read(patience=10) is None


def test_a_payload_that_never_comes_gives_its_room_back(receiver):
    with admitted(receiver) as wire:
        wire.write("offer", id=1, handover=offer_with())
        assert wire.read(patience=10)["kind"] == "grant"
        assert receiver.used_bytes > 0
        wire.write("payload", id=1)
        assert wire.read(patience=10) is None  # After half a second.


def test_more_connections_than_are_allowed_are_hung_up_on():
    receiver = PageReceiver(fingerprint=FINGERPRINT, capacity_bytes=MIB, max_connections=2)
    senders = [PageSender(receiver.address, fingerprint=FINGERPRINT) for _ in range(2)]
    assert_hung_up(connect(receiver))
    for sender in senders:
        sender.close()
    receiver.close()


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
kinds = st.sampled_from(["offer", "payload", "withdraw", "checksums", "grant"])


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    frames=st.lists(st.tuples(kinds, json_values, json_values), max_size=4),
    tail=st.binary(max_size=50),
)
def test_no_sequence_of_frames_does_harm(receiver, frames, tail):
    with connect(receiver) as sock, contextlib.suppress(OSError):
        take_steps(greet(Identity(FINGERPRINT)), Wire(sock, io_timeout=10), timeout=10)
        for kind, item_id, handover in frames:
            header = json.dumps({"kind": kind, "id": item_id, "handover": handover}).encode()
            sock.sendall(frame(header))
        sock.sendall(tail)
