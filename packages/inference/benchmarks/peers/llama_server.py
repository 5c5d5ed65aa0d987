"""Serves a GGUF file with llama.cpp's own OpenAI server, from the package `xllamacpp`.

FOLDER/llamacpp/bin/python llama_server.py GGUF --port 8000 --slots 32 --length 2048 --threads 2
"""

from __future__ import annotations

import argparse
import signal

import xllamacpp  # pants: no-infer-dep


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("gguf")
    parser.add_argument("--name", default="smollm2-135m")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--slots", type=int, required=True, help="requests at a time")
    parser.add_argument("--length", type=int, required=True, help="tokens of a request, at most")
    parser.add_argument("--threads", type=int, required=True)
    args = parser.parse_args()
    params = xllamacpp.CommonParams()
    params.model.path = args.gguf
    params.model_alias = {args.name}
    params.hostnames = ["127.0.0.1"]
    params.port = args.port
    params.n_parallel = args.slots
    # All slots share it.
    params.n_ctx = args.slots * args.length
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = args.threads
    params.endpoint_metrics = True
    # It serves from threads of its own, for as long as the object lives.
    server = xllamacpp.Server(params)
    print(server.listening_address, flush=True)
    signal.pause()


if __name__ == "__main__":
    main()
