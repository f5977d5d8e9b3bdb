"""The model spaces of NNI's own tests and of its hub, small, and what each update makes of them: the table of a page.

    python -m tests.strategies.nni_spaces

writes ``docs/reference/nni_spaces.md``; ``test_nni_spaces.py`` runs every field of the table, and compares the page.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import nni.nas.hub.pytorch as hub
from nni.nas.nn.pytorch import ModelSpace
from nni_proxyless.strategies import DSNAS, ProxylessNAS
from torch import nn

from nni_proxyless.config import registry
from nni_proxyless.core.atomic_files import write_text

from ..conftest import ROOT
from . import kinds, value_spaces
from .spaces import WIDTH
from .test_mutation_hook import MixedScale, OfScale

PAGE = ROOT / "docs" / "reference" / "nni_spaces.md"


@dataclass(frozen=True)
class Reason:
    """Why something is refused: a mark in the table, what the message says, and what it means."""

    mark: str
    said: str
    meaning: str


VALUES = Reason(
    "a", "a value inside it, for which there is no gate gradient",
    "What a wider layer gives beyond the active width is sliced away by the next layer, so the gradient by which these updates compare "
    "candidates is 0 there ([values.md](../how-to/values.md)).",
)  # fmt: skip
LOOSE_ENDS = Reason(
    "b", "whose output has another shape in each network",
    "Which nodes are in the output hangs on the inputs that are chosen, and what follows a cell of one's own is not known to take any "
    "number of them. The spaces of the hub's `NDS` are searched with loose ends.",
)  # fmt: skip
LATENCY_OF_LOOSE_ENDS = Reason("c", "with merge_op 'loose_end' has no latency here", "The same of the latency.")
NO_HOOK = Reason(
    "d", "and no mutation hook knows how it runs with it",
    "A choice in a module of one's own needs a hook ([values.md](../how-to/values.md#a-module-of-your-own)).",
)  # fmt: skip
EDGES = Reason(
    "e", "is a NasBench101Cell, which draws its edges under a limit on all of them together",
    "Its operations have channels that depend on every edge as well, so there is no supernet in which choices are made one by one.",
)  # fmt: skip
LATENCY_OF_EDGES = Reason(
    "f", "a NasBench101Cell with choices of its own has no latency here", "The same of the latency."
)
REASONS = (VALUES, LOOSE_ENDS, LATENCY_OF_LOOSE_ENDS, NO_HOOK, EDGES, LATENCY_OF_EDGES)

UPDATES: dict[str, Callable[..., Any]] = {
    **{update: lambda update=update, **more: ProxylessNAS(update=update, arc_update_every=1, **more) for update in ("two-path", "full")},
    "reinforce": lambda **more: ProxylessNAS(update="reinforce", arc_update_every=1, reinforce_samples=4, **more),
    "loss": lambda **more: DSNAS(search_epochs=1, fix_gap=1.0, **more),
    "gradient": lambda **more: DSNAS(reward="gradient", search_epochs=1, fix_gap=1.0, **more),
}  # fmt: skip
OF_GATES = ("two-path", "full", "gradient")


@dataclass(frozen=True, eq=False)
class Row:
    """A space, and what becomes of it.

    Attributes
    ----------
    name
        In the table.
    shape
        Of one sample.
    refused
        Update -> why.
    no_latency
        Why there is none; None: there is.
    unreached
        Pattern of labels that no sampled path may have reached, whose logits then stay.
    """

    name: str
    make: Callable[[], ModelSpace]
    shape: tuple[int, ...] = (WIDTH,)
    refused: Mapping[str, Reason] = field(default_factory=dict)
    no_latency: Reason | None = None
    unreached: str = "^$"
    hooks: tuple[Any, ...] = ()

    def strategy(self, update: str) -> Any:
        return UPDATES[update](arc_learning_rate=0.05, mutation_hooks=list(self.hooks))


def _of_values(name: str, make: Callable[[], ModelSpace], shape: tuple[int, ...] = (8,), **more: Any) -> Row:
    return Row(name, make, shape, dict.fromkeys(OF_GATES, VALUES), **more)


def _of_hub(name: str, **arguments: Any) -> Callable[[], ModelSpace]:
    """The space of that name, of images of two channels in three classes; of cells with two nodes each."""
    space: Any = registry.load("nni_proxyless.search_spaces", name)
    if hasattr(space, "n_nodes"):
        space = type(space.__name__, (space,), {"n_nodes": 2})
    return lambda: space(num_labels=3, in_channels=2, **arguments)


def _shufflenet(**arguments: Any) -> Callable[[], ModelSpace]:
    """ShuffleNet's first two blocks."""

    def make() -> ModelSpace:
        space: Any = _of_hub("shufflenet", **arguments)()
        space.features, space.conv_last[0] = space.features[:2], nn.Conv2d(64, 1024, 1, bias=False)
        return space

    return make


IMAGES = (2, 8, 8)
CELLS = {"width": 4, "num_cells": 3}
MOBILENETV3 = {
    "base_widths": [8, 8, 8, 16, 16], "width_multipliers": [0.5, 2.0], "expand_ratios": [1.0, 1.5], "depth_range": [1, 2],
    "squeeze_excite": ["none", "optional"], "stride": [2, 1, 2, 1, 1], "activation": ["relu"] * 5,
}  # fmt: skip
AUTOFORMER = {
    "img_size": 8, "patch_size": 4, "search_embed_dim": [8, 16], "search_num_heads": [1, 2], "search_depth": [1, 2],
    "search_mlp_ratio": [1.0, 2.0],
}  # fmt: skip

ROWS = (
    Row("`LayerChoice` of a list, of a dict, with a skip", kinds.Simple),
    Row("`LayerChoice` in a candidate", kinds.Nested, unreached="inner|deep"),
    Row("labels that several layers share", kinds.SharedLabel),
    Row("a choice of one candidate", kinds.OneCandidate),
    Row("several inputs, by position and by name", kinds.Arguments),
    Row("outputs in tuples and dicts", kinds.Outputs),
    Row("`InputChoice` of one", kinds.Inputs),
    Row("`InputChoice` of two, sum", kinds.TwoInputs),
    Row("`InputChoice` of three, mean", kinds.MeanOfThreeInputs),
    Row("`InputChoice` of two, concat", kinds.ConcatenatedInputs),
    Row("`InputChoice` of two, as a list", kinds.AllInputs),
    Row("`InputChoice` of any number", kinds.AnyInputs),
    Row("`Repeat` of 1 to 3 blocks", kinds.Deep),
    Row("`Repeat` of 0 to 2 blocks", kinds.DepthFromZero),
    Row("`Repeat` by a value", kinds.DepthOfChoice),
    Row("`Repeat` by an expression", kinds.DepthOfExpression),
    Row("`Repeat` by an expression of two choices", kinds.DepthOfTwoLabels),
    Row("`Repeat` by an item of a tuple", kinds.DepthOfItem),
    Row("`Repeat` of copies of one choice", kinds.DepthOfOneChoice),
    Row("`Repeat` of a choice each", kinds.DepthOfChoices, unreached="block[12]"),
    Row("`Repeat` of a fixed depth", kinds.FixedDepthOfChoices),
    Row("`Cell`, default arguments", kinds.CellOfNNI),
    Row("`Cell` of two inputs and two operations per node", kinds.CellOfTwoInputs),
    Row("`Cell` with its own pre- and postprocessor", kinds.CellOfProcessors),
    Row("`Cell` with loose ends", kinds.CellOfLooseEnds, refused=dict.fromkeys(UPDATES, LOOSE_ENDS), no_latency=LATENCY_OF_LOOSE_ENDS),
    Row("`Cell` whose operations are made for each input", kinds.CellByInput),
    Row("two such cells of one label, with a skip", kinds.CellOfFactories),
    _of_values("NNI's `ValueChoiceConvNet`", value_spaces.ConvNet),
    _of_values("NNI's `SimpleNet` with a choice of values; `MutableDropout`", value_spaces.SimpleNet),
    _of_values("NNI's `RepeatNet`", value_spaces.RepeatNet, unreached="ratio[12]"),
    _of_values("`MutableMultiheadAttention`", value_spaces.Attention),
    _of_values("expressions of several choices, tuples, groups, pooling", value_spaces.Depthwise),
    _of_values("items of one choice (`getitem`)", value_spaces.Items),
    _of_values("a choice of values in a candidate", value_spaces.InCandidates, unreached="width"),
    Row("a choice in a module of one's own", OfScale, (8,), {**dict.fromkeys(UPDATES, NO_HOOK), **dict.fromkeys(OF_GATES, VALUES)}),
    _of_values("the same with its hook", OfScale, hooks=(MixedScale.mutate,)),
    Row("`ProxylessNAS`", _of_hub("proxylessnas", base_widths=[8] * 9), (2, 32, 32), unreached="_i[123]$"),
    Row("`ShuffleNetSpace`", _shufflenet(), IMAGES),
    _of_values("`ShuffleNetSpace` with `channel_search`", _shufflenet(channel_search=True), IMAGES),
    Row("`NasBench201`", _of_hub("nasbench201", stem_out_channels=4, num_modules_per_stack=1), IMAGES),
    Row("`NasBench101`", lambda: hub.NasBench101(8, 1, 1), (3, 8, 8), dict.fromkeys(UPDATES, EDGES), LATENCY_OF_EDGES),
    _of_values("`AutoFormer`", _of_hub("autoformer", **AUTOFORMER), IMAGES, unreached="_1$"),
    _of_values("`MobileNetV3Space`", _of_hub("mobilenetv3", **MOBILENETV3), IMAGES, unreached="_(i1|se|exp)"),
    Row("`DARTS`", _of_hub("darts", **CELLS), IMAGES),
    Row("`DARTS` with `num_cells=(4, 8)`", _of_hub("darts", width=4, num_cells=[4, 8]), IMAGES),
    _of_values("`DARTS` with `width=(4, 8)`", _of_hub("darts", width=[4, 8], num_cells=3), IMAGES),
    _of_values("`ENAS` with both", _of_hub("enas", width=[4, 8], num_cells=[3, 6]), IMAGES),
    Row("`ENAS`", _of_hub("enas", **CELLS), IMAGES),
    Row("`NASNet`", _of_hub("nasnet", **CELLS), IMAGES),
    Row("`AmoebaNet`", _of_hub("amoebanet", **CELLS), IMAGES),
    Row("`PNAS`", _of_hub("pnas", **CELLS), IMAGES),
    Row("`NDS` by its path, merged as in DARTS", lambda: hub.NDS(hub.DARTS.DARTS_OPS, "all", 2, 4, 3, "cifar"), (3, 8, 8)),
)  # fmt: skip


def page() -> str:
    """The page of the table."""
    head = ("space", "`two-path`", "`full`", "`reinforce`", "DSNAS, `loss`", "DSNAS, `gradient`", "latency")
    lines = ["| " + " | ".join(head) + " |", "| --- " * len(head) + "|"]
    for row in ROWS:
        why = [*(row.refused.get(update) for update in UPDATES), row.no_latency]
        lines.append(
            "| " + " | ".join([row.name, *("yes" if one is None else f"no ({one.mark})" for one in why)]) + " |"
        )
    reasons = [f"- ({reason.mark}) `{reason.said}`: {reason.meaning}" for reason in REASONS]
    return PROSE.format(table="\n".join(lines), reasons="\n".join(reasons))


PROSE = """\
<!-- Written by python -m tests.strategies.nni_spaces; tests run every field. Change tests/strategies/nni_spaces.py, not this page. -->
# Spaces of NNI: what is searched, and what is refused

The kinds of spaces in NNI 3.0's own tests, and all of its hub, under ProxylessNAS with its three updates and DSNAS with its two rewards.
Yes means: after a search the logits of all choices that were reached have moved, and weights have; the derived network's output is the
supernet's, to 1e-6; and its latency is what an independent count of the whole network says. No means: refused before anything
is trained, with the message below, and the space is as it was.

{table}

{reasons}

The hub's spaces are the package's own by name, for any number of channels ([your_space.md](../how-to/your_space.md#spaces-of-nnis-hub)).
"""

if __name__ == "__main__":
    write_text(PAGE, page())
