"""One-shot strategies for NNI: two methods, each in a file that reads like its paper.

========================  ==================================================================================
:mod:`.proxyless`         ProxylessNAS (Cai, Zhu, Han; ICLR 2019), with :mod:`.reinforce`
:mod:`.dsnas`             DSNAS (Hu, Xie et al.; CVPR 2020)
:mod:`.gate`              what both share: the gate of a choice, and the gradient that it would have received
:mod:`.supernet`          modules that run only the sampled path: layers, inputs, depths
:mod:`.refusal`           spaces that none of them can search
:mod:`.oneshot`           a method as a strategy of NNI: arguments, supernet, data
:mod:`.module`            the search inside Lightning: weight steps, and what an architecture step is put together from
:mod:`.processes`         the same on several processes
:mod:`.resume`            the same when it is killed and started again; on :mod:`.checkpoint` and :mod:`.replay`
:mod:`.identity`          which options make it another search
========================  ==================================================================================
"""

from .dsnas import DSNAS
from .proxyless import ProxylessNAS

__all__ = ["DSNAS", "ProxylessNAS"]
