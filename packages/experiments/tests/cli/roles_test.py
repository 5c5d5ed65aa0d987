"""What Kubernetes is told to start is what the command line takes; roles are told what they do not take."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.tiny import NAME, called
from trellax.experiments.cli.arguments import UsageError, parse
from trellax.experiments.fingerprint import weights_fingerprint
from trellax.inference.disaggregation import (
    Accelerator,
    Role,
    Serving,
    disaggregated_manifests,
    fused_manifests,
)

SERVING = Serving(
    "chat",
    image="registry.example/trellax:1",
    experiment=NAME,
    weights_claim="llama2-7b",
    arguments=("engine.max_length=2048", "--model_name=chat"),
    api_keys_secret="chat-api-keys",
    transport_secret="chat-transport",
)
GPU = Role(2, Accelerator.gpu(8), arguments=("engine.mesh_shape.model=8",))


def command_lines(objects: list[dict[str, Any]]) -> dict[str, list[str]]:
    """The command line of each role's container."""
    spec = objects[-1]["spec"]
    roles = spec.get("roles", [{"name": "fused", "spec": spec}])
    lines = {}
    for role in roles:
        template = role["spec"]["leaderWorkerTemplate"]["workerTemplate"]
        (container,) = template["spec"]["containers"]
        lines[role["name"]] = [*container["command"], *container["args"]]
    return lines


LINES = {
    **command_lines(fused_manifests(SERVING, GPU)),
    **command_lines(disaggregated_manifests(SERVING, prefill=GPU, decode=GPU)),
}


@pytest.mark.parametrize("role", ["fused", "prefill", "decode", "router"])
def test_the_manifests_command_lines_are_ours(role: str) -> None:
    program, *argv = LINES[role]
    arguments = parse(argv)
    assert (program, arguments.verb, arguments.name) == ("trellax", "serve", NAME)
    flags = arguments.flags
    assert (flags.role, flags.weights, flags.model_name) == (role, "/weights", "chat")
    assert (flags.host, flags.port, flags.drain_grace) == ("0.0.0.0", 8000, 120)
    assert "engine.max_length=2048" in arguments.overrides
    assert ("engine.mesh_shape.model=8" in arguments.overrides) == (role != "router")


def test_routers_look_for_workers_where_those_listen() -> None:
    flags = {role: parse(argv).flags for role, (_, *argv) in LINES.items()}
    for role in ("prefill", "decode"):
        assert flags["router"][f"{role}_workers"].value == [f"chat-{role}:8470"]
        assert flags[role].control_port == 8470
    assert flags["decode"].page_port == 8471
    secrets = {flags[role].transport_secret_file for role in ("prefill", "decode", "router")}
    assert secrets == {"/etc/trellax/secret/key"}
    keys = {flags[role].api_key_file for role in ("fused", "router")}
    assert keys == {"/etc/trellax/api-keys/keys"}


MISTAKES = {
    "flag of another role": (
        ["--role=prefill", "--page_port=1"],
        "--page_port is for decode, not for --role=prefill.",
    ),
    "flag of a role without one": (
        ["--decode_workers=d:1"],
        "--decode_workers is for router, not for --role=fused.",
    ),
    "keys that nobody asks for": (
        ["--role=decode", "--api_key=k"],
        "--api_key is for fused and router, not for --role=decode.",
    ),
    "a router without workers": (
        ["--role=router", "--prefill_workers=p:1"],
        "--role=router needs --decode_workers=HOST:PORT.",
    ),
    "an address without a port": (
        ["--role=router", "--prefill_workers=p:1,q", "--decode_workers=d:1"],
        "--prefill_workers: 'q' is no HOST:PORT.",
    ),
    "whatever checkpoint is newest": (
        ["--role=decode"],
        "--role=decode needs --weights, or --dir and --step: all roles must serve the same.",
    ),
}


@pytest.mark.parametrize(("argv", "message"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_told(argv: list[str], message: str) -> None:
    with pytest.raises(UsageError) as raised:
        parse(["serve", NAME, *argv])
    assert str(raised.value) == message


@pytest.mark.parametrize("flag", ["api_key_file", "transport_secret_file"])
@pytest.mark.parametrize("content", [None, b" \n", b"\xff"])
def test_a_secret_that_is_not_there_is_no_open_door(
    flag: str, content: bytes | None, capsys: Any, tmp_path: Path
) -> None:
    file = tmp_path / "secret"
    if content is not None:
        file.write_bytes(content)
    code, _, err = called(
        capsys,
        *("serve", NAME, "--role=router", f"--{flag}={file}", "--weights=nowhere"),
        *("--prefill_workers=p:1", "--decode_workers=d:1"),
    )
    assert code == 2
    assert err.startswith(f"trellax: --{flag}={file} ")


def test_other_weights_have_another_fingerprint(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("one", "copy", "other")]
    for folder in folders:
        folder.mkdir()
        (folder / "config.json").write_text("{}")
        (folder / "README.md").write_text(folder.name)
        content = bytearray(5 << 20)
        content[-1] = folder.name == "other"  # A large file, of which only samples are read.
        (folder / "model.safetensors").write_bytes(content)
    one, copy, other = map(weights_fingerprint, folders)
    assert one == copy != other
    files = [weights_fingerprint(folder / "model.safetensors") for folder in folders]
    assert files[0] == files[1] != files[2]
