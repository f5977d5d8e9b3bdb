"""What a named section of a configuration may hold: the arguments of what it names, their types, and what is refused.

Of what comes with this package, that is read (:mod:`..core.signatures`) and looked at by functions that need nothing but the values; all
else is imported, and its constructor is asked.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from ..core.ranges import problems_of
from ..core.signatures import read_signature
from ..latency.runtimes.default import TORCH, default_runtime
from . import registry

__all__ = ["Options", "options_of"]

CONSTRUCTED = (
    "nni_proxyless.search_spaces",
    "nni_proxyless.strategies",
    "nni_proxyless.multi_trial_strategies",
    "nni_proxyless.estimators",
    "nni_proxyless.tasks",
)  # cheap, touches no data


@dataclass(frozen=True)
class Options:
    """Arguments of one thing.

    Attributes
    ----------
    group, name
        In the registry.
    parameters
        Name -> parameter.
    types
        Name -> type, of those whose annotation can be resolved.
    factory
        The class or function itself; None where it has not been imported.
    problems
        What its constructor would say against the values of all of its arguments; None where only the constructor knows.
    """

    group: str
    name: str
    parameters: Mapping[str, inspect.Parameter]
    types: Mapping[str, Any]
    factory: Any = None
    problems: Callable[[Any], list[str] | None] | None = None

    def refusal(self, arguments: Mapping[str, Any]) -> str | None:
        """What the constructor says against arguments of the right types."""
        if self.group not in CONSTRUCTED:
            return None
        if self.problems is not None:
            values = {name: parameter.default for name, parameter in self.parameters.items()}
            found = self.problems(SimpleNamespace(**{**values, **arguments}))
            if found is not None:
                return "; ".join(found) or None
        return _said_by(self.factory or registry.load(self.group, self.name), arguments)


def options_of(group: str, name: str) -> Options:
    """The arguments of what a name stands for.

    Raises
    ------
    ValueError
        As :func:`.registry.load`.
    TypeError
        It has no signature.
    """
    if ":" in name:
        return _of_imported(group, name)  # imported already, or written anew
    if (group, name) not in _known:
        _known[group, name] = _of_shipped(group, name) or _of_imported(group, name)
    return _known[group, name]


_known: dict[tuple[str, str], Options] = {}  # to find an entry point, the files of every installed package are read


def _of_shipped(group: str, name: str) -> Options | None:
    value = registry.value_of(group, name)
    module, _, attribute = (value or "").partition(":")
    if value is None or module.partition(".")[0] != __name__.partition(".")[0]:
        return None
    signature = read_signature(module, attribute)
    if signature is None:
        return None
    types = {n: p.annotation for n, p in signature.parameters.items()}
    in_range = functools.partial(problems_of, types) if value in _IN_RANGE else None
    return Options(group, name, *signature, problems=_LOOKED_AT.get(value, in_range))


def _of_imported(group: str, name: str) -> Options:
    factory = registry.load(group, name)
    parameters = registry.accepted_arguments(factory)
    try:
        types = registry.argument_types(factory)
    except Exception:  # annotations that do not resolve; the constructor will say
        types = {}
    return Options(group, name, parameters, types, factory)


_refusals: dict[tuple[Any, str], str | None] = {}  # an experiment's trials have the same space: it is built once


def _said_by(factory: Any, arguments: Mapping[str, Any]) -> str | None:
    """What the constructor says against the arguments."""
    key = (factory, repr(sorted(arguments.items())))
    if key not in _refusals:
        try:
            factory(**arguments)
            _refusals[key] = None
        except Exception as error:
            said = next(iter(str(error).splitlines()), "")  # torch adds a stack of its own
            sort = "" if isinstance(error, (ValueError, TypeError)) and said else f"{type(error).__name__}: "
            _refusals[key] = sort + said
    return _refusals[key]


# -- what the constructors of shipped classes say, without the classes ---------------------------------------------


def _by(module: str, function: str) -> Callable[[Any], list[str] | None]:
    return lambda options: getattr(importlib.import_module(module), function)(options)


def _nothing(options: Any) -> list[str]:
    return []


def _of_classification(options: Any) -> list[str] | None:
    """All is well as it is by default; else its constructor is asked."""
    return [] if options.class_weights is None and options.metric == "accuracy" else None


def _of_device(options: Any) -> list[str] | None:
    """All is well with torch and ONNX Runtime on a CPU; of any other device torch has to say whether it is there, and a runtime has a say of
    its own."""
    whole = min(options.threads, options.batch, options.repeats) >= 1 and options.warmup >= 0
    runtime = default_runtime(options.device) if options.runtime is None else options.runtime
    precisions = {TORCH: ("float32", "float16", "bfloat16"), "onnxruntime": ("float32",)}.get(runtime, ())
    there = runtime == TORCH or all(importlib.util.find_spec(name) for name in ("onnx", "onnxruntime"))
    sound = options.device == "cpu" and options.precision in precisions and whole and there
    return [] if sound and not options.options else None


# Constructors that refuse nothing but values outside the ranges that the types of their options declare.
_IN_RANGE = (
    "nni_proxyless.strategies:ProxylessNAS",
    "nni_proxyless.strategies:DSNAS",
    "nni_proxyless.strategies:EarlyExitEvolution",
    *(
        f"nni_proxyless.strategies.nni_baselines:{name}"
        for name in ("DARTS", "GumbelDARTS", "Proxyless", "RandomOneShot")
    ),
)

_LOOKED_AT: dict[str, Callable[[Any], list[str] | None]] = {  # entry point -> what its constructor says
    "nni_proxyless.search_spaces:MobileNetV2Space": _by("nni_proxyless.search_spaces.layout", "problems_of_layout"),
    "nni_proxyless.search_spaces:PyramidTreeSpace": _by("nni_proxyless.search_spaces.tree_layout", "problems_of_tree"),
    "nni_proxyless.search_spaces:TimmSpace": _by("nni_proxyless.search_spaces.timm_layout", "known_problems"),
    "nni_proxyless.tasks.classification:Classification": _of_classification,
    "nni_proxyless.latency:DeviceEstimator": _of_device,
    "nni_proxyless.latency:TableOnly": _nothing,
    "nni_proxyless.latency:MacsEstimator": _nothing,
    "nni_proxyless.latency:ParametersEstimator": _nothing,
    "nni_proxyless.latency:ActivationsEstimator": _nothing,
}
