"""Arguments of classes and functions as their source says them, read without an import.

To import a strategy or a space is to import torch, Lightning and NNI, which takes many seconds; which arguments it takes stands in
a file of a few kilobytes. So ``init``, ``check`` and whoever mistypes a key are answered at once.
"""

from __future__ import annotations

import ast
import builtins
import collections.abc
import functools
import importlib.util
import inspect
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from . import ranges

__all__ = ["Signature", "read_signature"]

_OF_TYPES = {
    **vars(builtins),
    **vars(typing),
    **vars(collections.abc),
    **{name: getattr(ranges, name) for name in ranges.__all__},
}  # the names that annotations of arguments are made of
_ROOTS = ("object", "ABC")  # take no arguments


class Signature(NamedTuple):
    """What :func:`..config.registry.accepted_arguments` and :func:`..config.registry.argument_types` say of the same thing once it is imported.

    Attributes
    ----------
    parameters
        Name -> parameter; its annotation has what ``Annotated`` adds, such as the range of an option.
    types
        Name -> type, without it.
    """

    parameters: dict[str, inspect.Parameter]
    types: dict[str, Any]


class _UnreadableError(Exception):
    """The source does not say it: a base class that is made by a program, several of them, a default of a dataclass that is made by a function."""


def read_signature(module: str, name: str) -> Signature | None:
    """The arguments of ``module.name``, those of base classes through ``**kwargs`` included; None where the source does not tell."""
    found: dict[str, inspect.Parameter] = {}
    try:
        for parameters in _inits(module, name):
            for parameter in parameters:
                found.setdefault(parameter.name, parameter)
            if not any(p.kind is p.VAR_KEYWORD for p in parameters):
                break
    except (_UnreadableError, OSError, SyntaxError, ImportError):
        return None
    named = {n: p for n, p in found.items() if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)}
    types = {
        n: typing.get_args(p.annotation)[0] if typing.get_origin(p.annotation) is Annotated else p.annotation
        for n, p in named.items()
        if p.annotation is not p.empty and not isinstance(p.annotation, str)
    }
    return Signature(named, types)


def _inits(module: str, name: str) -> Iterator[list[inspect.Parameter]]:
    """Parameters of a function; of a class those of its constructor and, one after the other, of its base classes'."""
    if name in _ROOTS:
        return
    home, node = _definition(module, name)
    if not isinstance(node, ast.ClassDef):
        yield _parameters(node)
        return
    init = next((n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"), None)
    if init is not None:
        yield _parameters(init)[1:]
    elif node.decorator_list:
        yield sorted(_fields(home, node).values(), key=lambda parameter: parameter.kind)
        return
    if len(node.bases) > 1:  # what comes after the constructor of the first one, only an import tells
        yield _own_init(home, node.bases[0])
        raise _UnreadableError
    for base in _bases(node):
        yield from _inits(home, base)


def _own_init(home: str, base: ast.expr) -> list[inspect.Parameter]:
    node = _definition(home, base.id)[1] if isinstance(base, ast.Name) else None
    for statement in node.body if isinstance(node, ast.ClassDef) else ():
        if isinstance(statement, ast.FunctionDef) and statement.name == "__init__":
            return _parameters(statement)[1:]
    raise _UnreadableError


def _bases(node: ast.ClassDef) -> list[str]:
    if len(node.bases) > 1 or not all(isinstance(base, ast.Name) for base in node.bases):
        raise _UnreadableError
    return [base.id for base in node.bases if isinstance(base, ast.Name) and base.id not in _ROOTS]


def _fields(home: str, node: ast.ClassDef | ast.FunctionDef) -> dict[str, inspect.Parameter]:
    """Name -> parameter of the constructor that ``dataclass`` makes: the fields of base classes first; none where none is a dataclass."""
    if not isinstance(node, ast.ClassDef):
        raise _UnreadableError
    found: dict[str, inspect.Parameter] = {}
    for base in _bases(node):
        found |= _fields(*_definition(home, base))
    if not node.decorator_list:
        return found
    kind = _kind_of_fields(node.decorator_list)
    for statement in node.body:
        if isinstance(statement, ast.AnnAssign) and not ast.unparse(statement.annotation).startswith("ClassVar"):
            field = _field(statement, kind)
            found[field.name] = field
    return found


def _kind_of_fields(decorators: list[ast.expr]) -> Any:
    """How a dataclass takes its fields."""
    if len(decorators) != 1:
        raise _UnreadableError
    one = decorators[0]
    name = ast.unparse(one.func if isinstance(one, ast.Call) else one)
    if name not in ("dataclass", "dataclasses.dataclass"):
        raise _UnreadableError
    given = {word.arg: ast.unparse(word.value) for word in one.keywords} if isinstance(one, ast.Call) else {}
    return inspect.Parameter.KEYWORD_ONLY if given.get("kw_only") == "True" else inspect.Parameter.POSITIONAL_OR_KEYWORD


def _definition(module: str, name: str) -> tuple[str, ast.ClassDef | ast.FunctionDef]:
    """Where something is defined, and its definition, imports followed; those that stand under ``TYPE_CHECKING`` too."""
    tree, is_package = _tree(module)
    for node in tree.body:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and node.name == name:
            return module, node
    for statement in ast.walk(tree):
        if isinstance(statement, ast.ImportFrom):
            for alias in statement.names:
                if (alias.asname or alias.name) == name:
                    above = (
                        module.split(".")[: len(module.split(".")) + is_package - statement.level]
                        if statement.level
                        else []
                    )
                    return _definition(
                        ".".join([*above, *([statement.module] if statement.module else [])]), alias.name
                    )
    raise _UnreadableError


@functools.cache
def _tree(module: str) -> tuple[ast.Module, bool]:
    top, *below = module.split(".")
    if top == __name__.partition(".")[0]:  # its folders lie side by side in a checkout; its packages import nothing
        spec = importlib.util.find_spec(module)
        path = Path(spec.origin) if spec is not None and spec.origin is not None else None
    else:  # to find a module inside a package, Python imports the package
        spec = importlib.util.find_spec(top)
        places = list(spec.submodule_search_locations or ()) if spec is not None else []
        under = [Path(place).joinpath(*below) for place in places]
        path = next((p for u in under for p in (u / "__init__.py", u.with_suffix(".py")) if p.is_file()), None)
    if path is None or path.suffix != ".py":
        raise _UnreadableError
    return ast.parse(path.read_text(encoding="utf-8")), path.name == "__init__.py"


def _parameters(node: ast.FunctionDef) -> list[inspect.Parameter]:
    given, kind = node.args, inspect.Parameter
    plain = [(kind.POSITIONAL_ONLY, arg) for arg in given.posonlyargs] + [
        (kind.POSITIONAL_OR_KEYWORD, arg) for arg in given.args
    ]
    defaults: list[ast.expr | None] = [*[None] * (len(plain) - len(given.defaults)), *given.defaults]
    found = [_parameter(arg.arg, how, arg.annotation, value) for (how, arg), value in zip(plain, defaults, strict=True)]
    if given.vararg is not None:
        found.append(_parameter(given.vararg.arg, kind.VAR_POSITIONAL, None, None))
    for arg, value in zip(given.kwonlyargs, given.kw_defaults, strict=True):
        found.append(_parameter(arg.arg, kind.KEYWORD_ONLY, arg.annotation, value))
    if given.kwarg is not None:
        found.append(_parameter(given.kwarg.arg, kind.VAR_KEYWORD, None, None))
    return found


def _field(node: ast.AnnAssign, kind: Any) -> inspect.Parameter:
    assert isinstance(node.target, ast.Name)
    if isinstance(node.value, ast.Call):
        raise _UnreadableError
    return _parameter(node.target.id, kind, node.annotation, node.value)


def _parameter(name: str, kind: Any, annotation: ast.expr | None, default: ast.expr | None) -> inspect.Parameter:
    """With its type; as text, where other names than Python's own are needed for it, and likewise its default."""
    resolved: Any = inspect.Parameter.empty
    if annotation is not None:
        try:
            resolved = eval(ast.unparse(annotation), dict(_OF_TYPES))
        except Exception:  # a name that only its module knows, whatever it is: the text stands for the type
            resolved = ast.unparse(annotation)
    value: Any = inspect.Parameter.empty
    if default is not None:
        try:
            value = ast.literal_eval(default)
        except ValueError:
            value = ast.unparse(default)
    return inspect.Parameter(name, kind, default=value, annotation=resolved)
