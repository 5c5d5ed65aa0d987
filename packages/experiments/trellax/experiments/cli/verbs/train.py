"""`trellax train NAME`: trains, or goes on with the run that the folder holds."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any

from rich.console import Console

from trellax.config import finalize
from trellax.experiments.cli import panel
from trellax.experiments.cli.arguments import Arguments, UsageError
from trellax.experiments.cli.sampling import PROMPT, completion
from trellax.experiments.registry import get_experiment
from trellax.experiments.resolve import Resolved, resolve
from trellax.experiments.run_folder import RunFolder
from trellax.layers import count_parameters
from trellax.parallel import detect_hardware

SIGNAL_EXIT_BASE = 128
"""A run that a signal stopped exits as a shell reports it: 128 + the signal's number."""


def run(arguments: Arguments) -> int:
    """Trains to the last step, evaluates, prints a sample, and says how to go on."""
    flags = arguments.flags
    resolved = resolve(
        arguments.name,
        hardware=detect_hardware(),
        overrides=arguments.overrides,
        steps=flags.steps,
        seed=flags.seed,
        text=flags.text or (),
    )
    final = finalize(resolved.cfg)  # Every mistake is found before anything is written.
    folder = RunFolder(flags.dir or f"runs/{arguments.name.replace(':', '.')}")
    folder.check_resumable(resolved.cfg)
    console = Console()
    panel.print_start(console, resolved, _facts(arguments, final, folder))
    trainer = _built(final, folder, flags.executable)
    folder.start(resolved.cfg, hardware=resolved.hardware.name, argv=sys.argv)
    outcome = trainer.run()
    if outcome.stopped_by is not None:
        console.print(f"Stopped at step {outcome.step:,}, saved. Go on with the same command.")
        return SIGNAL_EXIT_BASE + outcome.stopped_by
    _print_result(console, trainer, outcome, arguments)
    _print_next(console, arguments, folder, resolved)
    return 0


def _built(final: Any, folder: RunFolder, executable: str | None) -> Any:
    """Returns the trainer; a config that does not fit its data or these devices is a mistake."""
    if executable is not None and not Path(executable).is_file():
        raise UsageError(
            f"--executable={executable}: there is no such file; `plan --save` makes one."
        )
    try:
        return final.instantiate(directory=str(folder.path), executable=executable)
    except ValueError as e:
        raise UsageError(str(e)) from e


def _facts(arguments: Arguments, final: Any, folder: RunFolder) -> dict[str, str]:
    full, here = (_num_parameters(m) for m in (get_experiment(arguments.name).model, final.model))
    rows, length = final.input.batch_spec()["input_ids"].shape
    shrunk = f" (of the experiment: {full:,})" if full != here else ""
    return {
        "parameters": f"{here:,}{shrunk}",
        "batch": f"{rows:,} x {length:,} = {rows * length:,} tokens",
        "steps": f"{final.max_steps:,} ({rows * length * final.max_steps:,} tokens)",
        "folder": f"{folder.path}{' (going on)' if folder.holds_run() else ''}",
    }


def _num_parameters(model_cfg: Any) -> int:
    return count_parameters(finalize(model_cfg).instantiate().all_parameter_specs())


def _print_result(console: Console, trainer: Any, outcome: Any, arguments: Arguments) -> None:
    evaluators = trainer.evaluators
    text = evaluators[0].input if evaluators else trainer.input
    panel.print_end(
        console,
        losses=_losses(outcome.metrics),
        unigram_entropy=text.unigram_entropy(),
        vocab_size=trainer.model.vocab_size,
    )
    params = trainer.evaluation_params(outcome.state)
    sample = completion(
        trainer.model,
        params,
        trainer.input.tokenizer,
        PROMPT,
        max_new_tokens=100,
        temperature=0.8,
        seed=0,
    )
    panel.print_sample(console, PROMPT, sample)


def _losses(metrics: dict[str, float]) -> dict[str, float]:
    """Returns the last training loss and those of the evaluators, by name."""
    names = {"training": "loss"} | {k.removesuffix("/loss"): k for k in metrics if "/loss" in k}
    return {name: metrics[key] for name, key in names.items() if key in metrics}


def _print_next(
    console: Console, arguments: Arguments, folder: RunFolder, resolved: Resolved
) -> None:
    longer = 2 * resolved.cfg.max_steps
    lines = {
        "train longer": f"{_command(arguments, 'train')} --dir={folder.path} --steps={longer}"
        f"{_same_changes(arguments)}",
        "continue text": f"{_command(arguments, 'generate')} --dir={folder.path} "
        f"--prompt={shlex.quote(PROMPT)}",
        "evaluate": f"{_command(arguments, 'eval')} --dir={folder.path}",
        "see curves": f"tensorboard --logdir={folder.path}",
    }
    console.print("\nGo on:")
    for what, line in lines.items():
        console.print(f"  {what:<14} {line}", highlight=False, soft_wrap=True)


def _command(arguments: Arguments, verb: str) -> str:
    """Returns how this program is started, with another verb."""
    if arguments.flags.experiment:
        return f"./pants run experiments:{arguments.name} -- {verb}"
    return f"trellax {verb} {arguments.name}"


def _same_changes(arguments: Arguments) -> str:
    """Returns the flags and overrides that a run goes on with, as they are typed."""
    flags = arguments.flags
    words = [f"--text={','.join(flags.text)}"] if flags.text else []
    words += [f"--seed={flags.seed}"] if flags.seed is not None else []
    return "".join(f" {shlex.quote(word)}" for word in (*words, *arguments.overrides))
