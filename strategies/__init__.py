"""One-shot strategies for NNI: two methods, each in a file that reads like its paper.

========================  ==================================================================================
:mod:`.supernet`          what both share: the gate of a choice, and the layer that runs only the sampled path
:mod:`.oneshot`           how a sampled supernet is trained inside NNI and Lightning, whatever the method
:mod:`.proxyless`         ProxylessNAS (Cai, Zhu, Han; ICLR 2019)
========================  ==================================================================================
"""

from .proxyless import ProxylessNAS

__all__ = ["ProxylessNAS"]
