"""What the user typed: a verb, an experiment, flags, and `path=value` overrides.

    trellax VERB NAME [OTHER] [--flag=value ...] [path=value ...]

Every mistake is one line on stderr with near names, and exit code 2.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from absl import flags

from trellax.config import did_you_mean
from trellax.experiments.registry import experiment_names


class UsageError(Exception):
    """A mistake on the command line; the message is one line."""


VERBS = {
    "train": "train it; in a folder that holds a run, go on with that run",
    "eval": "evaluate a run's checkpoint on the held-out text",
    "generate": "continue a prompt with a run's checkpoint, or with published weights",
    "chat": "talk to a model on the command line",
    "serve": "serve a model to OpenAI clients, with a page to chat with it",
    "batch": "answer the requests of a JSONL file, and go on where it was stopped",
    "show": "print the config tree (--as=text, final, python, json, specs or shardings)",
    "diff": "print how two experiments, or an experiment and its overrides, differ",
    "html": "write the config tree, or two side by side, as a page",
    "plan": "compile the train step for hardware that is not here: does it fit, how fast can it be",
    "tune": "search mesh, accumulation and remat for hardware that is not here; print a mesh rule",
    "list": "name the experiments",
}

_SERVING = ("generate", "chat", "serve", "batch")

_FLAG_VERBS = {
    "dir": ("train", "eval", *_SERVING),
    "steps": ("train",),
    "seed": ("train", "generate", "chat"),
    "text": ("train", "eval"),
    "hardware": ("show", "diff", "html", "plan", "tune"),
    "json": ("plan", "tune"),
    "html": ("plan",),
    "save": ("plan",),
    "executable": ("train",),
    "remat": ("plan",),
    "candidates": ("tune",),
    "step": ("eval", *_SERVING),
    "weights": _SERVING,
    "draft_weights": _SERVING,
    "draft_experiment": _SERVING,
    "model_name": _SERVING,
    "prompt": ("generate",),
    "tokens": ("generate", "chat"),
    "temperature": ("generate", "chat"),
    "top_k": ("generate", "chat"),
    "host": ("serve",),
    "port": ("serve",),
    "api_key": ("serve",),
    "api_key_file": ("serve",),
    "drain_grace": ("serve",),
    "role": ("serve",),
    "control_port": ("serve",),
    "page_port": ("serve",),
    "page_room": ("serve",),
    "prefill_workers": ("serve",),
    "decode_workers": ("serve",),
    "transport_secret_file": ("serve",),
    "input": ("batch",),
    "as": ("show",),
    "explain": ("show",),
    "output": ("html", "tune", "batch"),
}
_FLAG_ROLES = {
    "draft_weights": ("fused", "decode"),
    "draft_experiment": ("fused", "decode"),
    "api_key": ("fused", "router"),
    "api_key_file": ("fused", "router"),
    "control_port": ("prefill", "decode"),
    "page_port": ("decode",),
    "page_room": ("prefill", "decode"),
    "prefill_workers": ("router",),
    "decode_workers": ("router",),
    "transport_secret_file": ("prefill", "decode", "router"),
}
_ALWAYS = ("experiment", "help")


@dataclasses.dataclass(frozen=True)
class Arguments:
    """A parsed command line."""

    verb: str  # One of VERBS, or "help".
    name: str
    other: str | None
    overrides: tuple[str, ...]
    flags: flags.FlagValues


def parse(argv: Sequence[str]) -> Arguments:
    """Parses the arguments after the program's name.

    Raises:
        UsageError: for unknown verbs, flags, or too many or too few names.
    """
    values = _define_flags()
    words, overrides = _split(_parsed(values, argv))
    if values.help:
        return Arguments("help", "", None, (), values)
    verb = _verb(words, values)
    _check_flags(verb, values)
    if overrides and verb == "list":
        raise UsageError(f"`list` takes no overrides, but got {overrides[0]!r}.")
    names = ([values.experiment] if values.experiment else []) + words
    most = {"list": 0, "diff": 2, "html": 2}.get(verb, 1)
    if len(names) > most:
        raise UsageError(f"`{verb}` does not take {names[most]!r}; overrides look like path=value.")
    if not names and verb != "list":
        raise UsageError(f"`{verb}` needs an experiment: {', '.join(experiment_names())}.")
    name, other = (*names, None, None)[:2]
    return Arguments(verb, name or "", other, tuple(overrides), values)


def usage() -> str:
    """Returns the text of `--help`."""
    verbs = "\n".join(f"  {verb:<9} {text}" for verb, text in VERBS.items())
    lines = [
        f"  --{'='.join(filter(None, (name, _PLACEHOLDERS[name]))):<18} {_help_of(name)}"
        for name in _FLAG_VERBS
    ]
    return (
        "trellax VERB NAME [--flag=value ...] [path=value ...]\n\n"
        f"Verbs (train if none is given):\n{verbs}\n\nFlags:\n" + "\n".join(lines) + "\n\n"
        "Overrides change fields of the experiment's config, after the mesh rule of the hardware:\n"
        "  learner.schedule.peak=1e-3  model.decoder.**.dropout.rate=0.1\n\n"
        "Exit codes: 0 done, 1 failed, 2 a mistake on the command line or in the config,\n"
        "3 a plan does not fit its hardware, 130 and 143 stopped by Ctrl-C and SIGTERM after saving."
    )


def _help_of(flag: str) -> str:
    """Returns a flag's help without the line that absl adds to flags that may be repeated."""
    return str(_define_flags()[flag].help).split("\n")[0].rstrip(";")


_PLACEHOLDERS = {
    "dir": "FOLDER",
    "steps": "N",
    "seed": "S",
    "text": "FILES",
    "hardware": "NAME",
    "json": "",
    "html": "FILE",
    "save": "FILE",
    "executable": "FILE",
    "remat": "",
    "candidates": "N",
    "step": "N",
    "weights": "PATH",
    "draft_weights": "PATH",
    "draft_experiment": "NAME",
    "model_name": "NAME",
    "host": "ADDRESS",
    "port": "N",
    "api_key": "KEY",
    "api_key_file": "FILE",
    "drain_grace": "S",
    "role": "ROLE",
    "control_port": "N",
    "page_port": "N",
    "page_room": "GIB",
    "prefill_workers": "ADDRESSES",
    "decode_workers": "ADDRESSES",
    "transport_secret_file": "FILE",
    "input": "FILE",
    "prompt": "TEXT",
    "tokens": "N",
    "temperature": "T",
    "top_k": "K",
    "as": "FORM",
    "explain": "PATH",
    "output": "FILE",
}


def _define_flags() -> flags.FlagValues:
    values = flags.FlagValues()
    flags.DEFINE_string(
        "experiment", None, "experiment that a build target is for", flag_values=values
    )
    flags.DEFINE_bool("help", False, "print this", flag_values=values)
    flags.DEFINE_string("dir", None, "folder of the run [runs/NAME]", flag_values=values)
    flags.DEFINE_integer(
        "steps", None, "train up to so many steps", lower_bound=1, flag_values=values
    )
    flags.DEFINE_integer(
        "seed", None, "of parameters and data, or of the draws", flag_values=values
    )
    flags.DEFINE_list("text", None, "your own text files, comma-separated", flag_values=values)
    flags.DEFINE_multi_string(
        "hardware",
        None,
        "apply the mesh rule of this hardware, e.g. tpu-v5p-512; plan takes several",
        flag_values=values,
    )
    flags.DEFINE_bool("json", False, "print JSON", flag_values=values)
    flags.DEFINE_string("html", None, "write the plans as a page", flag_values=values)
    flags.DEFINE_string(
        "save", None, "write the compiled step, for train --executable", flag_values=values
    )
    flags.DEFINE_string(
        "executable", None, "compiled step to run, from plan --save", flag_values=values
    )
    flags.DEFINE_bool(
        "remat", False, "compare what remat policies keep and compute again", flag_values=values
    )
    flags.DEFINE_integer(
        "candidates", 4, "how many ways to compile, at most [4]", lower_bound=1, flag_values=values
    )
    flags.DEFINE_integer(
        "step", None, "which checkpoint [the newest]", lower_bound=0, flag_values=values
    )
    flags.DEFINE_string(
        "weights", None, "a Hugging Face folder or a GGUF file to serve", flag_values=values
    )
    flags.DEFINE_string(
        "draft_weights",
        None,
        "the same of a smaller model, whose drafts the model checks",
        flag_values=values,
    )
    flags.DEFINE_string("draft_experiment", None, "whose model that is [NAME]", flag_values=values)
    flags.DEFINE_string(
        "model_name", None, "what clients call the model [NAME]", flag_values=values
    )
    flags.DEFINE_string("host", "127.0.0.1", "address to listen at [127.0.0.1]", flag_values=values)
    flags.DEFINE_integer(
        "port", 8000, "port to listen at; 0 for any [8000]", lower_bound=0, flag_values=values
    )
    flags.DEFINE_multi_string(
        "api_key",
        None,
        "a key that clients may come with; without any none is asked for",
        flag_values=values,
    )
    flags.DEFINE_string("api_key_file", None, "the same, one a line", flag_values=values)
    flags.DEFINE_float(
        "drain_grace",
        30.0,
        "seconds that requests may take after SIGTERM [30]",
        lower_bound=0,
        flag_values=values,
    )
    _define_role_flags(values)
    flags.DEFINE_string("input", None, "requests, one JSON object a line", flag_values=values)
    flags.DEFINE_string("prompt", None, "text to continue", flag_values=values)
    flags.DEFINE_integer(
        "tokens", 120, "how many tokens to generate", lower_bound=1, flag_values=values
    )
    flags.DEFINE_float(
        "temperature", 0.8, "of the draws; 0: most likely", lower_bound=0, flag_values=values
    )
    flags.DEFINE_integer(
        "top_k", None, "draw from the K most likely", lower_bound=1, flag_values=values
    )
    flags.DEFINE_enum(
        "as",
        "text",
        ["text", "final", "python", "json", "specs", "shardings"],
        "what to print",
        flag_values=values,
    )
    flags.DEFINE_string(
        "explain", None, "print where the value at this path was set", flag_values=values
    )
    flags.DEFINE_string(
        "output",
        None,
        "file to write [of html: NAME.html; of batch: INPUT.results.jsonl]",
        flag_values=values,
    )
    return values


def _define_role_flags(values: flags.FlagValues) -> None:
    """Defines the flags of parts of a server; `trellax.inference.disaggregation` writes manifests with them."""
    flags.DEFINE_enum(
        "role",
        "fused",
        ["fused", "prefill", "decode", "router"],
        "of several processes that serve together; fused does all [fused]",
        flag_values=values,
    )
    flags.DEFINE_integer(
        "control_port", 8470, "where a worker listens for routers [8470]", flag_values=values
    )
    flags.DEFINE_integer(
        "page_port", 8471, "where a decode worker takes pages [8471]", flag_values=values
    )
    flags.DEFINE_float(
        "page_room", 4.0, "host memory for pages on their way, GiB [4]", flag_values=values
    )
    for role in ("prefill", "decode"):
        flags.DEFINE_list(
            f"{role}_workers",
            [],
            f"control ports of {role} workers, HOST:PORT; a host may have many addresses",
            flag_values=values,
        )
    flags.DEFINE_string(
        "transport_secret_file",
        None,
        "what all workers and routers know; without it they trust the network",
        flag_values=values,
    )


def _parsed(values: flags.FlagValues, argv: Sequence[str]) -> list[str]:
    values.set_gnu_getopt(True)
    known = set(_FLAG_VERBS) | set(_ALWAYS)
    try:
        return list(values(["trellax", *argv])[1:])
    except flags.UnrecognizedFlagError as e:
        near = did_you_mean(e.flagname, known)
        raise UsageError(f"There is no flag --{e.flagname}.{near}") from e
    except flags.Error as e:
        raise UsageError(" ".join(str(e).split())) from e


def _split(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    overrides = [a for a in arguments if "=" in a]
    return [a for a in arguments if "=" not in a], overrides


def _verb(words: list[str], values: flags.FlagValues) -> str:
    """Takes the verb off the words; it may be left out before an experiment's name."""
    if not words:
        return "train"
    if words[0] in VERBS:
        return words.pop(0)
    if not values.experiment and (words[0] in experiment_names() or ":" in words[0]):
        return "train"
    near = did_you_mean(words[0], [*VERBS, *experiment_names()])
    raise UsageError(f"There is no verb {words[0]!r}.{near} Verbs: {', '.join(VERBS)}.")


def _check_roles(values: flags.FlagValues) -> None:
    for name, roles in _FLAG_ROLES.items():
        if values[name].present and values.role not in roles:
            raise UsageError(
                f"--{name} is for {' and '.join(roles)}, not for --role={values.role}."
            )
    for name in ("prefill_workers", "decode_workers"):
        addresses = values[name].value or ()
        if values.role == "router" and not addresses:
            raise UsageError(f"--role=router needs --{name}=HOST:PORT.")
        for address in addresses:
            host, _, port = address.rpartition(":")
            if not host or not port.isdecimal():
                raise UsageError(f"--{name}: {address!r} is no HOST:PORT.")
    if values.role != "fused" and not values.weights and values.step is None:
        raise UsageError(
            f"--role={values.role} needs --weights, or --dir and --step: all roles must serve the same."
        )


def _check_flags(verb: str, values: flags.FlagValues) -> None:
    if verb == "serve":
        _check_roles(values)
    if values.draft_experiment and not values.draft_weights:
        raise UsageError(
            "--draft_experiment says whose model --draft_weights are of: name them, too."
        )
    for name, verbs in _FLAG_VERBS.items():
        if values[name].present and verb not in verbs:
            raise UsageError(f"--{name} is for {' and '.join(verbs)}, not for `{verb}`.")
    hardware = values.hardware or []
    if verb in ("plan", "tune") and not hardware:
        raise UsageError(f"`{verb}` needs --hardware=NAME, for example --hardware=tpu-v5p-512.")
    if len(hardware) > 1 and verb != "plan":
        raise UsageError(f"`{verb}` takes one --hardware, not {len(hardware)}.")
    if values.save and len(hardware) > 1:
        raise UsageError("--save writes one compiled step; name one --hardware.")
    if verb == "plan" and values.remat and (values.save or values.html):
        raise UsageError(
            "--remat compiles nothing and prints a table: leave out --save and --html."
        )
