"""Installs the clients that are run against our server, each into an environment of its own.

    python3.11 -m benchmarks.clients.install FOLDER        # in packages/inference; after benchmarks.peers.install FOLDER

    FOLDER/openai, FOLDER/guidellm, FOLDER/lm_eval         environments
    FOLDER/smollm2_tools                                   the weights, with a chat template that knows tools
    FOLDER/vllm, FOLDER/smollm2_float32                    of `benchmarks.peers.install`: vLLM's client, the tokenizer

Wants CPython 3.11, the only one that has light wheels of torch everywhere; pip's settings are yours. What is there
already stays as it is.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import venv
from pathlib import Path

from benchmarks.peers.install import pip

HERE = Path(__file__).parent
REQUIREMENTS = {
    "openai": [["openai==3.54.0"]],
    # torch first: left to themselves they take a build of gigabytes.
    "guidellm": [["torch==2.13.0"], ["guidellm==0.8.1"]],
    "lm_eval": [["torch==2.13.0"], ["lm-eval[api]==0.4.13", "transformers==5.24.0"]],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", choices=REQUIREMENTS, action="append", help="install this")
    args = parser.parse_args()
    for client in args.only or REQUIREMENTS:
        install(client, args.folder.resolve())
    make_model_with_tools(args.folder.resolve())


def install(client: str, folder: Path) -> None:
    """Makes a client's environment."""
    home = folder / client
    if home.exists():
        print(f"{home} is there already")
        return
    venv.create(home, with_pip=True)
    for step in REQUIREMENTS[client]:
        pip(home, "install", *step)


def make_model_with_tools(folder: Path) -> None:
    """Makes a folder of weights whose chat template shows tools to the model; its own does not."""
    home = folder / "smollm2_tools"
    home.mkdir(exist_ok=True)
    for path in (folder / "smollm2_float32").iterdir():
        if path.name != "chat_template.jinja" and not (home / path.name).exists():
            (home / path.name).symlink_to(path.resolve())
    shutil.copyfile(HERE / "tools_template.jinja", home / "chat_template.jinja")


if __name__ == "__main__":
    if sys.version_info[:2] != (3, 11):
        sys.exit("Run this with CPython 3.11.")
    main()
