"""A figure's SVG as a part of an HTML page."""

import re
from xml.etree import ElementTree

from pld_grid.report.figures import Figure

_POINT = 4 / 3
_REFERENCE = re.compile(r"url\(#([^)]+)\)")
# They describe the file, or style the whole page that the drawing stands in.
_LEFT_OUT = ("metadata", "style", "title")


def inline_svg(figure: Figure, prefix: str) -> str:
    """The drawing as an `<svg>` element that an HTML page may hold beside others.

    Ids get a prefix, as a page's ids must differ. Style attributes become presentation attributes,
    which a page that forbids inline styles shows too. The element is named by the figure's `alt`.
    """
    root = ElementTree.fromstring(figure.svg)
    _walk(root, prefix)
    for side in ("width", "height"):
        root.set(side, _pixels(root.get(side, "")))
    # What matplotlib's own style element says of all lines.
    root.attrib |= {"stroke-linejoin": "round", "stroke-linecap": "butt", "role": "img", "aria-label": figure.alt}
    return ElementTree.tostring(root, encoding="unicode")


def _walk(element: ElementTree.Element, prefix: str) -> None:
    element.tag = _local(element.tag)
    attributes = {_local(name): value for name, value in element.attrib.items()}
    for declaration in attributes.pop("style", "").split(";"):
        name, colon, value = declaration.partition(":")
        if colon:
            attributes[name.strip()] = value.strip()
    for name, value in attributes.items():
        attributes[name] = _REFERENCE.sub(rf"url(#{prefix}\1)", value)
    if "id" in attributes:
        attributes["id"] = prefix + attributes["id"]
    if attributes.get("href", "").startswith("#"):
        attributes["href"] = f"#{prefix}{attributes['href'][1:]}"
    element.attrib.clear()
    element.attrib.update(attributes)
    for child in list(element):
        if _local(child.tag) in _LEFT_OUT:
            element.remove(child)
        else:
            _walk(child, prefix)


def _local(name: str) -> str:
    """A name without its namespace: inside HTML the parser knows what belongs to SVG."""
    return name.rpartition("}")[2]


def _pixels(length: str) -> str:
    return f"{float(length.removesuffix('pt')) * _POINT:g}" if length.endswith("pt") else length
