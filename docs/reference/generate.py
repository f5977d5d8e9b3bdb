"""Write the pages of this folder that follow from the code: keys of search.yml and train.yml, commands.

    python docs/reference/generate.py

``tests/test_docs_reference.py`` compares the pages with what this would write.
"""

from __future__ import annotations

import argparse
import inspect
import re
import types
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from nni_proxyless.cli.main import _parser
from nni_proxyless.config import registry
from nni_proxyless.config.nni_evolution import TUNER
from nni_proxyless.config.options import options_of
from nni_proxyless.config.read import NAMED
from nni_proxyless.config.search_config import SearchConfig
from nni_proxyless.config.train_config import TrainConfig
from nni_proxyless.core.atomic_files import write_text
from nni_proxyless.search.evolution_tuner import EvolutionTuner

HERE = Path(__file__).resolve().parent
HEAD = "<!-- Written by docs/reference/generate.py; a test compares. Change the code, not this page. -->"
MULTI_TRIAL = "nni_proxyless.multi_trial_strategies"
SAME_FOR_ALL = {"model_space", "engine"}  # of NNI's strategies; no key of a file
WORDS = {
    int: "whole number",
    float: "number",
    str: "text",
    bool: "true, false",
    Any: "",
    list: "list",
    Sequence: "list",
    dict: "section",
}
BOUNDS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}


# -- values and types as a file has them -------------------------------------------------------------------------------


def default(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(f"{v:.4g}" if isinstance(v, float) else str(v) for v in value) + "]"
    return str(value)


def kind(annotation: Any) -> str:
    """``int | None`` -> ``whole number``; a Literal -> its values."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return kind(get_args(annotation)[0])
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in get_args(annotation))
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(filter(None, map(kind, get_args(annotation)))))
    if origin is None and inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        return "section"
    return WORDS.get(origin or annotation, "")


def bounds(metadata: Any) -> str:
    said = [f"{sign} {getattr(one, k)}" for one in metadata for k, sign in BOUNDS.items() if hasattr(one, k)]
    return ", ".join(said)


def row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


# -- keys --------------------------------------------------------------------------------------------------------------


def section_of(annotation: Any) -> type[BaseModel] | None:
    """The model of a section, of one that may be left out, or of a list of them."""
    if inspect.isclass(annotation) and not get_args(annotation):
        return annotation if issubclass(annotation, BaseModel) else None
    return next(filter(None, map(section_of, get_args(annotation))), None)


def keys(fields: dict[str, FieldInfo]) -> Iterator[str]:
    yield from ("| key | default | allowed | |", "| --- | --- | --- | --- |")
    for name, field in fields.items():
        inner = section_of(field.annotation)
        standing = "required" if field.is_required() else "" if inner else default(field.get_default())
        allowed = "" if inner else ", ".join(filter(None, (kind(field.annotation), bounds(field.metadata))))
        yield row(f"`{name}`", standing, allowed, field.description or "")


def sections(cls: type[BaseModel], path: str = "") -> Iterator[str]:
    for name, field in cls.model_fields.items():
        inner = section_of(field.annotation)
        if inner is None:
            continue
        here = f"{path}{name}"
        yield from ("", f"## {here}", "")
        # The estimators of costs are those of the latency.
        named = next((one for one in NAMED if ".".join(map(str, one.path)) == here), None)
        yield from keys(inner.model_fields)
        if named is not None:
            for thing in registry.names(named.group):
                yield from arguments(named.group, thing, named.filled_in | SAME_FOR_ALL)
        if here != "costs":
            yield from sections(inner, f"{here}.")


def arguments(group: str, name: str, left_out: frozenset[str] | set[str]) -> Iterator[str]:
    """Keys beside a ``name``: the arguments of what it names."""
    options = options_of(group, name)
    found = {n: p for n, p in options.parameters.items() if n not in left_out}
    yield from ("", f"`name: {name}`" + ("" if found else " takes no arguments."))
    if not found:
        return
    said = described(registry.load(group, name))
    yield from ("", "| key | default | allowed | |", "| --- | --- | --- | --- |")
    for key, parameter in found.items():
        standing = "required" if parameter.default is parameter.empty else default(parameter.default)
        allowed = [kind(options.types.get(key, Any)), *ranges(parameter.annotation)]
        yield row(f"`{key}`", standing, ", ".join(filter(None, allowed)), said.get(key, ""))


def ranges(annotation: Any) -> list[str]:
    """What the type of an option declares beside its kind."""
    return (
        [str(one) for one in get_args(annotation) if hasattr(one, "allows")]
        if get_origin(annotation) is Annotated
        else []
    )


def described(factory: Any) -> dict[str, str]:
    """Argument -> what the docstrings of a function, or of a class and its bases, say of it."""
    found: dict[str, str] = {}
    for one in inspect.getmro(factory) if inspect.isclass(factory) else (factory,):
        text = inspect.cleandoc(one.__doc__ or "")
        part = re.search(r"^Parameters\n-+\n(.*?)(?=^\w+\n-+$|\Z)", text, re.MULTILINE | re.DOTALL)
        for names, body in re.findall(
            r"^(\w[\w, ]*)(?: :.*)?\n((?:    .*\n?|\n)+)", part[1] if part else "", re.MULTILINE
        ):
            for name in names.split(", "):
                found.setdefault(name, plain(body))
    return found


def plain(text: str) -> str:
    """Text of a docstring as Markdown, on one line."""
    text = re.sub(r":\w+:`~?\.*([^`]+)`", r"`\1`", text)
    return re.sub(r"\s+", " ", text.replace("``", "`")).strip()


def page_of_keys(title: str, about: str, cls: type[BaseModel]) -> str:
    lines = [f"# {title}", "", HEAD, "", about, "", *keys(cls.model_fields), *sections(cls)]
    return "\n".join(lines) + "\n"


# -- commands ----------------------------------------------------------------------------------------------------------


def subcommands(parser: argparse.ArgumentParser) -> dict[str, tuple[str, argparse.ArgumentParser]]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            helps = {choice.dest: choice.help or "" for choice in action._choices_actions}
            return {name: (helps.get(name, ""), one) for name, one in action.choices.items()}
    return {}


def called(action: argparse.Action) -> str:
    names = ", ".join(f"`{name}`" for name in action.option_strings)
    metavar = action.metavar if isinstance(action.metavar, str) else " ".join(action.metavar or ())
    value = metavar or ("" if action.nargs == 0 else "|".join(map(str, action.choices or (action.dest,))))
    return " ".join(filter(None, (names, f"`{value}`" if value else "")))


def of_command(name: str, help: str, parser: argparse.ArgumentParser, depth: int) -> Iterator[str]:
    yield from ("", f"{'#' * depth} {name}", "", plain(parser.description or help or ""))
    actions = [a for a in parser._actions if not isinstance(a, (argparse._HelpAction, argparse._SubParsersAction))]
    if actions:
        yield from ("", "| argument | |", "| --- | --- |")
        yield from (row(called(action), (action.help or "") % vars(action)) for action in actions)
    for word, (more, inner) in subcommands(parser).items():
        yield from of_command(f"{name} {word}", more, inner, depth + 1)


def page_of_commands() -> str:
    found = subcommands(_parser())
    about = (
        "`nni-proxyless COMMAND …`, or `python -m nni_proxyless COMMAND …`. Results go to stdout, the log and progress bars to stderr. "
        "Exit codes: 0, done; 1, something failed; 2, the input is wrong."
    )
    lines = ["# Commands", "", HEAD, "", about, "", "| command | |", "| --- | --- |"]
    lines += [row(f"[`{name}`](#{name})", help) for name, (help, _) in found.items()]
    for name, (help, parser) in found.items():
        lines += of_command(name, help, parser, 2)
    return "\n".join(lines) + "\n"


def pages() -> dict[Path, str]:
    """Path -> what stands there."""
    of_search = (
        "What files may hold, how they are overridden and checked: [configuration.md](configuration.md). Keys beside a `name` are the arguments of what it names. "
        "A commented example: [search.yml](../../experiments/search.yml)."
    )
    of_train = "The final training: [training.md](../how-to/training.md). A commented example: [train.yml](../../experiments/train.yml)."
    return {
        HERE / "search_yml.md": page_of_keys("Keys of search.yml", of_search, SearchConfig),
        HERE / "train_yml.md": page_of_keys("Keys of train.yml", of_train, TrainConfig),
        HERE / "commands.md": page_of_commands(),
        HERE / "multi_trial_strategies.md": page_of_multi_trial_strategies(),
    }


# -- strategies that no file names -------------------------------------------------------------------------------------


def page_of_multi_trial_strategies() -> str:
    about = (
        "They train networks one by one, each as a trial of NNI's `NasExperiment`; no key of `search.yml` names them. A package adds its own by the "
        f"entry-point group `{MULTI_TRIAL}`."
    )
    lines = ["# Multi-trial strategies", "", HEAD, "", about]
    for name in registry.names(MULTI_TRIAL):
        cls = registry.load(MULTI_TRIAL, name)
        lines += [
            "",
            f"## {cls.__name__}",
            "",
            plain(inspect.cleandoc(cls.__doc__ or "").partition("\nParameters\n")[0]),
        ]
        lines += arguments(MULTI_TRIAL, name, set())
    tuner = plain(inspect.cleandoc(EvolutionTuner.__doc__ or "").partition("\nParameters\n")[0])
    lines += ["", "## Under nnictl", "", f"`tuner.className: {TUNER}`, with `codeDirectory: .`", "", tuner, ""]
    lines += ["| key of `classArgs` | |", "| --- | --- |"]
    said = described(EvolutionTuner)
    lines += [row("`search`", said["search"]), row("options as above", said["options"])]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    for path, text in pages().items():
        write_text(path, text)
