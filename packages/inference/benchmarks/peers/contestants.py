"""The servers that are compared: how each is started, and how it likes to be asked.

    peer = peers(folder, max_streams=32)["vllm_float32"]

`{port}` in a command stands for the port it should listen on.
"""

from __future__ import annotations

import ctypes.util
import dataclasses
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
MODEL = "smollm2-135m"
MAX_LENGTH = 2048


@dataclasses.dataclass(frozen=True)
class Peer:
    """A server to compare.

    Attributes:
        name: in results.
        command: that starts it.
        env: beside the present one.
        model: its name in requests.
        chat: whether requests go to /v1/chat/completions, for a server that cannot do without.
        ignore_eos: whether it knows the option of this name.
        extra_body: more to send with each request.
        environment: folder of its Python environment; None for ours.
    """

    name: str
    command: tuple[str, ...]
    env: Mapping[str, str] = dataclasses.field(default_factory=dict)
    model: str = MODEL
    chat: bool = False
    ignore_eos: bool = True
    extra_body: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    environment: Path | None = None


def peers(folder: Path, *, max_streams: int) -> dict[str, Peer]:
    """Returns the peers that `install.py` put into a folder, with the settings that were found to be fastest."""
    found = [
        vllm(folder, "float32", max_streams),
        vllm(folder, "bfloat16", max_streams),
        transformers(folder, max_streams),
        llamacpp(folder, max_streams),
    ]
    return {peer.name: peer for peer in found}


def vllm(folder: Path, dtype: str, max_streams: int) -> Peer:
    """Returns vLLM, compiled, on all cores: by default it leaves one to its front end, and is slower for it on two."""
    home = folder / "vllm"
    model = folder / f"smollm2_{dtype}"
    command = words(
        "{home}/bin/vllm serve {model} --served-model-name {name} --host 127.0.0.1 --port {port} --dtype {dtype} "
        "--max-model-len {length} --max-num-seqs {streams}",
        home=home,
        model=model,
        name=MODEL,
        dtype=dtype,
        length=MAX_LENGTH,
        streams=max_streams,
    )
    env = {
        "VLLM_CPU_KVCACHE_SPACE": "4",
        "VLLM_CPU_OMP_THREADS_BIND": f"0-{num_cores() - 1}",
        "LD_PRELOAD": ":".join(preloaded(home)),
        # Its compiler looks for tools of its environment here.
        "PATH": f"{home}/bin:{os.environ['PATH']}",
    }
    return Peer(f"vllm_{dtype}", command, env, environment=home)


def preloaded(home: Path) -> Iterator[str]:
    """Yields the libraries that vLLM's documentation wants preloaded: OpenMP of its wheels, tcmalloc if there is one."""
    yield str(home / "lib" / "libiomp5.so")
    if tcmalloc := ctypes.util.find_library("tcmalloc_minimal"):
        yield tcmalloc


def transformers(folder: Path, max_streams: int) -> Peer:
    """Returns `transformers serve` with continuous batching.

    It refuses some fields that the benchmark sends to /v1/completions, and has another way of going on after the
    end token. The chat template makes prompts some 30 tokens longer.
    """
    home, model = folder / "transformers", folder / "smollm2_float32"
    page = 32
    command = words(
        "{home}/bin/transformers serve {model} --host 127.0.0.1 --port {port} --device cpu --continuous-batching "
        "--cb-block-size {page} --cb-num-blocks {pages} --cb-max-batch-tokens 512",
        home=home,
        model=model,
        page=page,
        pages=max_streams * 1024 // page,
    )
    return Peer(
        "transformers_float32",
        command,
        model=str(model),
        chat=True,
        ignore_eos=False,
        extra_body={"generation_config": json.dumps({"eos_token_id": None, "do_sample": False})},
        environment=home,
    )


def llamacpp(folder: Path, max_streams: int) -> Peer:
    """Returns llama.cpp, with the 4-bit weights as they are: a sixth of the bytes of float32."""
    home = folder / "llamacpp"
    (gguf,) = (folder / "weights").glob("*.gguf")
    command = words(
        "{home}/bin/python {script} {gguf} --name {name} --port {port} --slots {slots} --length {length} "
        "--threads {threads}",
        home=home,
        script=HERE / "llama_server.py",
        gguf=gguf,
        name=MODEL,
        slots=max_streams,
        length=MAX_LENGTH,
        threads=num_cores(),
    )
    return Peer("llamacpp_q4_1", command, environment=home)


def words(command: str, **values: object) -> tuple[str, ...]:
    """Splits a command, then fills in values, which may hold spaces; the port stays open."""
    return tuple(word.format(**values, port="{port}") for word in command.split())


def num_cores() -> int:
    return len(os.sched_getaffinity(0))
