"""A folder of pictures with a folder per class, read as an image viewer shows them.

torchvision's reader drops an alpha channel, clips 16 bits at 255, ignores the orientation in the EXIF data, takes a hidden
folder for a class and skips unknown suffixes silently.

    ROOT/CLASS/**/*.jpg -> pictures, in torchvision's order -> PIL picture, RGB, 8 bits, upright -> transform -> tensor
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image
from torch.utils.data import Dataset
from torchvision.datasets.folder import IMG_EXTENSIONS

from ..core.errors import UserError

__all__ = ["ImageFolder", "Pictures", "read_picture", "require_upright", "suffixes_of_pictures"]

_logger = logging.getLogger(__name__)

# Beside torchvision's, where this Pillow, or a plugin of it that somebody has registered, can read them.
_MORE = (
    ".apng", ".avif", ".avifs", ".dib", ".gif", ".heic", ".heif", ".j2c", ".j2k", ".jfif", ".jp2", ".jpe", ".jpf", ".jpx",
    ".pbm", ".pnm", ".qoi", ".tga",
)  # fmt: skip
_ORIENTATION = 0x0112  # EXIF's tag
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE, 8: Image.Transpose.ROTATE_90,
}  # fmt: skip
_MOST = 65535  # of 16 bits


def read_picture(source: str | Path | IO[bytes], name: str | None = None) -> Image.Image:
    """A picture as a viewer shows it: RGB with 8 bits, upright, on white where it is transparent; the first of an animation.

    Parameters
    ----------
    source
        Its path, or its bytes.
    name
        For people; None: the path in quotes.

    Raises
    ------
    UserError
        The file is damaged, or its range of values is unknown. The message names it.
    """
    try:
        with Image.open(source) as picture:
            picture.load()
            rgb = _rgb(picture)
            turn = _UPRIGHT.get(_orientation(picture))
    except MemoryError:
        raise
    except (
        Exception
    ) as error:  # decoders raise what they like: OSError, SyntaxError, EOFError, ValueError, struct.error, …
        why = str(error) or type(error).__name__
        if name is None:
            name = f"'{source}'"
        else:  # else the address of the bytes in memory
            why = why.replace(f" {source!r}", "")
        raise UserError(f"data: the picture {name} cannot be read: {why}; mend it or take it away") from error
    return rgb if turn is None else rgb.transpose(turn)


def require_upright(path: str, what: str, other: str) -> None:
    """Refuse a file with a note that it is to be turned: a viewer would turn the picture, and nothing what is said of its pixels.

    Parameters
    ----------
    what
        The file, for people.
    other
        What is said of the picture's pixels, for people: ``mask``.

    Raises
    ------
    UserError
        It has such a note.
    """
    with Image.open(path) as picture:  # not loaded: the decoder of TIFF turns a picture, and takes the tag away
        orientation = _orientation(picture)
    if orientation not in (0, 1):
        raise UserError(
            f"data: the {what} '{path}' has the orientation {orientation} in its EXIF data, by which picture and {other} would be turned apart; "
            "allowed: 1, or none: save it upright, without the tag"
        )


def _rgb(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith(("I", "F")):
        return _eight_bits(picture).convert("RGB")
    if picture.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in picture.info:
        if picture.mode == "La":
            picture = picture.convert("LA")
        rgba = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return picture.convert("RGB")


def _eight_bits(picture: Image.Image) -> Image.Image:
    """Scale 16 bits to 8; PIL would clip everything above 255 to white."""
    numbers = np.asarray(picture)
    if picture.mode == "F" or numbers.min() < 0 or numbers.max() > _MOST:
        raise ValueError(
            f"its pixels go from {numbers.min():.6g} to {numbers.max():.6g} ({picture.mode}), and nothing says what is white; allowed: "
            "8 or 16 bits per channel"
        )
    numbers = numbers.astype(np.int64)
    clear = picture.info.get("transparency")
    if isinstance(clear, int):
        numbers = np.where(numbers == clear, _MOST, numbers)
    return Image.fromarray(((numbers * 255 + _MOST // 2) // _MOST).astype(np.uint8))


def _orientation(picture: Image.Image) -> int:
    """As the camera noted it. Where a decoder has turned the picture already, as that of TIFF, it has taken the note away."""
    try:
        return int(picture.getexif().get(_ORIENTATION, 1))
    except Exception:  # notes that are damaged; the picture is not
        return 1


@dataclass(frozen=True)
class Pictures:
    """The pictures of a folder, with their classes: 0, 1, … in the order of the folders' names.

    Attributes
    ----------
    paths, targets
        In torchvision's order: by class, then by folder, then by name.
    classes
        Names of the folders.
    """

    paths: list[str]
    targets: list[int]
    classes: list[str]

    @classmethod
    def of(cls, root: Path) -> Pictures:
        """List the pictures of a folder; other files are skipped, and one line of the log counts and names them.

        Raises
        ------
        UserError
            There is no class, a class has no picture, or a folder cannot be looked into.
        """
        suffixes = suffixes_of_pictures()
        left_out: list[str] = []
        classes: list[str] = []
        paths: list[str] = []
        targets: list[int] = []
        empty: list[str] = []
        try:
            entries = sorted(os.scandir(root), key=lambda entry: entry.name)
            for entry in entries:
                if not entry.is_dir():
                    left_out.append(entry.path)
                    continue
                if entry.name.startswith(".") or entry.name == "__MACOSX":
                    left_out.extend(path for path in _files(entry.path) if _suffix(path) in suffixes)
                    continue
                found: list[str] = []
                for path in _files(entry.path):
                    hidden = any(part.startswith(".") for part in Path(path).relative_to(root).parts)
                    (found if _suffix(path) in suffixes and not hidden else left_out).append(path)
                if not found:
                    empty.append(entry.name)
                    continue
                targets += [len(classes)] * len(found)
                paths += found
                classes.append(entry.name)
        except OSError as error:
            raise UserError(f"data.root: '{error.filename}': {error.strerror}") from error
        _say(root, left_out, suffixes)
        if empty:
            raise UserError(
                f"data.root: no picture in {', '.join(repr(str(root / name)) for name in empty[:5])}{', …' if len(empty) > 5 else ''}; "
                f"allowed: {', '.join(sorted(suffixes))}; take away folders that are no class"
            )
        if not classes:
            raise UserError(f"data.root: no folder of a class in '{root}'; expected {root}/CLASS/*")
        return cls(paths, targets, classes)


def _files(folder: str) -> Iterator[str]:
    """As torchvision goes through a class: its folders in the order of their paths, then names."""

    def refuse(error: OSError) -> None:
        raise error

    for place, _, names in sorted(os.walk(folder, followlinks=True, onerror=refuse)):
        for name in sorted(names):
            yield os.path.join(place, name)


def _suffix(path: str) -> str:
    return os.path.splitext(path)[1].lower()


def suffixes_of_pictures() -> set[str]:
    Image.init()
    readable = {suffix for suffix, kind in Image.registered_extensions().items() if kind in Image.OPEN}
    return {suffix for suffix in (*IMG_EXTENSIONS, *_MORE) if suffix in readable}


def _say(root: Path, left_out: list[str], suffixes: set[str]) -> None:
    """Log the number and names of skipped files. Hidden files that are not pictures (.DS_Store) are ignored."""
    named = [path for path in left_out if not os.path.basename(path).startswith(".") or _suffix(path) in suffixes]
    if not named:
        return
    kinds = Counter(
        "hidden" if _suffix(path) in suffixes and _is_hidden(path, root)
        else "beside the folders of classes" if _suffix(path) in suffixes
        else _suffix(path) or "without suffix"
        for path in named
    )  # fmt: skip
    _logger.warning(
        "data.root: %s: %d left out (%s), the first: %s",
        root, len(named), ", ".join(f"{n} {kind}" for kind, n in kinds.most_common()), named[0],
    )  # fmt: skip


def _is_hidden(path: str, root: Path) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in Path(path).relative_to(root).parts)


class ImageFolder(Dataset):
    """Pictures through a transform, with their classes.

    Attributes
    ----------
    targets, classes
        Of :class:`Pictures`.
    """

    def __init__(self, pictures: Pictures, transform: Callable[[Image.Image], Any]):
        self.pictures, self.transform = pictures, transform

    @property
    def targets(self) -> list[int]:
        return self.pictures.targets

    @property
    def classes(self) -> list[str]:
        return self.pictures.classes

    def __len__(self) -> int:
        return len(self.pictures.paths)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return self.transform(read_picture(self.pictures.paths[index])), self.pictures.targets[index]
