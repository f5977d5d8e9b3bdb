"""Embed a matplotlib figure in an HTML page.

What an SVG file says of itself does not belong there: its namespaces, its metadata with addresses, its fonts, its style sheet,
which would be the page's. Identifiers get a prefix, since those of two pictures would be the same. Colors with a meaning
in the page become its own, so black is light in the dark.
"""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING
from xml.etree import ElementTree

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["inline_svg"]

COLORS = {
    "#000000": "currentColor", "#ffffff": "var(--paper)", "#dddddd": "var(--line)", "#808080": "var(--muted)",
    "#696969": "var(--muted)", "#a8480f": "var(--searched)", "#3b6ea5": "var(--reference)", "#6b6b6b": "var(--random)",
}  # fmt: skip
PIXELS_PER_POINT = 4 / 3


def inline_svg(figure: Figure, prefix: str, label: str) -> str:
    """The figure as one ``<svg>`` element.

    Parameters
    ----------
    figure
        Drawn by matplotlib, as :mod:`.pareto_front` does.
    prefix
        Of its identifiers; another one for every picture of a page.
    label
        The text for a reader who sees no picture.
    """
    from matplotlib import rc_context

    buffer = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "nni-proxyless"}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    root = ElementTree.fromstring(buffer.getvalue())
    width, height = (float(root.attrib[side].removesuffix("pt")) * PIXELS_PER_POINT for side in ("width", "height"))
    _without(root, "metadata")
    _without(root, "style")
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
        element.tail = None
        if element.text is not None and not element.text.strip():
            element.text = None
        attributes = {name.rpartition("}")[2]: value for name, value in element.attrib.items()}
        element.attrib.clear()
        for name, value in attributes.items():
            element.attrib[name] = _rewritten(name, value, prefix)
    root.attrib = {
        "class": "picture", "viewBox": root.attrib["viewBox"], "width": f"{width:.0f}", "height": f"{height:.0f}",
        "role": "img", "aria-label": label,
    }  # fmt: skip
    return ElementTree.tostring(root, encoding="unicode")


def _without(root: ElementTree.Element, name: str) -> None:
    for parent in root.iter():
        for child in [child for child in parent if child.tag.rpartition("}")[2] == name]:
            parent.remove(child)


def _rewritten(name: str, value: str, prefix: str) -> str:
    if name == "id":
        return f"{prefix}-{value}"
    if name == "href":
        return value.replace("#", f"#{prefix}-")
    value = value.replace("url(#", f"url(#{prefix}-")
    if name in ("style", "fill", "stroke"):
        value = re.sub(r"#[0-9a-f]{6}", lambda match: COLORS.get(match[0], match[0]), value)
        value = re.sub(r"font-family: [^;]*;? ?", "", value)
        value = re.sub(r"font: (?:(bold|\d+) )?([\d.]+px)[^;]*", _size_alone, value)  # matplotlib before 3.11
    return value.replace("\n", "")


def _size_alone(font: re.Match[str]) -> str:
    return f"font-weight: {font[1] or 'normal'}; font-size: {font[2]}"
