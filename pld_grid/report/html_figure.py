"""A figure's SVG as a part of an HTML page."""

import re
from xml.etree import ElementTree

from pld_grid.report.figures import Figure

PIXELS_PER_POINT = 4 / 3
_REFERENCE = re.compile(r"url\(#([^)]+)\)")
# Children that describe the file, or would style the whole page.
_OMITTED = ("metadata", "style", "title")


def inline_svg(figure: Figure, prefix: str) -> str:
    """Return the drawing as an `<svg>` element that an HTML page may hold beside others.

    Ids get a prefix, because a page's ids must differ. Style attributes become presentation attributes, which a page
    that forbids inline styles shows too. The element is labelled with the figure's `alt`.
    """
    root = ElementTree.fromstring(figure.svg)
    _convert(root, prefix)
    for side in ("width", "height"):
        root.set(side, _to_pixels(root.get(side, "")))
    # The rules of matplotlib's own style element.
    root.attrib |= {"stroke-linejoin": "round", "stroke-linecap": "butt", "role": "img", "aria-label": figure.alt}
    return ElementTree.tostring(root, encoding="unicode")


def _convert(element: ElementTree.Element, prefix: str) -> None:
    element.tag = _local_name(element.tag)
    attributes = {_local_name(name): value for name, value in element.attrib.items()}
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
        if _local_name(child.tag) in _OMITTED:
            element.remove(child)
        else:
            _convert(child, prefix)


def _local_name(name: str) -> str:
    """Return a name without its namespace; an HTML parser knows the elements of SVG."""
    return name.rpartition("}")[2]


def _to_pixels(length: str) -> str:
    return f"{float(length.removesuffix('pt')) * PIXELS_PER_POINT:g}" if length.endswith("pt") else length
