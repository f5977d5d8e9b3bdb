"""``nni-proxyless check``: check configuration and experiment files without starting anything."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ..core.errors import UserError
from ..core.user_path import user_path

__all__ = ["add_check_command"]


def add_check_command(commands: Any) -> None:
    """Add ``check`` to the commands of the parser."""
    check = commands.add_parser(
        "check", help="say what is wrong with configuration and experiment files, without starting anything",
        description="Check search.yml, train.yml and NNI's experiment files, the latter with the configuration that each of "
        "their trials would see, and print what they come to. No data, no device and no port is touched.",
    )  # fmt: skip
    check.add_argument("items", nargs="+", metavar="FILE | key=value",
                       help="files of any of the three kinds; overrides by dotted path, of a single search.yml or train.yml")  # fmt: skip
    check.set_defaults(run=_check)


def _check(arguments: argparse.Namespace) -> int:
    from ..config.read import file_and_overrides, is_file

    paths = [user_path(item, "check") for item in arguments.items if is_file(item)]
    overrides = file_and_overrides([item for item in arguments.items if not is_file(item)])[1]
    if not paths:
        raise UserError("check: which file?")
    if overrides and len(paths) > 1:
        raise UserError("check: overrides are of one file; allowed: a single search.yml or train.yml beside them")
    sound, problems = [], []
    for path in paths:
        try:
            sound.append(_summary(path, overrides))
        except UserError as error:
            problems.append(str(error))
    print("\n".join(sound), end="")
    if problems:
        raise UserError("\n".join(problems))
    return 0


def _summary(path: Path, overrides: list[tuple[str, str, Any]]) -> str:
    """The resolved configuration of a file, as YAML with comments."""
    from ..config.read import read_config
    from ..config.search_config import SearchConfig
    from ..config.train_config import TrainConfig

    kind = _kind(path)
    if kind == "experiment":
        if overrides:
            raise UserError(f"{path}: overrides of an experiment's trials stand in its trialCommand and searchSpace")
        return _summary_of_experiment(path)
    cls: Any = SearchConfig if kind == "search" else TrainConfig
    return f"# {path} is valid. With all that it leaves out:\n{_yaml(read_config(cls, path, overrides))}"


def _summary_of_experiment(path: Path) -> str:
    from ..config.nni_experiment import check_experiment

    found = check_experiment(path)
    trials = "trials until it is stopped" if found.n_trials is None else f"{found.n_trials} trials at most"
    if found.n_trials == 1:
        trials = "1 trial"
    lines = [f"# {path} is valid: {trials}, {found.concurrency} at a time, of", f"#   {found.command}"]
    lines += [f"# {name}: {values}" for name, values in found.space.items()]
    if found.first is None:
        return "\n".join(
            [*lines, "# which is no command of nni-proxyless: what its trials do with parameters is not checked.\n"]
        )
    return "\n".join([*lines, "# The first of its trials:\n"]) + _yaml(found.first)


def _yaml(config: Any) -> str:
    import yaml

    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _kind(path: Path) -> str:
    """The kind of a file: the one that most of its keys belong to."""
    from ..config.search_config import SearchConfig
    from ..config.strict_yaml import read_yaml
    from ..config.train_config import TrainConfig

    content = read_yaml(path, example="'space:', 'trialCommand:' or 'epochs:'")
    if not content:
        raise UserError(f"{path}: holds no key; expected some such as 'space:', 'trialCommand:' or 'epochs:'")
    known = {
        "search": sum(key in SearchConfig.model_fields for key in content),
        "experiment": 0,
        "train": sum(key in TrainConfig.model_fields for key in content),
    }
    if 2 * max(known.values()) <= len(content):  # else NNI knows fewer of them, and to ask it takes seconds
        from ..config.nni_experiment import EXPERIMENT_KEYS, folded

        known["experiment"] = sum(folded(key) in EXPERIMENT_KEYS for key in content)
    return max(known, key=lambda kind: known[kind])
