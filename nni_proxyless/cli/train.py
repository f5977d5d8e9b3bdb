"""``nni-proxyless train``: the final training of a derived network; alone, under torchrun, or as an NNI trial."""

from __future__ import annotations

import argparse
import logging
import time
import warnings
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from ..core.errors import UserError
from ..core.user_path import path_argument
from .log import resume_hint

__all__ = ["add_train_command"]

_PATIENCE = 30.0  # seconds; torchrun ends the other processes a moment after the first one


def add_train_command(commands: Any) -> None:
    """Add ``train`` to the commands of the parser."""
    train = commands.add_parser(
        "train", help="train a derived network to the end; alone, by torchrun, or as an NNI trial",
        description="Train the network of an architecture.json. docs/how-to/training.md explains the keys and the recipes.",
    )  # fmt: skip
    train.add_argument("architecture", nargs="?", type=path_argument, metavar="architecture.json | search.yml",
                       help="the network; a search.yml in trials of an evolution, whose parameters choose one of its space")  # fmt: skip
    train.add_argument("items", nargs="*", metavar="RECIPE | train.yml | key=value",
                       help="a recipe by name, or a configuration file; overrides by dotted path")  # fmt: skip
    train.add_argument("--epochs", type=int, metavar="N", help="the same as epochs=N; 0: only evaluate the weights")
    train.add_argument("--resume", type=path_argument, metavar="DIR",
                       help="go on with the training in this folder, which was stopped or killed")  # fmt: skip
    train.set_defaults(run=_train)


def _train(arguments: argparse.Namespace) -> int:
    from ..training.rank import rank

    if rank() == 0:
        return _run(arguments, talks=True)
    logging.getLogger("nni_proxyless").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    try:
        return _run(arguments, talks=False)
    except UserError:
        # The first process makes the same mistake and says so, upon which torchrun ends this one.
        time.sleep(_PATIENCE)
        raise


def _run(arguments: argparse.Namespace, *, talks: bool) -> int:
    from ..config.nni_evolution import is_search_file, require_evolvable
    from ..config.read import file_and_overrides, read_config
    from ..config.recipes import find_recipe
    from ..config.train_config import TrainConfig
    from ..search import nni_trial
    from ..search.run_folder import locked

    evolved = arguments.resume is None and is_search_file(arguments.architecture)
    if arguments.resume is not None:
        if not _unfinished(arguments):
            if talks:
                print(f"finished already: {arguments.resume / 'weights.safetensors'}")
            return 0
        config, path, folder = _as_it_began(arguments)
    else:
        if arguments.architecture is None:
            raise UserError("train: which network? Give the path of an architecture.json")
        _refuse_after_search(nni_trial)
        path, given = arguments.architecture, nni_trial.parameters()
        name, overrides = file_and_overrides(arguments.items)
        if arguments.epochs is not None:
            overrides.append(("command line", "epochs", arguments.epochs))
        file = None if name is None else find_recipe(name)
        config = read_config(TrainConfig, file, overrides if evolved else [*overrides, *given])
        if evolved:
            require_evolvable(config, str(file or "command line"))
            path = _write_evolved(path, {label: choice for _, label, choice in given})
        folder = nni_trial.output_folder(config.output or str(path.parent / "final"), "train")
    from ..models.architecture import Architecture
    from ..models.record import cost_figures

    architecture = Architecture.read(path)
    from ..training.loop import train  # takes seconds, and a mistake is to be said at once

    writes = talks and config.epochs > 0
    with (
        resume_hint("train", folder, "checkpoint/training.ckpt") if talks else nullcontext(),
        locked(folder, wait=nni_trial.inside_nni(), doing="trains") if writes else nullcontext(),
    ):
        result = train(config, path, folder, report=nni_trial.intermediate)
    if not talks:
        return 0
    nni_trial.final({**result.metrics, **(cost_figures(architecture) if evolved else {})})
    merit = result.merit
    in_int8 = result.metrics.get(f"test_{merit.name}_int8")
    said = "" if in_int8 is None else f"; in int8: {merit.in_words(in_int8)}"
    print(f"test {merit.name}: {merit.in_words(result.value)}{said}")
    if config.epochs > 0:
        by = "the held-out images" if result.judged_on == "validation" else "the test images themselves"
        print(f"best epoch: {result.best['epoch']} of {config.epochs}, chosen by {by}; its test {merit.name}: "
              f"{merit.in_words(result.best[f'test_{merit.name}'])}")  # fmt: skip
        print(f"weights: {folder / 'weights.safetensors'}")
    return 0


def _refuse_after_search(nni_trial: Any) -> None:
    """A trial gets its parameters once: a second process would wait for them forever."""
    if not nni_trial.inside_nni():
        return
    folder = nni_trial.output_folder(None, "train")
    if (folder / "search.yml").exists():
        raise UserError(
            "train: a search has run in this trial of NNI, which gives a trial its parameters once; allowed: trials that train alone; what "
            f"this one has found is trained by nni-proxyless train {folder / 'architecture.json'}, or the best of the experiment by "
            "nni-proxyless report --train-best"
        )


def _write_evolved(search: Path, choices: dict[str, Any]) -> Path:
    """Write the ``architecture.json`` of a trial of an evolution, for the network that its parameters choose in the space of a ``search.yml``."""
    from ..search import nni_trial

    if not nni_trial.inside_nni():
        raise UserError(
            f"train: {search} is no network; allowed: an architecture.json; a search.yml in trials of an evolution, to which NNI gives choices"
        )
    from ..search.evolved_space import EvolvedSpace  # takes seconds, and a mistake is to be said at once

    path = nni_trial.output_folder(None, "train") / "architecture.json"
    EvolvedSpace.read(search).record(choices).write(path)
    return path


def _unfinished(arguments: argparse.Namespace) -> bool:
    """Whether there is something to go on with; an error where nothing has ever begun."""
    from ..training.checkpoint import TrainingCheckpoint

    words = [*arguments.items, *(["--epochs"] if arguments.epochs is not None else [])]
    if words:
        raise UserError(f"--resume goes on with the training as it was; not allowed beside it: {' '.join(words)}")
    if TrainingCheckpoint(arguments.resume).exists:
        return True
    if not (arguments.resume / "result.json").exists():
        raise UserError(f"--resume {arguments.resume}: no checkpoint/training.ckpt there, so no training to go on with")
    return False


def _as_it_began(arguments: argparse.Namespace) -> tuple[Any, Path, Path]:
    """Configuration, architecture and folder of an unfinished training."""
    from pydantic import ValidationError

    from ..config.train_config import TrainConfig
    from ..training.checkpoint import TrainingCheckpoint

    checkpoint = TrainingCheckpoint(arguments.resume)
    state = checkpoint.read()
    try:
        config = TrainConfig.model_validate(state["config"])
    except ValidationError as error:
        raise UserError(f"{checkpoint.path}: written by another version of this program: {error}") from error
    return config, arguments.architecture or Path(state["architecture"]), arguments.resume
