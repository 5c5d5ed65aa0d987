"""`Link`: frames on an asyncio connection, for what is said between a router and its workers; pages go over `wire`.

link = await Link.connect("10.0.0.7:8470", timeout=5.0); await link.write("cancel", call=3); frame = await link.read()
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any, TypeVar

from trellax.inference.disaggregation.addresses import parse_address
from trellax.inference.disaggregation.errors import ConnectionLostError
from trellax.inference.disaggregation.handshake import Steps
from trellax.inference.disaggregation.wire import (
    MAX_GREETING_BYTES,
    PREFIX_SIZE,
    Frame,
    decode_header,
    decode_prefix,
    encode_frame,
    keep_alive,
)

T = TypeVar("T")

MAX_FRAME_BYTES = 64 << 20
"""Of one frame between peers that know each other: log-probabilities of a long prompt are the largest there is."""


class Link:
    """A connection; one task reads, any number may write."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter):
        self._reader, self._writer = reader, writer
        self._max_frame_bytes = MAX_GREETING_BYTES
        keep_alive(writer.get_extra_info("socket"))

    @classmethod
    async def connect(cls, address: str, *, timeout: float) -> Link:
        """Connects to "host:port".

        Raises:
            ConnectionLostError: if nobody answers.
        """
        try:
            async with asyncio.timeout(timeout):
                return cls(*await asyncio.open_connection(*parse_address(address)))
        except (OSError, TimeoutError) as error:
            raise ConnectionLostError(f"no worker answers: {error}.") from error

    async def take_steps(self, steps: Steps[T], *, timeout: float) -> T:
        """Runs a handshake; each answer has `timeout` seconds. From then on frames may be large.

        Raises:
            TransportError: as the handshake's, and if the connection fails.
        """
        received: Frame | None = None
        while True:
            try:
                frame = steps.send(received)
            except StopIteration as end:
                self._max_frame_bytes = MAX_FRAME_BYTES
                return end.value
            received = None
            if frame is not None:
                await self.write(**frame)
            else:
                received = await self._read_within(timeout)

    async def read(self) -> Frame | None:
        """Returns the next frame, None once the peer has hung up.

        Raises:
            ProtocolError: if what comes is no frame.
        """
        try:
            prefix = await self._reader.readexactly(PREFIX_SIZE)
            length, checksum = decode_prefix(prefix, max_header_bytes=self._max_frame_bytes)
            return decode_header(await self._reader.readexactly(length), checksum)
        except (asyncio.IncompleteReadError, OSError):
            return None

    async def write(self, kind: str, **fields: Any) -> None:
        """Sends a frame; waits while the peer is slow to read.

        Raises:
            ConnectionLostError: if the peer has gone.
        """
        self.send(kind, **fields)
        try:
            await self._writer.drain()
        except OSError as error:
            raise ConnectionLostError(f"The connection was lost: {error}.") from error

    def send(self, kind: str, **fields: Any) -> None:
        """Sends a small frame without waiting; to a peer that has gone it does nothing."""
        self._writer.write(encode_frame(kind, fields))

    def hang_up(self) -> None:
        """Ends the connection; whoever reads is told."""
        self._writer.close()

    async def close(self) -> None:
        """Hangs up, and waits until it is done."""
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()

    async def _read_within(self, timeout: float) -> Frame:
        try:
            async with asyncio.timeout(timeout):
                frame = await self.read()
        except TimeoutError as error:
            raise ConnectionLostError(f"A peer was silent for {timeout:g} s.") from error
        if frame is None:
            raise ConnectionLostError("The peer hung up during the handshake.")
        return frame
