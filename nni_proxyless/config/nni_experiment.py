"""NNI's experiment files, checked before ``nnictl create`` starts anything.

NNI answers a wrong file with a traceback, and a wrong search space with one failed trial after the other. Here both are said
at once: its own keys, and for ``nni-proxyless search`` and ``train`` the configuration that each trial would see.
"""

from __future__ import annotations

import dataclasses
import importlib
import itertools
import math
import os
import re
import shlex
import sys
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any, Literal

from nni.experiment.config import ExperimentConfig
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from ..core.errors import UserError, did_you_mean, on_one_line, shown
from ..core.nni_compat import (
    TrainingServiceConfig,
    _AlgorithmConfig,
    camel_case,
    create_validator_instance,
    get_all_algo_meta,
    get_builtin_module_class_name,
    unset_base_path,
)
from ..core.user_path import of_another_machine, user_path
from . import registry
from .nni_evolution import TUNER, is_search_file, problems_of_tuner, require_evolvable
from .nni_search_space import combinations, space_problem, spec_in_words
from .read import file_and_overrides, problem_text, read_config, unknown_key
from .recipes import find_recipe
from .search_config import SearchConfig
from .shipped import shipped
from .strict_yaml import YAML_OF_NNI, read_yaml
from .train_config import TrainConfig

__all__ = ["EXPERIMENT_KEYS", "CheckedExperiment", "check_experiment", "folded"]

LONGEST_REASON = 400  # characters: NNI repeats what it refuses
ENDS_OF_COMMAND = {"&&", "||", ";", "|", "&", ">", ">>", "<", "2>", "2>&1"}


def folded(key: object) -> str:
    """A key as NNI compares it: without capitals and underscores."""
    return str(key).lower().replace("_", "")


def _keys(cls: Any) -> dict[str, str]:
    """Folded -> as NNI's documentation writes it."""
    return {folded(f.name): camel_case(f.name) for f in dataclasses.fields(cls)}


EXPERIMENT_KEYS = _keys(ExperimentConfig)


def _duration(value: Any) -> Any:
    if value is not None and not (isinstance(value, str) and re.fullmatch(r"\d+(\.\d+)?[smhdSMHD]", value.strip())):
        raise ValueError("a number with a unit, s, m, h or d, such as 90m")
    return value


Duration = Annotated[str | int | None, BeforeValidator(lambda v: v if type(v) is int and v > 0 else _duration(v))]


class _ExtraAllowed(BaseModel):
    """Types and ranges of keys that NNI knows; which keys it knows, it says itself."""

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)


class _Algorithm(_ExtraAllowed):
    name: str | None = None
    className: str | None = None
    codeDirectory: str | None = None
    classArgs: dict[str, Any] | None = None


class _Experiment(_ExtraAllowed):
    experimentName: str | None = None
    experimentType: Literal["hpo"] = "hpo"
    searchSpaceFile: str | None = None
    searchSpace: dict[str, Any] | None = None
    trialCommand: str | None = None
    trialCodeDirectory: str = "."
    trialConcurrency: int = Field(ge=1)
    trialGpuNumber: int | None = Field(None, ge=0)
    maxTrialNumber: int | None = Field(None, ge=1)
    maxExperimentDuration: Duration = None
    maxTrialDuration: Duration = None
    useAnnotation: Literal[False] = False
    debug: bool = False
    logLevel: Literal["fatal", "error", "warning", "info", "debug", "trace"] | None = None
    experimentWorkingDirectory: str = "~/nni-experiments"
    tuner: _Algorithm | None = None
    assessor: _Algorithm | None = None
    advisor: _Algorithm | None = None


@dataclasses.dataclass(frozen=True)
class CheckedExperiment:
    """An experiment that NNI takes, and whose trials get what they can use.

    Attributes
    ----------
    command
        What every trial runs.
    space
        Parameter -> its values in words.
    n_trials
        At most; None: until it is stopped.
    concurrency
        Trials at a time.
    first
        Configuration of the first combination; None where trials run something else.
    """

    command: str
    space: dict[str, str]
    n_trials: int | None
    concurrency: int
    first: SearchConfig | TrainConfig | None


def check_experiment(path: Path) -> CheckedExperiment:
    """Check an experiment file as NNI, its tuner and its trials would.

    Raises
    ------
    UserError
        With every problem that was found, one a line.
    """
    raw = read_yaml(path, example="'trialCommand:' and 'searchSpace:'", loader=YAML_OF_NNI)
    problems: list[str] = []

    def add_problem(location: str, text: str) -> None:
        problems.append(on_one_line(": ".join(part for part in (str(path), location, text) if part)))

    content = _known(raw, EXPERIMENT_KEYS, "", add_problem)
    for name in ("tuner", "assessor", "advisor"):
        if isinstance(content.get(name), Mapping):
            content[name] = _known(content[name], _keys(_AlgorithmConfig), name, add_problem)
    _check_service(content, add_problem)
    try:
        _Experiment.model_validate(content)
    except ValidationError as error:
        for problem in error.errors():
            add_problem(".".join(map(str, problem["loc"])), problem_text(problem))
    if problems:
        raise UserError("\n".join(problems))

    space = _read_space(path, content, add_problem)
    for name in ("tuner", "assessor", "advisor"):
        if content.get(name) is not None:
            _check_algorithm(name, content[name], add_problem)
    if not content.get("tuner") and not content.get("advisor"):
        add_problem("tuner", "is missing")
    elif not space and folded((content.get("tuner") or {}).get("name")) == "gridsearch":
        add_problem(
            "searchSpace", "is empty; allowed with the tuner GridSearch: at least one parameter, for it waits for one"
        )
    command = content.get("trialCommand") or _of_service(content).get("trialCommand")
    if not command:
        add_problem("trialCommand", "is missing")
    if problems:
        raise UserError("\n".join(problems))
    assert command is not None
    _check_with_nni(path)

    folder = path.parent / user_path(content.get("trialCodeDirectory") or ".", f"{path}: trialCodeDirectory")
    with nullcontext() if _runs_here(content) else of_another_machine():
        first = _check_trials(path, folder, command, space)
    if (tuner := content.get("tuner") or {}).get("className") == TUNER:
        for said in problems_of_tuner(tuner.get("classArgs") or {}, folder):
            add_problem("tuner.classArgs", said)
    if problems:
        raise UserError("\n".join(problems))
    values = {name: spec_in_words(spec) for name, spec in space.items()}
    return CheckedExperiment(
        command, values, _n_trials(content, space), content["trialConcurrency"], first
    )  # fmt: skip


# -- what NNI itself reads -----------------------------------------------------------------------------------------


def _known(section: Mapping[Any, Any], known: Mapping[str, str], location: str, add_problem: Any) -> dict[str, Any]:
    """The section with its keys as NNI's documentation writes them."""
    found: dict[str, Any] = {}
    for key, value in section.items():
        name = known.get(folded(key))
        if name is None:
            add_problem(location, unknown_key(key, list(known.values())))
        elif name in found:
            add_problem(location, f"key {name} stands there twice; NNI reads {shown(key)} as the same")
        else:
            found[name] = value
    return found


def _of_service(content: Mapping[str, Any]) -> dict[str, Any]:
    service = content.get("trainingService")
    return dict(service) if isinstance(service, Mapping) else {}


def _runs_here(content: Mapping[str, Any]) -> bool:
    services = content["trainingService"]
    return all(service["platform"] == "local" for service in (services if isinstance(services, list) else [services]))


def _check_service(content: dict[str, Any], add_problem: Any) -> None:
    """The training services, one or several: their platform, and the keys that it knows."""
    given = content.get("trainingService")
    if given is None:
        add_problem("trainingService", "is missing")
        return
    platforms = _platforms()
    for service in given if isinstance(given, list) else [given]:
        if not isinstance(service, Mapping):
            add_problem("trainingService", f"{shown(service)} is not allowed here; allowed: a section with keys")
            continue
        platform = service.get("platform")
        if not isinstance(platform, str) or platform not in platforms:
            add_problem(
                "trainingService.platform",
                f"{shown(platform)} is not allowed here; allowed: {', '.join(sorted(platforms))}."
                f"{did_you_mean(platform, platforms)}",
            )
            continue
        _known(service, _keys(platforms[platform]), "trainingService", add_problem)


def _platforms() -> dict[str, Any]:
    found, todo = {}, [TrainingServiceConfig]
    while todo:
        cls = todo.pop()
        todo += cls.__subclasses__()
        if isinstance(name := getattr(cls, "platform", None), str):
            found[name] = cls
    return found


def _check_algorithm(what: str, section: Mapping[str, Any], add_problem: Any) -> None:
    """A tuner or an assessor: its name, and its arguments as far as NNI knows them."""
    if section.get("className") is not None:
        return  # the user's own
    sort = "assessor" if what == "assessor" else "tuner"
    known = {meta.name: meta for meta in get_all_algo_meta() if meta.algo_type == sort}
    name = section.get("name")
    fitting = {folded(n): n for n in known} | {folded(m.alias): n for n, m in known.items() if m.alias}
    if name is None or folded(name) not in fitting:
        said = "is missing" if name is None else f"{shown(name)} is unknown"
        add_problem(f"{what}.name", f"{said}; allowed: {', '.join(sorted(known))}.{did_you_mean(name, known)}")
        return
    arguments = section.get("classArgs") or {}
    name = fitting[folded(name)]
    module, cls = get_builtin_module_class_name(f"{sort}s", name)
    try:
        accepted = registry.accepted_arguments(getattr(importlib.import_module(module), cls))
        validator = create_validator_instance(f"{sort}s", name)
    except ImportError as error:  # of packages that NNI leaves to its users
        add_problem(f"{what}.name", f"{name} cannot be used here: {error}")
        return
    preset = known[name].class_args or {}
    for key in arguments:
        if key not in accepted:
            add_problem(f"{what}.classArgs", unknown_key(key, [n for n in accepted if n not in preset]))
            return
    try:
        if validator is not None:
            validator.validate_class_args(**arguments)
    except Exception as error:  # of the package schema, or the validator's own
        add_problem(f"{what}.classArgs", " ".join(str(error).split()))


def _check_with_nni(path: Path) -> None:
    """NNI's own reading has the last word."""
    try:
        ExperimentConfig.load(path).validate()
    except Exception as error:  # it raises what it comes by
        said = on_one_line(" ".join(str(error).split())) or "it gives no reason"
        raise UserError(f"{path}: NNI refuses it: {type(error).__name__}: {said[:LONGEST_REASON]}") from error
    finally:
        unset_base_path()  # load() forgets to, when it fails


# -- the search space ----------------------------------------------------------------------------------------------


def _read_space(path: Path, content: Mapping[str, Any], add_problem: Any) -> dict[str, Any]:
    space, file = content.get("searchSpace"), content.get("searchSpaceFile")
    if (space is None) == (file is None):
        add_problem(
            "searchSpace", "is missing" if space is None else "is given beside searchSpaceFile; allowed: one of them"
        )
        return {}
    if file is not None:
        space = read_yaml(path.parent / file, loader=YAML_OF_NNI)
    assert isinstance(space, Mapping)
    for name, spec in space.items():
        if problem := space_problem(name, spec):
            add_problem(f"searchSpace.{name}", problem)
    return dict(space)


def _n_trials(content: Mapping[str, Any], space: Mapping[str, Any]) -> int | None:
    most = content.get("maxTrialNumber")
    if folded((content.get("tuner") or {}).get("name")) != "gridsearch":
        return most
    if any(spec["_type"] not in ("choice", "randint") for spec in space.values()):
        return most  # GridSearch divides ranges without end
    grid = math.prod(
        len(spec["_value"]) if spec["_type"] == "choice" else spec["_value"][1] - spec["_value"][0] for spec in space.values()
    )  # fmt: skip
    return grid if most is None else min(grid, most)


# -- what a trial reads --------------------------------------------------------------------------------------------


def _check_trials(path: Path, folder: Path, command: str, space: dict[str, Any]) -> SearchConfig | TrainConfig | None:
    """Resolve the configuration of every combination of parameters; of other people's commands nothing is known."""
    where = f"{path}: trialCommand"
    try:
        words = shlex.split(command, comments=True)
    except ValueError as error:
        raise UserError(f"{where}: {error}") from error
    ours = next((i for i, word in enumerate(words) if Path(word).name in ("nni-proxyless", "nni_proxyless")), None)
    if ours is None:
        return None
    words = list(itertools.takewhile(lambda word: word not in ENDS_OF_COMMAND, words[ours + 1 :]))
    if not words or words[0] not in ("search", "train"):
        said = shown(words[0]) if words else "no command"
        raise UserError(
            f"{where}: {said} is not allowed here; allowed: search, train.{did_you_mean(words and words[0], ('search', 'train'))}"
        )
    items = [word for word in words[1:] if not word.startswith("-")]
    cls: Any = SearchConfig if words[0] == "search" else TrainConfig
    network = None
    if cls is TrainConfig:
        if not items:
            raise UserError(f"{where}: train: which network? Give the path of an architecture.json")
        network = user_path(items.pop(0), where)
        _must_be_there(where, folder, str(network))
    name, overrides = file_and_overrides(items, where)
    if name is None:
        file = shipped("search.yml") if cls is SearchConfig else None
    elif cls is TrainConfig and not os.path.exists(folder / name) and (recipe := find_recipe(name)).is_absolute():
        file = recipe
    else:
        _must_be_there(where, folder, name)
        file = folder / name
    if str(folder.resolve()) not in sys.path:
        sys.path.append(str(folder.resolve()))  # package.module:Class of a file beside search.yml

    first, problems = None, {}
    for parameters in combinations(space):
        try:
            config = read_config(
                cls, file, [*overrides, *((f"{path}: searchSpace", n, v) for n, v in parameters.items())]
            )
            if is_search_file(network):
                require_evolvable(config, str(file or where))
        except UserError as error:
            problems.update(dict.fromkeys(str(error).splitlines()))
        else:
            first = first or config
    if problems:
        raise UserError("\n".join(problems))
    return first


def _must_be_there(where: str, folder: Path, name: str) -> None:
    if not os.path.isfile(folder / name):  # unlike Path.is_file(), False for any name
        raise UserError(f"{where}: no file {shown(name)} in {folder}, the trialCodeDirectory, where trials run")
