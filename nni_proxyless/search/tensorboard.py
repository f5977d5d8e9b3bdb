"""Write heat maps, networks and figures of a search to TensorBoard, beside the curves that Lightning writes.

==============================  ==================================================================================
``search/NAME``                 every figure that is reported, of :class:`.monitor.DerivedNetworkMonitor`
``probabilities/LABEL``         a heat map per choice: epochs to the right, a row per candidate, :mod:`.heat_map`; drawn
                                when they have changed, and at the end
``probabilities/choices``       in their place where there are more than a hundred: a row per choice, how probable its most
                                probable candidate is
``probabilities/mean``          and a row per candidate, its mean probability over the choices that have it
``network``                     the network that would be derived now, drawn when it has become another one
==============================  ==================================================================================

Their steps are epochs, from 1 on. Pictures are not drawn after each, see :func:`is_drawn`: of a short search they took a tenth. A
search that goes on after a kill draws all of its epochs: their probabilities lie beside the curves, in ``probabilities.jsonl``.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pytorch_lightning.loggers import TensorBoardLogger

from ..core.atomic_files import write_text
from ..core.many_choices import MOST_SHOWN, mean_probs
from ..models.block_diagram import diagram_of_definition, places_of
from ..models.draw import draw_networks
from .heat_map import draw_choices, draw_heat_map

__all__ = ["PROBABILITIES", "TensorBoardLog"]

_logger = logging.getLogger(__name__)

PROBABILITIES = "probabilities.jsonl"
DOTS_PER_INCH = 90

Probabilities = Mapping[str, Mapping[Any, float]]


class TensorBoardLog:
    """Writes a search to TensorBoard.

    A picture that cannot be drawn is one line in the log, and the search goes on.
    """

    def __init__(self) -> None:
        self._epochs: list[dict[str, Any]] | None = None
        self._drawn: Mapping[str, Any] | None = None
        self._maps_drawn: dict[str, Sequence[float]] = {}
        self._columns: dict[int, tuple[list[float], list[float]]] = {}  # of the pictures of many choices, by epoch
        self._has_complained = False

    def write(
        self, logger: Any, epoch: int, epochs: int | None, *, space: Any, figures: Mapping[str, float],
        sample: Mapping[str, Any], probs: Probabilities, input_shape: tuple[int, ...], unit: str,
        worth: str,
    ) -> None:  # fmt: skip
        """Write the epoch that has just ended.

        Parameters
        ----------
        logger
            The trainer's; one that does not write for TensorBoard gets nothing.
        epoch, epochs
            As the trainer counts them, from 0 on; of how many.
        space
            Its method ``timm_definition``, if it has one, gives the blocks to draw.
        figures
            Go in as they are, one curve each.
        sample
            The network of the moment.
        probs
            Label -> candidate -> probability, the live ones.
        unit
            Of what the search limits, such as ms.
        worth
            What the network of the moment is worth, in words.
        """
        if not isinstance(logger, TensorBoardLogger):
            return
        writer = logger.experiment
        try:
            for name, value in figures.items():
                writer.add_scalar(f"search/{name}", value, epoch + 1)
            self._write_probabilities(Path(logger.log_dir) / PROBABILITIES, epoch, probs)
            now = is_drawn(epoch, epochs)
            if now:
                self._draw_probabilities(writer, epoch, probs, is_last=epoch + 1 == epochs)
            if now and sample != self._drawn and hasattr(space, "timm_definition"):
                self._drawn = dict(sample)
                name = f"after epoch {epoch + 1}"
                words = f"{figures['table_ms']:.4g} {unit} by its table, {worth}"
                picture = picture_of_network(space, sample, input_shape, name, words)
                writer.add_image("network", picture, epoch + 1, dataformats="HWC")
        except Exception as error:
            if not self._has_complained:
                _logger.warning("TensorBoard lacks pictures of this search: %s", error)
            self._has_complained = True
        writer.flush()  # else whoever reads waits for up to two minutes

    def _write_probabilities(self, path: Path, epoch: int, probs: Probabilities) -> None:
        """Append a line; the file is written anew where an epoch of it does not count."""
        is_first = self._epochs is None
        before = _read(path) if self._epochs is None else self._epochs
        now = {label: [round(p, 6) for p in distribution.values()] for label, distribution in probs.items()}
        # Epochs from here on, if there are any, are of an earlier search, or are gone through again after a kill.
        kept = [entry for entry in before if entry["epoch"] <= epoch]
        self._epochs = [*kept, {"epoch": epoch + 1, "probabilities": now}]
        self._columns = {kept_epoch: column for kept_epoch, column in self._columns.items() if kept_epoch <= epoch}
        if is_first or len(kept) < len(before):
            write_text(path, "".join(f"{json.dumps(entry)}\n" for entry in self._epochs))
        else:
            with path.open("a", encoding="utf-8") as file:
                file.write(f"{json.dumps(self._epochs[-1])}\n")

    def _draw_probabilities(self, writer: Any, epoch: int, probs: Probabilities, *, is_last: bool) -> None:
        assert self._epochs is not None
        several = {label: distribution for label, distribution in probs.items() if len(distribution) > 1}
        if len(several) > MOST_SHOWN:
            self._draw_many(writer, epoch, several, is_last=is_last)
            return
        for label, distribution in several.items():
            now = self._epochs[-1]["probabilities"][label]
            if now == self._maps_drawn.get(label) and not is_last:
                continue  # nothing new: weights alone train, or the choice is made
            self._maps_drawn[label] = now
            over_time = np.full((len(distribution), epoch + 1), math.nan)
            for entry in self._epochs:
                over_time[:, entry["epoch"] - 1] = entry["probabilities"].get(label, math.nan)
            picture = draw_heat_map(label, [str(candidate) for candidate in distribution], over_time)
            writer.add_image(f"probabilities/{label}", picture, epoch + 1, dataformats="HWC")

    def _draw_many(self, writer: Any, epoch: int, probs: Probabilities, *, is_last: bool) -> None:
        """Two pictures of all choices: how decided each is, and what they choose."""
        assert self._epochs is not None
        now = [p for label in probs for p in self._epochs[-1]["probabilities"][label]]
        if now == self._maps_drawn.get("") and not is_last:
            return
        self._maps_drawn[""] = now
        candidates = list(mean_probs(probs))
        most_probable = np.full((len(probs), epoch + 1), math.nan)
        means = np.full((len(candidates), epoch + 1), math.nan)
        for entry in self._epochs:
            then, at = entry["probabilities"], entry["epoch"]
            if not probs.keys() <= then.keys():
                continue
            if at not in self._columns:
                mean = mean_probs({label: dict(zip(probs[label], then[label], strict=True)) for label in probs})
                self._columns[at] = [max(then[label]) for label in probs], [mean[candidate] for candidate in candidates]
            most_probable[:, at - 1], means[:, at - 1] = self._columns[at]
        title = f"probability of the most probable candidate, {len(probs)} choices"
        pictures = {
            "choices": draw_choices(title, list(probs), most_probable),
            "mean": draw_heat_map(f"mean of {len(probs)} choices", candidates, means),
        }
        for name, picture in pictures.items():
            writer.add_image(f"probabilities/{name}", picture, epoch + 1, dataformats="HWC")


def _read(path: Path) -> list[dict[str, Any]]:
    """The epochs of a file; a line that a kill has cut off is none."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def is_drawn(epoch: int, epochs: int | None) -> bool:
    """Whether pictures are drawn after this epoch, the first being 0: after the 1st, 2nd, 4th, 8th and so on, and after each tenth of all.

    They show all but the last tenth of a search, and at its end all. One of which nobody knows how long it will last draws after each
    epoch, and less often the longer it has lasted.
    """
    done = epoch + 1
    if epochs is None or epochs < 1:
        return done % max(1, done // 10) == 0
    return done & epoch == 0 or done * 10 // epochs > epoch * 10 // epochs


def picture_of_network(
    space: Any, sample: Mapping[str, Any], input_shape: tuple[int, ...], name: str, figures: str
) -> np.ndarray:
    """A network as :func:`..models.draw.draw_networks` draws it, shape (height, width, 3)."""
    places = places_of(sample)
    diagram = diagram_of_definition(name, space.timm_definition(sample), input_shape, figures=figures, places=places)
    return pixels(draw_networks([diagram]))


def pixels(figure: Any) -> np.ndarray:
    """A figure as an image, shape (height, width, 3), one byte per color."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure.set_dpi(DOTS_PER_INCH)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3]
