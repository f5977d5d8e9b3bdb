"""Read ``search.yml`` and ``train.yml``, apply overrides, and check every value.

All problems of a file are reported at once, before data or a device is touched: unknown keys with the nearest
allowed one, wrong types, impossible values. A named section (space, data, strategy, estimator) takes, beside its own
keys, the arguments of what it names; these are checked against its signature and its constructor.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from ..core.errors import UserError, did_you_mean, on_one_line, shown
from ..core.stages import problem_of_child, problem_of_warmup
from . import registry
from .options import options_of
from .overrides import NamedPath, file_and_overrides, is_file, override
from .search_config import SearchConfig, as_it_was_meant
from .strict_yaml import parse_value, read_yaml
from .train_config import TrainConfig, problems_of_training

__all__ = [
    "file_and_overrides",
    "is_file",
    "parse_value",
    "problem_text",
    "problems_of_arguments",
    "read_config",
    "unknown_key",
]

Config = TypeVar("Config", bound=BaseModel)


class _Named(NamedTuple):
    """Where a named section stands, which group it names, and what is handed over by the search itself."""

    path: tuple[str | int, ...]
    group: str
    filled_in: frozenset[str]


NAMED = (
    _Named(("space",), "nni_proxyless.search_spaces", frozenset()),
    _Named(("data",), "nni_proxyless.datasets", frozenset()),
    _Named(("task",), "nni_proxyless.tasks", frozenset()),
    _Named(
        ("strategy",),
        "nni_proxyless.strategies",
        frozenset({"penalty", "seed", "mutation_hooks", "checkpoint_dir", "selector"}),
    ),
    _Named(("latency", "estimator"), "nni_proxyless.estimators", frozenset()),
)
LITERALLY = ConfigDict(strict=True, arbitrary_types_allowed=True, allow_inf_nan=False)
EXAMPLES: dict[Any, str] = {SearchConfig: "'space:' and 'strategy:'", TrainConfig: "'epochs:' and 'optimizer:'"}
LONGEST_NAME = 200


def read_config(
    cls: type[Config], path: str | Path | None, overrides: Sequence[tuple[str, str, Any]] = (), *, of_run: bool = False
) -> Config:
    """Read and check a configuration.

    Parameters
    ----------
    cls
        :class:`SearchConfig` or :class:`TrainConfig`.
    path
        A YAML file; None for defaults.
    overrides
        (source, dotted path, value), in the order in which they apply. The source is named in messages.
    of_run
        Whether a search has left the file: what it does not say is as it was then.

    Raises
    ------
    UserError
        With every problem that was found, one a line.
    """
    where = str(path) if path is not None else "command line"
    content = read_yaml(path, example=EXAMPLES[cls]) if path is not None else {}
    content = as_it_was_meant(content) if of_run else content
    content = _with_task_as_section(content)
    content, problems = override(content, overrides, [_place(cls, one) for one in _named_in(cls, content)])
    content = _with_task_as_section(content)
    sources = {tuple(dotted.split(".")): source for source, dotted, _ in overrides}

    def add_problem(
        location: Sequence[Any], text: str, unknown_key: str | None = None, also: Sequence[tuple[str, ...]] = ()
    ) -> None:
        keys = tuple(str(key) for key in location)
        culprit = keys if unknown_key is None else (*keys, unknown_key)
        source = next(
            (s for k, s in sources.items() if any(_is_about(k, one, text) for one in (culprit, *also))), where
        )
        problems.append(on_one_line(": ".join(part for part in (source, ".".join(keys), text) if part)))

    if cls is SearchConfig:
        content = _with_arguments_of_chosen(content, add_problem)  # from `strategies`
    config = None
    try:
        config = cls.model_validate(content)
    except ValidationError as error:
        for problem in error.errors():
            location = list(problem["loc"])
            if problem["type"] == "extra_forbidden":
                *location, key = location
                add_problem(location, unknown_key(key, list(_model_at(cls, location).model_fields)), str(key))
            else:
                add_problem(location, problem_text(problem))
    for named in _named_in(cls, content):
        # What a space of a run said was asked when it began: the file of its first weights may be gone.
        is_known = of_run and named.group == "nni_proxyless.search_spaces"
        _check_named(cls, named, content, add_problem, is_known)
    if config is not None and isinstance(config, SearchConfig):
        _check_costs(config, add_problem)
    if isinstance(config, TrainConfig):
        for where_it_is, text in problems_of_training(config):
            add_problem(where_it_is, text)
    if config is not None and isinstance(config, SearchConfig) and config.data.alphas + config.data.validation >= 1:
        add_problem(
            ("data",),
            f"alphas {config.data.alphas} and validation {config.data.validation} leave nothing for the weights; "
            "allowed: a sum below 1",
        )
    if isinstance(config, SearchConfig) and not problems:
        _check_stages(config, add_problem)
    if problems:
        raise UserError("\n".join(problems))
    assert config is not None
    return config


def _with_task_as_section(content: dict[str, Any]) -> dict[str, Any]:
    """``task: package.module:Class`` says the same as a section with that name alone."""
    task = content.get("task")
    return {**content, "task": {"name": task}} if isinstance(task, str) else content


def _is_about(overridden: tuple[str, ...], culprit: tuple[str, ...], text: str) -> bool:
    """Whether a problem is that of a value that was overridden; of a whole section it is, where it names the value."""
    if culprit[: len(overridden)] == overridden:
        return True
    return overridden[: len(culprit)] == culprit and re.search(rf"\b{re.escape(overridden[-1])}\b", text) is not None


def _named_in(cls: Any, content: Mapping[str, Any]) -> list[_Named]:
    """The sections that name something, of a file with this content; those of ``costs`` among them."""
    if cls is not SearchConfig:
        return []
    listed = content.get("costs")
    costs = [
        _Named(("costs", i, "estimator"), "nni_proxyless.estimators", frozenset())
        for i, cost in enumerate(listed if isinstance(listed, list) else ())
        if isinstance(cost, Mapping) and "estimator" in cost
    ]
    return [*NAMED, *costs]


def _place(cls: Any, named: _Named) -> NamedPath:
    fields = _model_at(cls, named.path).model_fields
    return NamedPath(tuple(map(str, named.path)), frozenset(fields), fields["name"].default)


def _with_arguments_of_chosen(content: dict[str, Any], add_problem: Any) -> dict[str, Any]:
    """Check what `strategies` holds for each strategy, and put that of the chosen one beneath `strategy`.

    Each is checked, not only the chosen one: an experiment says what is wrong with its last trial before the first.
    """
    strategies, strategy = content.get("strategies"), content.get("strategy", {})
    if not isinstance(strategies, Mapping) or not isinstance(strategy, Mapping):
        return content  # the model says so, if it is wrong
    (named,) = [named for named in NAMED if named.path == ("strategy",)]
    sound = {
        name
        for name, arguments in strategies.items()
        if isinstance(name, str)
        and isinstance(arguments, Mapping)
        and _check_arguments(named, ("strategies", name), name, arguments, (), add_problem)
    }
    chosen = strategy.get("name", _model_at(SearchConfig, ("strategy",)).model_fields["name"].default)
    if not isinstance(chosen, str) or chosen not in sound:
        return content
    return {**content, "strategy": {**strategies[chosen], **strategy}}


def _check_named(cls: Any, named: _Named, content: Mapping[str, Any], add_problem: Any, is_known: bool) -> None:
    fields = _model_at(cls, named.path).model_fields
    section: Any = content
    for key in named.path:
        try:
            section = section[key]
        except (KeyError, TypeError):
            section = {}
    if not isinstance(section, Mapping):
        return  # complained about already
    name = section.get("name", fields["name"].default)
    if isinstance(name, str):
        _check_arguments(named, named.path, name, section, tuple(fields), add_problem, is_known)


def problems_of_arguments(group: str, name: str, given: Mapping[str, Any], filled_in: Collection[str]) -> list[str]:
    """What is wrong with arguments that stand in no section of its own, for what has this name; ``filled_in`` are given by others."""
    problems: list[str] = []

    def add_problem(location: Sequence[Any], text: str, *_: Any) -> None:
        problems.append(": ".join([*map(str, location), text]))

    _check_arguments(_Named((), group, frozenset(filled_in)), (), name, given, (), add_problem)
    return problems


def _check_arguments(
    named: _Named, path: tuple[str | int, ...], name: str, section: Mapping[Any, Any], fields: Sequence[str], add_problem: Any,
    is_known: bool = False,
) -> bool:  # fmt: skip
    """Check a section's keys, but for those in ``fields``, against what it names; says whether all is well. ``is_known``: its constructor has
    taken them before."""
    name_path = (*path, "name") if "name" in fields else path
    try:
        if len(name) > LONGEST_NAME:
            raise ValueError(f"{shown(name)} is unknown")
        options = options_of(named.group, name)
    except (ValueError, TypeError) as error:  # TypeError: something that has no signature
        add_problem(name_path, str(error))
        return False

    parameters = {
        n: p for n, p in options.parameters.items() if n not in named.filled_in and n != "engine" and n != "model_space"
    }
    own = [n for n in fields if n not in parameters]
    given = {k: v for k, v in section.items() if k not in own}
    sound = True
    for key in given:
        if key not in parameters:
            add_problem(path, unknown_key(key, [*own, *parameters]), str(key))
            sound = False
    for key, value in given.items():
        if key in parameters and (problem := _type_problem(options.types.get(key, Any), value)):
            add_problem((*path, key), problem)
            sound = False
    missing = [n for n, p in parameters.items() if p.default is p.empty and n not in given]
    if missing:
        add_problem(path, f"{name} needs {', '.join(missing)}")
        return False
    if sound and not is_known and (problem := options.refusal(given)):
        add_problem(path, problem)
        return False
    return sound


def _type_problem(annotation: Any, value: Any) -> str | None:
    try:
        expected = TypeAdapter(annotation, config=LITERALLY)
    except Exception:
        return None  # an annotation that pydantic does not know; the constructor will say
    try:
        expected.validate_python(value)
    except ValidationError as error:
        return "; ".join(dict.fromkeys(problem_text(problem) for problem in error.errors()))
    return None


def _check_costs(config: SearchConfig, add_problem: Any) -> None:
    """Names that would be reported over one another, and multipliers that would fight."""
    seen: dict[str, str] = {"ms": "latency"}
    automatic = ["latency.weight"] if config.latency.target_ms is not None and config.latency.weight == "auto" else []
    for i, cost in enumerate(config.costs):
        if cost.label in seen:
            add_problem(
                ("costs", i, "name"), f"{cost.label!r} is the name of {seen[cost.label]} already; allowed: another"
            )
        seen.setdefault(cost.label, f"costs.{i}")
        if cost.weight == "auto":
            if automatic:
                add_problem(
                    ("costs", i, "weight"),
                    f"'auto' is not allowed here, since {automatic[0]} is auto and their multipliers would fight; allowed: "
                    "a number of 0 or more",
                )
            automatic.append(f"costs.{i}.weight")


def _check_stages(config: SearchConfig, add_problem: Any) -> None:
    """A search that would come to its end without having searched, by the options of the strategies that come with this package."""
    if not (registry.value_of("nni_proxyless.strategies", config.strategy.name) or "").startswith("nni_proxyless."):
        return  # what others mean by such names, only they know
    parameters = options_of("nni_proxyless.strategies", config.strategy.name).parameters
    defaults = {name: parameter.default for name, parameter in parameters.items()}
    options, epochs = {**defaults, **config.strategy.arguments}, config.training.epochs
    if "search_epochs" in options:
        problem = problem_of_child(options["warmup_epochs"], options["search_epochs"], epochs)
    elif "warmup_epochs" in options:
        problem = problem_of_warmup(options["warmup_epochs"], options.get("arc_start_epoch", 0), epochs)
    else:
        return
    if problem:
        add_problem(("strategy",), problem, also=[("training", "epochs")])


def _model_at(cls: Any, location: Sequence[Any]) -> Any:
    for key in location:
        cls = get_args(cls)[0] if isinstance(key, int) else cls.model_fields[key].annotation  # int: of a list
        if type(None) in get_args(cls):  # a section that may be left out
            cls = get_args(cls)[0]
    return cls


def unknown_key(key: object, allowed: Sequence[str]) -> str:
    """The message for an unknown key."""
    return f"unknown key {shown(str(key))}; allowed: {', '.join(allowed) or 'none'}.{did_you_mean(key, allowed)}"


def problem_text(problem: Any) -> str:
    """Word a validation error of pydantic for the reader of a configuration file."""
    value = problem.get("input")
    kind = problem["type"]
    if kind == "missing":
        return "is missing"
    allowed = {
        "int_type": "a whole number", "float_type": "a number", "string_type": "text", "bool_type": "true or false",
        "model_type": "a section with keys", "model_attributes_type": "a section with keys", "dict_type": "a section with keys",
        "none_required": "nothing (null)", "is_instance_of": None, "list_type": "a list", "tuple_type": "a list",
        "finite_number": "a finite number", "invalid_key": "text",
    }  # fmt: skip
    context = problem.get("ctx", {})
    if allowed.get(kind):
        text = allowed[kind]
    elif kind in ("greater_than", "greater_than_equal", "less_than", "less_than_equal"):
        sign = {
            "greater_than": "greater than",
            "greater_than_equal": "at least",
            "less_than": "less than",
            "less_than_equal": "at most",
        }
        text = f"{sign[kind]} {context[next(k for k in ('gt', 'ge', 'lt', 'le') if k in context)]}"
    elif kind == "literal_error":
        expected = context["expected"]  # "'a', 'b' or 'c'"
        near = did_you_mean(value, re.findall(r"'([^']*)'", expected))
        text = f"{expected}.{near}"
    else:
        text = problem["msg"].removeprefix("Value error, ")
    return f"{shown(value)} is not allowed here; allowed: {text}"
