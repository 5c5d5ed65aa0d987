"""A network that can damage, stop or cut what passes: a proxy between a sender and a receiver."""

import contextlib
import socket
import threading

from trellax.inference.disaggregation.addresses import format_address, parse_address


class Proxy:
    """Passes bytes on in both directions; the first connection's bytes towards the receiver go through `change_fn`."""

    def __init__(self, target: str, *, change_fn=lambda data, offset: data):
        """
        Args:
            target: address of the receiver.
            change_fn: (bytes, how many came before) -> what is passed on; None cuts the connection.
        """
        self._target = parse_address(target)
        self._change_fn = change_fn
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = format_address(*self._listener.getsockname())
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self):
        with self._listener:
            near, _ = self._listener.accept()
        with contextlib.suppress(OSError), near, socket.create_connection(self._target) as far:
            back = threading.Thread(target=_pass, args=(far, near, lambda data, offset: data))
            back.start()
            _pass(near, far, self._change_fn)
            back.join()


def _pass(source, target, change_fn):
    offset = 0
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            changed = change_fn(data, offset)
            if changed is None:
                break
            offset += len(data)
            target.sendall(changed)
    for end in (source, target):
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


def flip(position: int):
    """A `change_fn` that flips a bit of one byte."""

    def change(data, offset):
        if offset <= position < offset + len(data):
            data = bytearray(data)
            data[position - offset] ^= 0x10
        return bytes(data)

    return change


def cut(position: int):
    """A `change_fn` that cuts the connection after so many bytes."""
    return lambda data, offset: data if offset + len(data) <= position else None
