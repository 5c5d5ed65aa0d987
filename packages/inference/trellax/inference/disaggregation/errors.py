"""What can go wrong while pages travel or workers work; who recomputes on a fault catches the first two."""

from __future__ import annotations


class TransportError(RuntimeError):
    """A hand-over did not arrive."""


class WorkerError(RuntimeError):
    """A worker cannot go on with a request, for no fault of the request's."""


class UnreachableError(WorkerError):
    """A worker did not answer, or takes nothing new: it has not begun, so the request cannot be what it failed for."""


class NoRoomError(Exception):
    """A decode engine has no slot or no pages for a sequence now; once others have ended it will."""


class HandshakeError(TransportError):
    """The two ends do not belong together: another version, another model, another secret."""


class ProtocolError(TransportError):
    """A peer sent what the protocol does not allow."""


class ConnectionLostError(TransportError):
    """The connection ended, or stood still for too long, before the receiver had accepted."""


class RefusedError(TransportError):
    """The receiver is well and does not take this hand-over; the message says why."""
