"""How two ends of a connection make sure that they belong together.

    caller                                              callee
    hello {version, fingerprint, nonce}           →
                                                  ←     challenge {version, fingerprint, nonce, proof}
    proof {proof}                                 →
                                                  ←     welcome {…}         or at any time: refusal {reason}

    identity = Identity(fingerprint, secret=b"…"); welcome = take_steps(greet(identity), wire, timeout=5.0)

A proof is HMAC-SHA256 under the shared secret over who speaks, the version, the fingerprint and both nonces. It keeps
strangers out; it does not encrypt, and what follows is not signed, so the network between the ends must be one's own.

`greet` and `admit` do no input or output, so that blocking sockets and event loops share them: they yield a frame that is
to be sent, or None to be sent the next one that comes.
"""

from __future__ import annotations

import dataclasses
import hashlib
import hmac
import json
import secrets
from collections.abc import Generator
from typing import TypeVar

from trellax.inference.disaggregation.errors import (
    ConnectionLostError,
    HandshakeError,
    ProtocolError,
)
from trellax.inference.disaggregation.wire import Frame, Wire

VERSION = 1
"""Of everything that travels; ends of different versions refuse each other."""

T = TypeVar("T")
Steps = Generator[Frame | None, Frame | None, T]


@dataclasses.dataclass(frozen=True)
class Identity:
    """What both ends must have in common.

    Attributes:
        fingerprint: of the model, its weights and the layout of its cache.
        secret: known to both ends alone; None where the network is trusted.
    """

    fingerprint: str
    secret: bytes | None = dataclasses.field(default=None, repr=False)


def greet(identity: Identity) -> Steps[Frame]:
    """Introduces the end that has connected; returns the other's welcome.

    Raises:
        HandshakeError: if the ends do not belong together.
        ProtocolError: if the other end does something else.
    """
    hello = _hello(identity)
    yield {"kind": "hello", **hello}
    challenge = yield from _expect("challenge")
    _check_same(hello, challenge)
    _check_proof(challenge, _proof(identity, "callee", hello, challenge), "receiver")
    yield {"kind": "proof", "proof": _proof(identity, "caller", hello, challenge)}
    return (yield from _expect("welcome"))


def admit(identity: Identity, *, welcome: Frame) -> Steps[None]:
    """Examines a peer that has connected, and sends it `welcome` or a refusal with the reason.

    Raises:
        HandshakeError: if it is refused.
        ProtocolError: if it does something else.
    """
    try:
        hello = yield from _expect("hello")
        challenge = _hello(identity)
        _check_same(challenge, hello)
        proof = _proof(identity, "callee", hello, challenge)
        yield {"kind": "challenge", **challenge, "proof": proof}
        answer = yield from _expect("proof")
        _check_proof(answer, _proof(identity, "caller", hello, challenge), "sender")
    except (HandshakeError, ProtocolError) as error:
        yield {"kind": "refusal", "reason": str(error)}
        raise
    yield {"kind": "welcome", **welcome}


def take_steps(steps: Steps[T], wire: Wire, *, timeout: float) -> T:
    """Runs a handshake on a wire; each answer has `timeout` seconds.

    Raises:
        TransportError: as `greet` and `admit`, and if the connection fails.
    """
    received: Frame | None = None
    while True:
        try:
            frame = steps.send(received)
        except StopIteration as end:
            return end.value
        received = None
        if frame is not None:
            wire.write(**frame)
        elif not (received := wire.read(patience=timeout)):
            raise ConnectionLostError("The peer hung up during the handshake.")


def _hello(identity: Identity) -> Frame:
    return {
        "version": VERSION,
        "fingerprint": identity.fingerprint,
        "nonce": secrets.token_hex(16),
        "has_secret": identity.secret is not None,
    }


def _check_same(own: Frame, other: Frame) -> None:
    for field, remedy in (
        ("version", "run the same release at both ends"),
        ("fingerprint", "serve the same model, weights and cache layout at both ends"),
        ("has_secret", "give both ends the same shared secret, or none"),
    ):
        if own[field] != other.get(field):
            raise HandshakeError(
                f"The {field} of one end is {own[field]!r}, of the other "
                f"{other.get(field)!r:.100}; {remedy}."
            )


def _proof(identity: Identity, speaker: str, hello: Frame, challenge: Frame) -> str:
    if identity.secret is None:
        return ""
    signed = [speaker, VERSION, identity.fingerprint, hello.get("nonce"), challenge.get("nonce")]
    return hmac.new(identity.secret, json.dumps(signed).encode(), hashlib.sha256).hexdigest()


def _check_proof(frame: Frame, expected: str, peer: str) -> None:
    if not hmac.compare_digest(expected.encode(), str(frame.get("proof")).encode()):
        raise HandshakeError(
            f"The {peer} does not know the shared secret; give both ends the same."
        )


def _expect(kind: str) -> Steps[Frame]:
    frame = yield None
    assert frame is not None
    if frame["kind"] == "refusal":
        raise HandshakeError(f"The peer refused the connection: {frame.get('reason')}")
    if frame["kind"] != kind:
        raise ProtocolError(f"A peer sent {frame['kind'][:50]!r} where {kind!r} was due.")
    return frame
