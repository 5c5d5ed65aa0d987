"""Addresses as people write them: "host:port", "[::1]:8471"."""

from __future__ import annotations


def parse_address(address: str) -> tuple[str, int]:
    """Returns host and port.

    Raises:
        ValueError: if `address` has not both.
    """
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ValueError(f"The address {address!r} must be 'host:port', such as '10.0.0.7:8471'.")
    return host.removeprefix("[").removesuffix("]"), int(port)


def format_address(host: str, port: int) -> str:
    """Returns what `parse_address` reads."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
