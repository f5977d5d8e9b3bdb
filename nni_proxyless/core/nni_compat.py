"""All that NNI 3.0 and Lightning do not promise. No other file imports it, or touches their private attributes.

NNI has been archived since September 2024, so its code stands still; what breaks comes from Python, torch and Lightning, and is
mended here. What NNI's reference documents (:data:`PUBLIC`) is imported where it is used.

A name is imported when it is asked for: NNI's experiments need no torch, and whoever reads their files waits for none.
"""

# ruff: noqa: F401  (names for type checkers)

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nni.common.hpo_utils import deformat_parameters, format_search_space, validate_search_space
    from nni.common.hpo_utils.validation import common_search_space_types
    from nni.experiment.config.algorithm import _AlgorithmConfig
    from nni.experiment.config.training_service import TrainingServiceConfig
    from nni.experiment.config.utils import camel_case, unset_base_path
    from nni.nas.execution import SequentialExecutionEngine
    from nni.nas.hub.pytorch.modules.nasbench101 import NasBench101Cell
    from nni.nas.hub.pytorch.nasnet import FactorizedReduce, NDSStage, ReLUConvBN
    from nni.nas.nn.pytorch.cell import create_cell_op_candidates, preprocess_cell_inputs
    from nni.nas.nn.pytorch.choice import ChosenInputs
    from nni.nas.oneshot.pytorch.base_lightning import BaseOneShotLightningModule
    from nni.nas.oneshot.pytorch.differentiable import (
        DartsLightningModule,
        GumbelDartsLightningModule,
        LinearTemperatureScheduler,
    )
    from nni.nas.oneshot.pytorch.profiler import ExpectationProfilerPenalty, ProfilerPenalty
    from nni.nas.oneshot.pytorch.sampling import RandomSamplingLightningModule
    from nni.nas.oneshot.pytorch.strategy import OneShotStrategy
    from nni.nas.oneshot.pytorch.supermodule._expression_utils import expression_expectation
    from nni.nas.oneshot.pytorch.supermodule.base import BaseSuperNetModule
    from nni.nas.oneshot.pytorch.supermodule.differentiable import GumbelSoftmax
    from nni.nas.oneshot.pytorch.supermodule.operation import (
        MixedConv2d,
        MixedLayerNorm,
        MixedLinear,
        MixedMultiHeadAttention,
        MixedOperation,
        MixedOperationSamplingPolicy,
    )
    from nni.nas.oneshot.pytorch.supermodule.proxyless import ProxylessMixedRepeat
    from nni.nas.profiler.pytorch.nn_meter import NnMeterProfiler
    from nni.nas.profiler.pytorch.utils import MutableShape
    from nni.nas.space import ModelStatus, RawFormatModelSpace, model_context
    from nni.runtime.msg_dispatcher_base import MsgDispatcherBase
    from nni.runtime.tuner_command_channel import CommandType
    from nni.tools.nnictl.config_utils import Experiments
    from nni.tools.package_utils import get_all_algo_meta
    from nni.tools.package_utils.tuner_factory import create_validator_instance, get_builtin_module_class_name

_HOMES = {
    "nni.common.hpo_utils": ("deformat_parameters", "format_search_space", "validate_search_space"),
    "nni.common.hpo_utils.validation": ("common_search_space_types",),
    "nni.experiment.config.algorithm": ("_AlgorithmConfig",),
    "nni.experiment.config.training_service": ("TrainingServiceConfig",),
    "nni.experiment.config.utils": ("camel_case", "unset_base_path"),
    "nni.nas.execution": ("SequentialExecutionEngine",),
    "nni.nas.hub.pytorch.modules.nasbench101": ("NasBench101Cell",),
    "nni.nas.hub.pytorch.nasnet": ("FactorizedReduce", "NDSStage", "ReLUConvBN"),
    "nni.nas.nn.pytorch.cell": ("create_cell_op_candidates", "preprocess_cell_inputs"),
    "nni.nas.nn.pytorch.choice": ("ChosenInputs",),
    "nni.nas.oneshot.pytorch.base_lightning": ("BaseOneShotLightningModule",),
    "nni.nas.oneshot.pytorch.differentiable": (
        "DartsLightningModule",
        "GumbelDartsLightningModule",
        "LinearTemperatureScheduler",
    ),
    "nni.nas.oneshot.pytorch.profiler": ("ExpectationProfilerPenalty", "ProfilerPenalty"),
    "nni.nas.oneshot.pytorch.sampling": ("RandomSamplingLightningModule",),
    "nni.nas.oneshot.pytorch.strategy": ("OneShotStrategy",),
    "nni.nas.oneshot.pytorch.supermodule._expression_utils": ("expression_expectation",),
    "nni.nas.oneshot.pytorch.supermodule.base": ("BaseSuperNetModule",),
    "nni.nas.oneshot.pytorch.supermodule.differentiable": ("GumbelSoftmax",),
    "nni.nas.oneshot.pytorch.supermodule.operation": (
        "MixedConv2d",
        "MixedLayerNorm",
        "MixedLinear",
        "MixedMultiHeadAttention",
        "MixedOperation",
        "MixedOperationSamplingPolicy",
    ),
    "nni.nas.oneshot.pytorch.supermodule.proxyless": ("ProxylessMixedRepeat",),
    "nni.nas.profiler.pytorch.nn_meter": ("NnMeterProfiler",),
    "nni.nas.profiler.pytorch.utils": ("MutableShape",),
    "nni.nas.space": ("ModelStatus", "RawFormatModelSpace", "model_context"),
    "nni.runtime.msg_dispatcher_base": ("MsgDispatcherBase",),
    "nni.runtime.tuner_command_channel": ("CommandType",),
    "nni.tools.nnictl.config_utils": ("Experiments",),
    "nni.tools.package_utils": ("get_all_algo_meta",),
    "nni.tools.package_utils.tuner_factory": ("create_validator_instance", "get_builtin_module_class_name"),
}

PUBLIC = frozenset({
    "nni", "nni.experiment.config", "nni.mutable", "nni.nas.evaluator", "nni.nas.evaluator.pytorch", "nni.nas.hub.pytorch",
    "nni.nas.nn.pytorch", "nni.nas.profiler", "nni.nas.strategy",
})  # fmt: skip
"""Modules of NNI that its reference documents."""


def __getattr__(name: str) -> Any:
    for module, names in _HOMES.items():
        if name in names:
            if module.startswith(("nni.nas.oneshot", "nni.nas.hub")):
                importlib.import_module(
                    "nni.nas.strategy"
                )  # first: else NNI's circular imports leave it with broken strategies
            return getattr(importlib.import_module(module), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


# -- NNI ---------------------------------------------------------------------------------------------------------------


def keep_modules_when_frozen(space: Any) -> None:
    """Let a space or supernet keep its weights when it is frozen.

    Modules that have nothing to choose stay what they are; NNI's own ``ParametrizedModule.freeze`` makes a new module from its
    arguments, with new weights. Super-kernels become modules of the chosen arguments with their slice of the weights, in the
    type, place and mode of the super-kernel; NNI's own ``MixedOperation.freeze`` fails where there is no bias. What NNI would freeze by its
    children alone is frozen as :func:`.freezing.freeze` has it.
    """
    from nni.nas.nn.pytorch import MutableModule, ParametrizedModule
    from nni.nas.oneshot.pytorch.supermodule.operation import MixedOperation

    from .freezing import freeze_children

    for module in space.modules():
        if isinstance(module, MixedOperation):
            module.freeze = functools.partial(_slice, module)
        elif isinstance(module, ParametrizedModule) and not module.mutables:
            module.freeze = functools.partial(_itself, module)
    if type(space).freeze is MutableModule.freeze:
        space.freeze = functools.partial(freeze_children, space)


def _itself(module: Any, sample: Any) -> Any:
    return module


def freeze_arguments(module: Any, sample: Any) -> Any:
    """A new module with the arguments that are chosen, which can be printed; NNI's own cannot where its class is no plain one of torch."""
    from nni.nas.nn.pytorch import ParametrizedModule

    made = module.freeze(sample)
    if isinstance(made, ParametrizedModule):
        args, kwargs = module.freeze_init_arguments(sample, *module.trace_args, **module.trace_kwargs)
        made.save_init_arguments(*args, **kwargs)
    return made


def _slice(operation: Any, sample: Any) -> Any:
    from nni.nas.nn.pytorch import ParametrizedModule
    from nni.nas.space import model_context

    chosen = {name: mutable.freeze(sample) for name, mutable in operation.mutable_arguments.items()}
    arguments = {**operation.init_arguments, **chosen}
    with model_context(sample):
        module = operation.bound_type(**arguments)
    if isinstance(module, ParametrizedModule):
        module.save_init_arguments(**arguments)  # which its text is made of
    weights = {name: w for name, w in operation.freeze_weight(**arguments).items() if w is not None}
    for like in weights.values():
        module.to(like.device, like.dtype if like.is_floating_point() else None)
    module.load_state_dict(weights)
    return module.train(operation.training)


def set_depth_of_dry_run(repeat: Any, depth: int) -> None:
    """How many blocks a ``Repeat`` runs when the space itself is called."""
    repeat._dry_run_depth = depth


def add_cell_operation(name: str, make: Callable[[Any, int, bool], Any]) -> None:
    """Let cells of an ``NDS`` have an operation by that name: ``make(channels, stride, affine)``."""
    importlib.import_module("nni.nas.hub.pytorch.nasnet").OPS[name] = make


def candidate_of_dry_run(choice: Any) -> str:
    """Which candidate a ``LayerChoice`` runs when the space itself is called."""
    return str(choice._dry_run_choice)


def report_as(record: dict[str, Any]) -> None:
    """Let what this trial reports reach the tuner under the id of these parameters, as NNI's manager gives them out."""
    import nni

    nni.trial._params = record


def main_of_nnictl() -> None:
    """``nnictl``, but for one thing: its manager has a minute to answer, not the three seconds that are too few on a busy machine."""
    from nni.experiment import launcher
    from nni.tools.nnictl.nnictl import parse_args

    launcher._check_rest_server.__defaults__ = (60, None)
    sys.exit(parse_args())


# -- Lightning ---------------------------------------------------------------------------------------------------------


def batches_of_loggers(trainer: Any) -> int:
    """Batches that the trainer has gone through: the x-axis of its loggers."""
    return trainer.fit_loop.epoch_loop._batches_that_stepped


def set_batches_of_loggers(trainer: Any, batches: int) -> None:
    """Let the x-axis of a trainer's loggers go on from there."""
    trainer.fit_loop.epoch_loop._batches_that_stepped = batches
