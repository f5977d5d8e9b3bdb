"""The parts of a supernet that a step asks for, found once: walking through thousands of modules at every step would be felt."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from nni_proxyless.core.nni_compat import MixedOperation

__all__ = ["SupernetParts"]


@dataclass(frozen=True)
class SupernetParts:
    """What a supernet is made of.

    Attributes
    ----------
    weights
        Everything that it trains but the logits.
    batch_norms
        All batch norms, and instance norms, which may have running statistics too.
    super_kernels
        All layers that run a slice of their weights.
    """

    weights: list[nn.Parameter]
    batch_norms: list[nn.Module]
    super_kernels: list[nn.Module]

    @classmethod
    def of(cls, supernet: nn.Module) -> SupernetParts:
        modules = list(supernet.modules())
        norms: list[nn.Module] = [m for m in modules if isinstance(m, _NormBase)]
        return cls(list(supernet.parameters()), norms, [m for m in modules if isinstance(m, MixedOperation)])
