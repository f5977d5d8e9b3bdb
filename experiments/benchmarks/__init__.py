"""Benchmarks, a folder per question; README.md lists them. Run from the root of a clone: ``python -m experiments.benchmarks.QUESTION.run``."""

import warnings
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

# NNI 3.0 warns of newer torch while it is imported; the other two warn of every short fit.
warnings.filterwarnings("ignore", message=".*is found to be not a nn.Module")
warnings.filterwarnings("ignore", message=".*does not have many workers")
warnings.filterwarnings("ignore", message=".*isinstance.treespec, LeafSpec")
