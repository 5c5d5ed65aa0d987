"""Secrets that flags name files of: what stands on a command line can be seen by everybody on the machine."""

from __future__ import annotations

from pathlib import Path

from trellax.experiments.cli.arguments import Arguments, UsageError


def api_keys(arguments: Arguments) -> tuple[str, ...]:
    """Returns the keys of --api_key and of --api_key_file.

    Raises:
        UsageError: if the file cannot be read, or holds none: the server would ask nobody for a key.
    """
    keys = tuple(arguments.flags.api_key or ())
    if arguments.flags.api_key_file is None:
        return keys
    return keys + tuple(_read("api_key_file", arguments.flags.api_key_file).split())


def transport_secret(arguments: Arguments) -> bytes | None:
    """Returns the secret of --transport_secret_file; None without it.

    Raises:
        UsageError: if the file cannot be read, or is empty.
    """
    file = arguments.flags.transport_secret_file
    return None if file is None else _read("transport_secret_file", file).encode()


def _read(flag: str, file: str) -> str:
    try:
        text = Path(file).read_text().strip()
    except (OSError, UnicodeDecodeError) as e:
        reason = e.strerror if isinstance(e, OSError) else "it is no text"
        raise UsageError(f"--{flag}={file} cannot be read: {reason}.") from e
    if not text:
        raise UsageError(f"--{flag}={file} is empty.")
    return text
