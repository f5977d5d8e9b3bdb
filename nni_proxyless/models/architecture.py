"""``architecture.json``: the derived network as a file.

It holds the space, the choice per label, the block definition of the timm model, expected, table and measured latencies,
MACs, parameters, seed and versions. Reading it needs no NNI.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..core.atomic_files import write_text
from ..core.errors import UserError
from ..core.merit import CLASSIFICATION, Merit
from ..core.plain_values import as_plain

__all__ = ["Architecture"]

FORMAT = "nni-proxyless architecture 1"


@dataclass(frozen=True)
class Architecture:
    """The result of a search, in plain types.

    Attributes
    ----------
    space
        ``{'name': …, 'arguments': {…}}``, the model space it was found in.
    choices
        Label -> choice; of a file that was read, in plain types.
    input_shape
        Of one image, (channels, height, width).
    network
        The timm model's block definition; None for a space that has none, whose networks stay NNI modules.
    data
        ``{'name': …, 'arguments': {…}}``, the images it was searched on; with ``mean`` and ``std`` per channel, of pixels from 0 to 1, where
        the data set gives them.
    task
        ``{'name': …, 'arguments': {…}}``, what is learned of the images; files from before there were tasks are of classifications.
    latency
        Expected, table and measured milliseconds, and the conditions they hold under.
    macs, n_params
        Multiply-adds of convolutions and linear layers for one image; trainable parameters.
    search
        Strategy, seed, accuracy of the derived network with inherited weights; of another figure of merit its name, and ``metric``, which says what
        it is.
    versions
        Package -> version of what ran.
    """

    space: dict[str, Any]
    choices: dict[str, Any]
    input_shape: tuple[int, ...]
    network: dict[str, Any] | None
    data: dict[str, Any] = field(default_factory=dict)
    task: dict[str, Any] = field(default_factory=lambda: dict(CLASSIFICATION))
    latency: dict[str, Any] = field(default_factory=dict)
    macs: int = 0
    n_params: int = 0
    search: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)

    def write(self, path: str | Path) -> None:
        """Write ``architecture.json`` atomically."""
        choices = {label: as_plain(choice) for label, choice in self.choices.items()}
        write_text(path, json.dumps({"format": FORMAT, **asdict(self), "choices": choices}, indent=2) + "\n")

    @property
    def merit(self) -> Merit:
        """The figure of merit of its task, which ``search`` has under its name."""
        return Merit.of(self.search)

    @classmethod
    def read(cls, path: str | Path) -> Architecture:
        """Read ``architecture.json``.

        Raises
        ------
        UserError
            The file is missing, damaged or of another kind.
        """
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise UserError(f"{path}: {error.strerror}") from error
        except ValueError as error:
            raise UserError(f"{path}: not an architecture: {error}") from error
        if not isinstance(content, dict) or content.pop("format", None) != FORMAT:
            raise UserError(f"{path}: not an architecture: 'format' is not {FORMAT!r}")
        try:
            read = cls(**{**content, "input_shape": tuple(content["input_shape"])})
        except (TypeError, KeyError) as error:
            raise UserError(f"{path}: not an architecture: {error}") from error
        for key in ("mean", "std"):
            if key in read.data and not _are_numbers(read.data[key], read.input_shape):
                raise UserError(f"{path}: data.{key} is {read.data[key]!r}; allowed: a list with a number per channel")
        return read


def _are_numbers(values: Any, input_shape: tuple[int, ...]) -> bool:
    whole = isinstance(values, list) and len(values) == next(iter(input_shape), 0)
    return whole and all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values)
