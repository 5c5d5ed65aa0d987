"""`Wire`: frames on a socket. A frame is a prefix, a JSON object with a `kind`, and for arrays their bytes after it.

    prefix = b"TLXP" | length of the JSON | CRC-32 of the JSON        (12 bytes, big endian)

    wire = Wire(sock, io_timeout=30.0); wire.write("grant", id=7); frame = wire.read()

Numbers in arrays are little endian. One thread reads, any number may write. A wire that has failed stays closed.
"""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import sys
import threading
import time
import zlib
from collections.abc import Iterable
from typing import Any

from trellax.inference.disaggregation.errors import ConnectionLostError, ProtocolError

_MAGIC = b"TLXP"
_PREFIX = struct.Struct("!4sII")
_CHUNK = 1 << 20
"""Bytes a call: few enough to be in the CPU's cache still when their checksum is computed."""

PREFIX_SIZE = _PREFIX.size

MAX_GREETING_BYTES = 4096
"""Of JSON that is read of a peer that has not shown who it is."""

Frame = dict[str, Any]


class Wire:
    """A connected socket as a sequence of frames.

    Attributes:
        max_header_bytes: of a frame's JSON; a longer one is not read.
        failure: why the wire was shut down while something was sent, for the thread that reads and sees only the end.
    """

    def __init__(self, sock: socket.socket, *, io_timeout: float):
        """
        Args:
            sock: a connected stream; the wire owns it from here on.
            io_timeout: seconds that a peer may let pass in the middle of a frame.
        """
        assert sys.byteorder == "little", "arrays travel as they lie in memory"
        sock.settimeout(io_timeout)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        keep_alive(sock)
        self.max_header_bytes = MAX_GREETING_BYTES
        self._sock = sock
        self.io_timeout = io_timeout
        self._writing = threading.Lock()
        self.failure: str | None = None

    def write(self, kind: str, **fields: Any) -> None:
        """Sends a frame.

        Raises:
            ConnectionLostError: if the peer has gone or does not read.
        """
        with self._writing:
            self._send(encode_frame(kind, fields))

    def write_payload(self, views: Iterable[memoryview], **fields: Any) -> None:
        """Sends a frame "payload", the bytes of `views` and a frame "checksums", with nothing in between."""
        with self._writing:
            checksums = []
            self._send(encode_frame("payload", fields))
            for view in views:
                checksum = 0
                for start in range(0, len(view), _CHUNK):
                    chunk = view[start : start + _CHUNK]
                    self._send(chunk)
                    checksum = zlib.crc32(chunk, checksum)
                checksums.append(checksum)
            self._send(encode_frame("checksums", {**fields, "crc32": checksums}))

    def read(self, *, patience: float | None = None) -> Frame | None:
        """Returns the next frame; None once the peer has hung up.

        Args:
            patience: seconds until it begins; None for any time.

        Raises:
            ProtocolError: if what comes is no frame.
            ConnectionLostError: if none comes in time, or it stops in the middle.
        """
        prefix = memoryview(bytearray(PREFIX_SIZE))
        if not self._await_first_byte(prefix, patience):
            return None
        self._receive(prefix[1:])
        length, checksum = decode_prefix(prefix, max_header_bytes=self.max_header_bytes)
        header = memoryview(bytearray(length))
        self._receive(header)
        return decode_header(header, checksum)

    def read_payload(self, views: Iterable[memoryview]) -> list[int]:
        """Fills `views` with what follows a frame "payload"; returns their checksums."""
        checksums = []
        for view in views:
            checksum = 0
            for start in range(0, len(view), _CHUNK):
                checksum = self._receive(view[start : start + _CHUNK], checksum)
            checksums.append(checksum)
        return checksums

    def shut_down(self) -> None:
        """Ends the connection at once, whatever other threads are doing with it."""
        with contextlib.suppress(OSError):  # It may have ended already.
            self._sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Gives the socket back; for the reading thread, when it is done."""
        self.shut_down()
        # A thread that still writes would go on with the socket's number, which may then be another's.
        with self._writing:
            self._sock.close()

    def _send(self, data: bytes | memoryview) -> None:
        try:
            self._sock.sendall(data)
        except OSError as error:  # A timeout is one.
            self.failure = f"The connection was lost while sending: {error}."
            # Half a frame may be on its way, so nothing that follows could be understood.
            self.shut_down()
            raise ConnectionLostError(self.failure) from error

    def _await_first_byte(self, view: memoryview, patience: float | None) -> bool:
        deadline = None if patience is None else time.monotonic() + patience
        while True:
            try:
                return self._sock.recv_into(view, 1) == 1
            except TimeoutError as error:
                if deadline is not None and time.monotonic() >= deadline:
                    raise ConnectionLostError(f"A peer was silent for {patience:g} s.") from error
            except OSError:
                return False

    def _receive(self, view: memoryview, checksum: int = 0) -> int:
        deadline = time.monotonic() + self.io_timeout
        received = 0
        while received < len(view):
            try:
                count = self._sock.recv_into(view[received:])
            except OSError as error:
                raise ConnectionLostError(f"The connection was lost: {error}.") from error
            if count == 0:
                raise ConnectionLostError("The peer hung up in the middle of a message.")
            checksum = zlib.crc32(view[received : received + count], checksum)
            received += count
            # A peer that sends a byte now and then keeps each call from timing out.
            if received < len(view) and time.monotonic() > deadline:
                raise ConnectionLostError(f"A peer sent {received} B in {self.io_timeout:g} s.")
        return checksum


def keep_alive(sock: socket.socket) -> None:
    """Has the operating system notice within 25 s, not two hours, that the peer's host has lost power."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if sys.platform == "linux":
        for option, value in (
            (socket.TCP_KEEPIDLE, 10),
            (socket.TCP_KEEPINTVL, 5),
            (socket.TCP_KEEPCNT, 3),
        ):
            sock.setsockopt(socket.IPPROTO_TCP, option, value)


def encode_frame(kind: str, fields: dict[str, Any]) -> bytes:
    """Returns a frame as it travels."""
    header = json.dumps({"kind": kind, **fields}).encode()
    return _PREFIX.pack(_MAGIC, len(header), zlib.crc32(header)) + header


def decode_prefix(prefix: bytes | memoryview, *, max_header_bytes: int) -> tuple[int, int]:
    """Returns the length and the checksum of the header that follows."""
    magic, length, checksum = _PREFIX.unpack(prefix)
    if magic != _MAGIC:
        raise ProtocolError(f"A peer sent {magic!r} where a frame begins; expected {_MAGIC!r}.")
    if length > max_header_bytes:
        raise ProtocolError(
            f"A peer sent a header of {length} bytes; at most {max_header_bytes} are read."
        )
    return length, checksum


def decode_header(header: bytes | memoryview, checksum: int) -> Frame:
    """Returns the JSON object in a header."""
    if zlib.crc32(header) != checksum:
        raise ProtocolError("A header came damaged: its checksum differs.")
    try:
        frame = json.loads(bytes(header))
    except (ValueError, RecursionError) as error:
        raise ProtocolError("A frame's header is not JSON.") from error
    if not isinstance(frame, dict) or not isinstance(frame.get("kind"), str):
        raise ProtocolError("A frame's header is no JSON object with a kind.")
    return frame
