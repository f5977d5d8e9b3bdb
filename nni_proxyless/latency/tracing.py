"""Tracing: one run of a model space, taken apart into the operations of all its networks.

What is walked is the calls of that run, not the tree of modules: a module that is shared, called through a list, or called by
somebody else than its owner counts where and as often as it is called. Every candidate then runs on what its choice was given.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterator, Mapping
from typing import Any

import torch
from nni.nas.nn.pytorch import Cell, InputChoice, LayerChoice, ModelSpace, MutableModule, Repeat
from torch import nn

from ..core.nni_compat import candidate_of_dry_run, set_depth_of_dry_run
from .calls import (
    Call,
    CallTree,
    Shape,
    TensorSpec,
    example_of,
    map_structure,
    record,
    shape_text,
    specs,
    tensors_in,
    text_of,
)
from .cell_tracing import OpenCell
from .conditions import all_of, both, depths_of, reached
from .likeness import likeness
from .operation import Conditions, Operation, floating_type, is_free, key_of, other_names
from .products import Products, is_product, products_of

__all__ = ["Trace"]

CHOICES = (LayerChoice, Repeat, InputChoice, OpenCell)


class Trace:
    """The operations of a space, found in runs on zeros.

    Parameters
    ----------
    space
        Holds the modules of the operations. It runs in the mode it is in; all depths are at their largest afterwards.
    input_shape
        Of one sample.
    batch
        Samples per run.
    apart
        Modules that are taken apart as if they held a choice.
    """

    def __init__(self, space: ModelSpace, input_shape: Shape, batch: int = 1, apart: Collection[nn.Module] = ()):
        self.names = {module: name for name, module in space.named_modules()}
        self.order = {module: i for i, module in enumerate(self.names)}
        self._refuse_other_choices(space)
        groups: Mapping[str, tuple[str, ...]] = getattr(space, "fixed_operations", {})
        modules = dict(space.named_modules())
        self.grouped = {modules[name] for names in groups.values() for name in names}
        self.space, self.batch = space, batch
        self._apart = {m for m in self.names if m is space or (not isinstance(m, CHOICES) and _holds_choice(m))}
        self._apart |= {m for m in apart if not isinstance(m, CHOICES)}
        self._runs: dict[Hashable, CallTree] = {}
        self._varying: dict[CallTree, dict[str, Any]] = {}  # call of a choice -> what it may give, by its text
        self.device, dtype = floating_type(space)
        call = Call((TensorSpec((batch, *input_shape), dtype),))
        choices = [module for module in space.modules() if isinstance(module, LayerChoice)]
        for module in space.modules():
            if isinstance(module, Repeat):
                set_depth_of_dry_run(module, module.max_depth)  # else the deeper blocks have no shapes
        try:
            for choice in choices:  # NNI's own forward takes a single argument
                first = next(name for name in choice.names if str(name) == candidate_of_dry_run(choice))
                object.__setattr__(choice, "forward", choice[first])
            what = f"{type(space).__name__} on input {tuple(input_shape)}"
            run = self._run(space, call, what)
            self.operations = [op for head, names in groups.items() for op in self._group(head, names, modules, run)]
            self.operations += self._walk(space, [run], ())
            self._outputs(run, call, what)
        finally:
            for choice in choices:
                vars(choice).pop("forward", None)
        self._share_weights()

    def _refuse_other_choices(self, space: ModelSpace) -> None:
        for module, name in self.names.items():
            if isinstance(module, MutableModule) and module.mutables and not isinstance(module, CHOICES):
                raise ValueError(
                    f"{name or type(module).__name__}: a {type(module).__name__} with choices of its own has no latency here; "
                    "allowed: LayerChoice, Repeat, InputChoice, arguments of modules"
                )
            if isinstance(module, Cell) and module.op_candidates_factory is not None:
                raise ValueError(
                    f"{name or type(module).__name__}: a {type(module).__name__} that makes its operations in a way of its own has no "
                    "latency here; allowed: a Cell with a list or dict of op_candidates"
                )
            if isinstance(module, Cell) and module.merge_op == "loose_end":
                raise ValueError(
                    f"{name or type(module).__name__}: a Cell with merge_op 'loose_end' has no latency here, since the shape of its "
                    "output depends on its inputs; allowed: merge_op 'all'"
                )

    # -- running ---------------------------------------------------------------------------------------------------------

    def _run(
        self, module: nn.Module, call: Call, what: str, given: dict[tuple[nn.Module, int], Any] | None = None
    ) -> CallTree:
        args, kwargs = self._example((call.args, call.kwargs))
        if given is not None:
            given = {key: self._example(value) for key, value in given.items()}
        try:
            return record(module, args, kwargs, products_of=self._apart.__contains__, counted=is_product, given=given)
        except Exception as error:
            raise ValueError(f"{what}: {error}") from error

    def _run_of_candidate(self, candidate: nn.Module, call: Call, what: str) -> CallTree:
        """That of another candidate that is alike and called alike, if there was one."""
        alone = len(call.args) == 1 and not call.kwargs and call.plain_shapes(self.batch) is not None
        if not alone or any(module in self._apart for module in candidate.modules()):
            return self._run(candidate, call, what)
        kind = likeness(candidate)
        if kind is None:
            return self._run(candidate, call, what)
        known = kind, call.args[0]
        if known not in self._runs:
            self._runs[known] = self._run(candidate, call, what)
        return self._runs[known]

    def _example(self, value: Any) -> Any:
        made = example_of(value, 1, lambda sizes, dtype: torch.zeros(sizes, dtype=dtype, device=self.device))
        return map_structure(made, torch.Tensor, lambda tensor: tensor.to(self.device))

    # -- taking apart ----------------------------------------------------------------------------------------------------

    def _walk(self, module: nn.Module, calls: list[CallTree], conditions: Conditions) -> Iterator[Operation]:
        """Operations of one module in all of its calls by one caller."""
        if module in self.grouped or isinstance(module, InputChoice):
            return
        if isinstance(module, LayerChoice):
            yield from self._walk_candidates(module, calls, conditions)
        elif isinstance(module, Repeat):
            yield from self._walk_blocks(module, calls, conditions)
        elif isinstance(module, OpenCell):
            yield from self._walk_cell(module, calls, conditions)
        elif module in self._apart or (type(module) is nn.Sequential and not conditions) or _calls_choice(calls):
            for call in calls:
                yield from self._products(call, conditions)
            yield from self._walk_children(calls, conditions)
        elif not is_free(module):
            for call in calls:
                self._require_known(module, call)
                plain = call.plain_shapes(self.batch)
                names = () if plain is None else other_names(module, *plain)
                yield self._operation(key_of(module, call), module, call, conditions, names)

    def _walk_children(self, calls: list[CallTree], conditions: Conditions) -> Iterator[Operation]:
        """In the order of the modules, and of the calls of one: it is the order of rows and of random draws."""
        by_module: dict[nn.Module, list[CallTree]] = {}
        for call in calls:
            for child in call.children:
                by_module.setdefault(child.module, []).append(child)
        for module in sorted(by_module, key=lambda module: self.order.get(module, -1)):
            yield from self._walk(module, by_module[module], conditions)

    def _walk_candidates(
        self, choice: LayerChoice, calls: list[CallTree], conditions: Conditions
    ) -> Iterator[Operation]:
        for call in calls:
            self._require_known(choice, call)
            outputs: dict[str, Any] = {}
            for name in choice.names:
                inside = both(conditions, choice.label, (name,))
                if inside is None:
                    continue
                what = f"candidate {name!r} of choice {choice.label!r}"
                run = self._run_of_candidate(choice[name], call, what)
                yield from self._walk(choice[name], [run], inside)
                outputs.update(self._outputs(run, call, what))
            self._varying[call] = outputs

    def _walk_blocks(self, repeat: Repeat, calls: list[CallTree], conditions: Conditions) -> Iterator[Operation]:
        depths = depths_of(repeat)
        for call in calls:
            if [child.module for child in call.children] != list(repeat.blocks):
                raise ValueError(
                    f"{self.names.get(repeat) or type(repeat).__name__}: a {type(repeat).__name__} that does not run its blocks one "
                    "after the other has no latency here"
                )
            given = [call.args[0] if call.args else None, *(child.output for child in call.children)]
            self._varying[call] = {text_of(given[depth]): given[depth] for depth in depths}
        for i, block in enumerate(repeat.blocks):
            for inside in reached(conditions, repeat, i):
                yield from self._walk(block, [call.children[i] for call in calls], inside)

    def _walk_cell(self, cell: OpenCell, calls: list[CallTree], conditions: Conditions) -> Iterator[Operation]:
        for called in (called for call in calls for called in call.children):
            for own in cell.conditions_of(called.module):
                inside = all_of(conditions, *own)
                if inside is not None:
                    yield from self._walk(called.module, [called], inside)

    def _operation(
        self, key: str, module: nn.Module, call: Call, conditions: Conditions, names: tuple[tuple[str, ...], ...] = ()
    ) -> Operation:
        tensors = call.tensors
        shape = () if not tensors else tensors[0].shape[1:]
        kept: Call | None = Call(call.args, call.kwargs, call.output)  # without what happened in it
        alone = self.batch == 1 and len(call.args) == 1 and not call.kwargs and call.plain_shapes() is not None
        if alone and tensors[0].dtype == floating_type(module)[1]:
            kept = None
        return Operation(key, module, shape, conditions, names, kept)

    def _require_known(self, module: nn.Module, call: Call) -> None:
        unknown = call.unknown()
        if unknown is not None:
            raise ValueError(
                f"{self.names.get(module) or type(module).__name__}: this {type(module).__name__} is called with a {unknown}, and has no "
                "latency here; allowed: tensors, numbers, texts and None, in tuples, lists and dicts or alone"
            )

    # -- what no module is called for --------------------------------------------------------------------------------------

    def _products(self, call: CallTree, conditions: Conditions) -> Iterator[Operation]:
        found = products_of(call)
        if found is not None:
            products, again, key = found
            yield self._operation(key, products, again, conditions)

    def _share_weights(self) -> None:
        """A weight that a module uses when it is called is that module's, though somebody else uses it as well."""
        called = {p for op in self.operations if not op.is_beside for p in op.module.parameters()}
        seen: set[nn.Parameter] = set()
        for op in self.operations:
            if isinstance(op.module, Products):
                own = [p for p in op.module.weights if p not in called and p not in seen]
                op.module.weights = nn.ParameterList(own)
                seen.update(own)
        self.operations = [op for op in self.operations if not isinstance(op.module, Products) or op.module.matters]

    # -- groups ------------------------------------------------------------------------------------------------------------

    def _group(
        self, head: str, names: tuple[str, ...], modules: Mapping[str, nn.Module], run: CallTree
    ) -> Iterator[Operation]:
        calls = [[call for call in run.walk() if call.module is modules[name]] for name in names]
        if len({len(found) for found in calls}) > 1:
            counts = ", ".join(f"{name} {len(found)} times" for name, found in zip(names, calls, strict=True))
            raise ValueError(f"fixed_operations: {head!r}: the space calls {counts}; allowed: all equally often")
        for parts in zip(*calls, strict=True):
            first, last = parts[0], parts[-1]
            call = Call(first.args, first.kwargs, last.output)
            self._require_known(first.module, call)
            # The same modules, called one by one in the space.
            module = nn.Sequential(*(modules[name] for name in names))
            shapes = call.plain_shapes(self.batch)
            if shapes is None:
                raise ValueError(
                    f"fixed_operations: {head!r} is called with {call.input_text} and gives {call.output_text}; allowed: one tensor each"
                )
            key = f"{head}-input:{shape_text(shapes[0])}-output:{shape_text(shapes[1])}"
            yield self._operation(key, module, call, (), _parts(head, shapes, parts))

    # -- what differs from candidate to candidate ------------------------------------------------------------------------

    def _outputs(self, run: CallTree, call: Call, what: str) -> dict[str, Any]:
        """All that a run may give, whatever is chosen inside of it.

        Raises
        ------
        ValueError
            What is called in it, and how, depends on what is chosen: one of the networks would have another cost.
        """
        outputs = {run.output_text: run.output}
        for inner, number in _of_this_run(run):
            found = (
                _inputs_of(inner.module, inner)
                if isinstance(inner.module, InputChoice)
                else self._varying.get(inner, {})
            )
            for text, output in found.items():
                if inner is not run and text != inner.output_text:
                    other = self._run_with(output, inner, number, run, call, what)
                    outputs.setdefault(other.output_text, other.output)
        outputs.update(self._varying.get(run, {}))
        return outputs

    def _run_with(self, output: Any, inner: CallTree, number: int, run: CallTree, call: Call, what: str) -> CallTree:
        """The same run in which a choice gives something else; refused if that makes a difference to what follows."""
        name = getattr(inner.module, "label", None) or self.names.get(inner.module)
        said = f"{what}: what choice {name!r} gives differs in shape, {inner.output_text} and {text_of(output)}, and what follows"
        allowed = "allowed: one shape, or none that makes a difference"
        try:
            other = self._run(run.module, call, "", {(inner.module, number): output})
        except ValueError as error:
            raise ValueError(f"{said} does not run: {str(error).removeprefix(': ')}; {allowed}") from error
        before, after = _signature(run, inner.module, number), _signature(other, inner.module, number)
        if before != after:
            differing = [one[0] for one, two in zip(before, after, strict=False) if one != two]
            last = differing[0] if differing else run.module
            raise ValueError(
                f"{said} ({self.names.get(last) or type(last).__name__}) costs something else then; {allowed}"
            )
        return other


def _of_this_run(run: CallTree) -> Iterator[tuple[CallTree, int]]:
    """Calls, each with its number among those of its module; but for those inside of choices, which have runs of their own."""
    numbers: dict[nn.Module, int] = {}
    inside: set[CallTree] = set()
    for call in run.walk():
        number = numbers[call.module] = numbers.get(call.module, -1) + 1
        if call not in inside:
            yield call, number
        if call in inside or isinstance(call.module, LayerChoice):
            inside.update(call.children)


def _signature(run: CallTree, without: nn.Module, number: int) -> list[tuple[nn.Module, str]]:
    """What is called how, but for what is inside one call."""
    found: list[tuple[nn.Module, str]] = []
    count = -1

    def walk(call: CallTree) -> None:
        nonlocal count
        if not is_free(call.module):
            found.append((call.module, call.input_text))
        found.extend((call.module, f"{function}{text_of(specs(args))}") for function, args, *_ in call.products)
        if call.module is without:
            count += 1
            if count == number:
                return
        for child in call.children:
            walk(child)

    walk(run)
    return found


def _inputs_of(choice: InputChoice, call: CallTree) -> dict[str, Any]:
    """What an ``InputChoice`` of a single input may give."""
    candidates = call.args[0] if call.args else call.kwargs.get("candidate_inputs", [])
    if choice.n_chosen != 1 or len({text_of(candidate) for candidate in candidates}) < 2:
        return {}
    return {text_of(candidate): candidate for candidate in candidates}


def _parts(head: str, shapes: tuple[Shape, Shape], parts: tuple[CallTree, ...]) -> tuple[tuple[str, ...], ...]:
    """Once-for-all times pooling on its own, and its classifier behind it; ProxylessNAS the two as one."""
    if head != "Logits" or len(parts) < 2:
        return ()
    (pooled, *_) = tensors_in(parts[0].output)[0].shape[1:]
    pool = f"AvgPool2D-input:{shape_text(shapes[0])}-output:1x1x{pooled}"
    return ((pool, f"{head}-input:1x1x{pooled}-output:{shape_text(shapes[1])}"),)


def _holds_choice(module: nn.Module) -> bool:
    # NNI's own layers (MutableConv2d and the like) are MutableModules as well; without a choice they are plain layers.
    return any(isinstance(m, MutableModule) and m.mutables for m in module.modules())


def _calls_choice(calls: list[CallTree]) -> bool:
    return any(isinstance(inner.module, CHOICES) and inner.module.mutables for call in calls for inner in call.walk())
