"""Matrix products and convolutions that a module computes itself, outside of its submodules, as a module.

``torch.matmul`` in the forward of a space, a convolution whose kernel is a parameter of the space: no module is called, and what is
counted or timed by modules would miss them.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import flop_registry

from .calls import Call, CallTree, map_structure, shape_text, specs, text_of

__all__ = ["MORE_FLOPS", "Products", "is_product", "products_of"]

aten = torch.ops.aten


def _shape(value: Any) -> tuple[int, ...]:
    return tuple(getattr(value, "shape", value))


def _matrix_times_vector(matrix: Any, vector: Any, *args: Any, **kwargs: Any) -> int:
    rows, columns = _shape(matrix)
    return 2 * rows * columns


def _plus_matrix_times_vector(added: Any, matrix: Any, vector: Any, *args: Any, **kwargs: Any) -> int:
    return _matrix_times_vector(matrix, vector)


def _vector_times_vector(one: Any, other: Any, *args: Any, **kwargs: Any) -> int:
    return 2 * _shape(one)[0]


def _trilinear(one: Any, two: Any, three: Any, *args: Any, **kwargs: Any) -> int:
    """x W x, as in ``nn.Bilinear``: of each of the rows, first with one x and then with the other."""
    (rows, *_), (outputs, left, right) = _shape(one), _shape(two)[-3:]
    return 2 * rows * outputs * (left * right + right)


def _lstm(x: Any, of_input: Any, of_state: Any, *args: Any, **kwargs: Any) -> int:
    """Each step of each sequence by the weights of its input and by those of the state before."""
    *steps, _ = _shape(x)
    return 2 * math.prod(steps) * (math.prod(_shape(of_input)) + math.prod(_shape(of_state)))


def _cudnn_rnn(x: Any, weights: Any, *args: Any, **kwargs: Any) -> int:
    *steps, _ = _shape(x)
    return 2 * math.prod(steps) * sum(math.prod(_shape(weight)) for weight in weights if len(_shape(weight)) == 2)


MORE_FLOPS: dict[Any, Callable[..., int]] = {
    aten.mv: _matrix_times_vector, aten.addmv: _plus_matrix_times_vector, aten.dot: _vector_times_vector,
    aten.vdot: _vector_times_vector, aten._trilinear: _trilinear,
    aten.mkldnn_rnn_layer: _lstm, aten._cudnn_rnn: _cudnn_rnn,
}  # fmt: skip
"""Of torch's functions that its ``FlopCounterMode`` does not know: two for a multiply-add, as it counts."""


def is_product(function: Any) -> bool:
    """Whether one of torch's functions is a product of matrices or a convolution."""
    packet = getattr(function, "_overloadpacket", None)
    return packet in flop_registry or packet in MORE_FLOPS


class _Weight(int):
    """Stands for a weight among the inputs of a product: its number."""


class Product(nn.Module):
    """One product, which holds its weights and is given the rest."""

    def __init__(self, function: Any, args: Any, kwargs: Any, is_weight: Callable[[Tensor], bool]):
        super().__init__()
        self.function = function
        weights: list[Tensor] = []

        def keep(tensor: Tensor) -> Any:
            if not is_weight(tensor):
                return tensor
            weights.append(tensor.detach())
            return _Weight(len(weights) - 1)

        kept = map_structure((tuple(args), dict(kwargs)), Tensor, keep)
        for i, weight in enumerate(weights):
            self.register_buffer(f"weight{i}", weight)
        self.inputs = specs(kept)

    def forward(self, inputs: Any) -> Any:
        args, kwargs = map_structure(inputs, _Weight, lambda i: self.get_buffer(f"weight{int(i)}"))
        return self.function(*args, **kwargs)

    def extra_repr(self) -> str:
        weights = ",".join(shape_text(tuple(weight.shape)) for weight in self.buffers(recurse=False))
        return f"{self.function}: {text_of(self.inputs)}; {weights}"


class Products(nn.Module):
    """All products of one call of a module.

    Attributes
    ----------
    owner
        The class of the module whose ``forward`` computes them.
    """

    def __init__(self, owner: str, products: list[Product], weights: list[nn.Parameter]):
        super().__init__()
        self.owner = owner
        self.products = nn.ModuleList(products)
        self.weights = nn.ParameterList(weights)

    @property
    def matters(self) -> bool:
        """Whether there is anything to run or to count."""
        return len(self.products) + len(self.weights) > 0

    def forward(self, *inputs: Any) -> list[Any]:
        return [product(given) for product, given in zip(self.products, inputs, strict=True)]


def products_of(call: CallTree) -> tuple[Products, Call, str] | None:
    """What a module computed by itself in one call, the call that does so again, and its key; None if it was nothing.

    It holds the module's own parameters and those that the products use.
    """
    own = list(call.module.parameters(recurse=False))
    if not call.products and not own:
        return None
    found = {id(parameter): parameter for parameter in call.module.parameters()}
    used = {id(parameter): parameter for parameter in own}

    def is_weight(tensor: Tensor) -> bool:
        base = tensor if tensor._base is None else tensor._base
        if id(base) in found:
            used[id(base)] = found[id(base)]
            return True
        return False

    products = [Product(function, args, kwargs, is_weight) for function, args, kwargs, _ in call.products]
    outputs = [specs(output) for *_, output in call.products]
    owner = type(call.module).__name__
    texts = [repr(product) for product in products]
    key = f"{owner}.forward-{len(products)}-{hashlib.sha256(repr(texts).encode()).hexdigest()[:8]}"
    inputs = tuple(product.inputs for product in products)
    return Products(owner, products, list(used.values())), Call(inputs, {}, outputs), key
