"""Write a pair of files to start from: the shipped ones, with the user's data set, space, targets and strategy."""

from __future__ import annotations

import itertools
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from yaml import safe_load

from ..core.atomic_files import write_text
from ..core.errors import UserError, did_you_mean
from . import registry
from .edit_yaml import remove, set_value
from .options import options_of
from .read import read_config
from .search_config import SearchConfig
from .shipped import shipped
from .strict_yaml import parse_value

__all__ = ["write_start"]

TEMPLATES = {  # strategy -> the shipped pair
    "proxyless": ("proxyless.yml", "search.yml"),
    "proxyless-reinforce": ("proxyless-reinforce.yml", "search_reinforce.yml"),
    "dsnas": ("dsnas.yml", "search_dsnas.yml"),
}
PRESETS = {"cifar10": "cifar", "cifar100": "cifar", "folder": "imagenet"}
SMALL_IMAGES = ("digits", "fashion-mnist", "cifar10", "cifar100")
CHOOSE_WIDTHS = ("proxyless-reinforce", "dsnas")  # they may search stages of several widths
# What search.yml says of large data sets.
LARGE: dict[str, dict[str, Any]] = {
    "all": {
        "data.batch_size": 128, "data.workers": 4, "strategy.arc_learning_rate": 0.001, "training.epochs": 200,
        "training.optimizer": "sgd", "training.learning_rate": 0.05, "training.label_smoothing": 0.1,
        "trainer.accelerator": "auto", "space.shared_weights": False,
    },
    "proxyless": {"strategy.warmup_epochs": 40, "strategy.arc_update_every": 5, "strategy.entropy_weight": 0},
    "proxyless-reinforce": {"strategy.warmup_epochs": 40, "strategy.arc_update_every": 16},
    "dsnas": {"strategy.warmup_epochs": 15, "strategy.search_epochs": 65, "strategy.fix_gap": 0.3, "strategy.entropy_weight": 0},
}  # fmt: skip


def write_start(
    folder: Path, *, data: str, data_root: str | None, space: str, targets: Sequence[str], strategy: str,
    model: str | None = None,
) -> tuple[Path, Path]:  # fmt: skip
    """Write an experiment and its ``search.yml``.

    Parameters
    ----------
    folder
        Created if it does not exist. Files in it are not overwritten.
    data, space, strategy
        Names as in ``search.yml``, and the strategy ``proxyless-reinforce``.
    data_root
        Of data sets that have one.
    targets
        A search for each.
    model
        Of timm, that the space is made around, in the place of the one that is named.

    Returns
    -------
    tuple
        Paths of the experiment and of the search.

    Raises
    ------
    UserError
        An unknown name, a target that is none, a file that is there already. Nothing is written then.
    """
    known = [*TEMPLATES, *(n for n in registry.names("nni_proxyless.strategies") if n not in TEMPLATES)]
    if strategy not in known and ":" not in strategy:
        raise UserError(
            f"--strategy: '{strategy}' is unknown; allowed: {', '.join(known)}, or package.module:Class."
            f"{did_you_mean(strategy, known)}"
        )
    experiment_path = folder / (f"{strategy}.yml" if ":" not in strategy else "experiment.yml")
    search_path = folder / "search.yml"
    there = [path for path in (experiment_path, search_path) if path.exists()]
    if there:
        raise UserError(
            f"{' and '.join(map(str, there))}: there already, and left as {'it is' if len(there) == 1 else 'they are'}; "
            "allowed: another folder, nni-proxyless init DIR"
        )

    space = space if model is None else "timm"
    values = [parse_value(target, "--target") for target in targets]
    experiment_file, search_file = TEMPLATES.get(strategy, TEMPLATES["proxyless"])
    search = _search(shipped(search_file).read_text(encoding="utf-8"), data, data_root, space, strategy)
    if model is not None:
        search = _around(search, model, data, strategy)
    search = _with_head(
        set_value(search, "latency.target_ms", values[0]),
        f"# One search of {experiment_path.name}, which chooses the target. All keys, with their defaults: nni-proxyless check search.yml\n"
        "# Every key can be overridden by its dotted path: nni-proxyless search search.yml training.epochs=60\n",
    )
    experiment = shipped(experiment_file).read_text(encoding="utf-8")
    experiment = set_value(
        experiment, "experimentName", f"{strategy} on {data} for {len(values)} latency target{'s' * (len(values) > 1)}"
    )
    experiment = set_value(experiment, "trialCommand", "nni-proxyless search search.yml")
    experiment = set_value(experiment, "searchSpace.latency.target_ms", {"_type": "choice", "_value": values})
    registered = "proxyless" if strategy in TEMPLATES and strategy != "dsnas" else strategy
    experiment = set_value(experiment, "searchSpace.strategy.name", {"_type": "choice", "_value": [registered]})
    experiment = set_value(experiment, "maxTrialNumber", len(values))
    experiment = _with_head(
        experiment, f"# One search for each latency target:  nnictl create --config {experiment_path.name}\n"
    )

    sys.path.append(str(folder.resolve()))  # a module of the user's lies beside the files, where trials run
    given = [("--data", "data.name", data), ("--space", "space.name", space)]
    given += [("--from", "space.model", model)] if model is not None else []
    given += [("--data-root", "data.root", data_root)] if data_root is not None else []
    given += [("--strategy", "strategy.name", strategy)] if strategy not in TEMPLATES else []
    # What differs from the shipped pair is looked at as each trial would; the rest of the experiment is NNI's, whose own check
    # (nni-proxyless check) takes seconds to import.
    with tempfile.TemporaryDirectory() as place:
        problems: dict[str, None] = {}
        (Path(place) / search_path.name).write_text(search, encoding="utf-8")
        for value in values:
            target = ("--target", "latency.target_ms", value)
            try:
                read_config(SearchConfig, Path(place) / "search.yml", [*given, target])
            except UserError as error:
                problems.update(dict.fromkeys(str(error).replace(f"{place}/", "").splitlines()))
        if problems:
            raise UserError("\n".join(problems))
    try:
        write_text(search_path, search)
        write_text(experiment_path, experiment)
    except OSError as error:
        raise UserError(f"{error.filename or folder}: {error.strerror}") from error
    return experiment_path, search_path


def _search(text: str, data: str, data_root: str | None, space: str, strategy: str) -> str:
    """The shipped search with other names, and what goes with them."""
    if strategy not in TEMPLATES:  # of its arguments nothing is known here
        for key in safe_load(text)["strategy"]:
            text = remove(text, f"strategy.{key}")
        text = set_value(text, "strategy.name", strategy)
    large = data in PRESETS
    changes = {**LARGE["all"], **LARGE.get(strategy, {})} if large else {}
    for path, value in changes.items():
        if path != "strategy.arc_learning_rate" or strategy in TEMPLATES:
            text = set_value(text, path, value)
    if large:
        text = remove(text, "trainer.threads")

    text = set_value(text, "data.name", data)
    if data_root is not None:
        text = set_value(text, "data.root", data_root)
    elif data == "folder":
        raise UserError("--data folder needs --data-root PATH: a folder that holds train/CLASS/* and val/CLASS/*")
    if "table" in safe_load(text)["latency"]:
        text = set_value(text, "latency.table", f"tables/{data.rpartition(':')[2]}.yaml")

    text = set_value(text, "space.name", space)
    try:
        options = options_of("nni_proxyless.search_spaces", space)
    except ValueError as error:
        raise UserError(f"--space: {error}") from error
    preset, presets = PRESETS.get(data, "small"), get_args(options.types.get("preset"))
    if presets and preset not in presets:
        preset = options.parameters["preset"].default
    text = set_value(text, "space.preset", preset, ", ".join(presets) or None)
    for key in safe_load(text)["space"].keys() - {"name"} - set(options.parameters):
        text = remove(text, f"space.{key}")
    if not safe_load(text)["space"].get("shared_weights") and "size_bias" in safe_load(text)["strategy"]:
        text = remove(text, "strategy.size_bias")
    return text


def _around(text: str, model: str, data: str, strategy: str) -> str:
    """A search around a model of timm."""
    text = set_value(text, "space.model", model, "of timm; others: nni-proxyless init --list")
    if data in SMALL_IMAGES:
        text = set_value(text, "space.stem_stride", 1, "for small images; left out: the model's, 2")
    text = set_value(
        text,
        "space.weights",
        None,
        "what its candidates start from: pretrained, or a file with the weights of the model",
    )
    text = set_value(text, "space.kernels", [3, 5], "to choose from, beside each block's own")
    text = set_value(text, "space.expansions", [0.5, 1, 1.5], "shares of each block's expanded channels")
    if strategy in CHOOSE_WIDTHS:
        text = set_value(text, "space.widths", [0.75, 1, 1.25], "shares of each stage's channels")
    return text


def _with_head(text: str, head: str) -> str:
    """Another comment at the top: that of a shipped file speaks of where it lies."""
    lines = text.splitlines(keepends=True)
    return head + "".join(itertools.dropwhile(lambda line: line.startswith("#"), lines))
