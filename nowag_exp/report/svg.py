"""Fits a figure into a page: colours become variables, ids its own, and it gets an accessible name."""

import re
from xml.etree import ElementTree

from nowag_exp.report.palette import variables

SVG = "{http://www.w3.org/2000/svg}"
HREF = "{http://www.w3.org/1999/xlink}href"
HEX = re.compile(r"#[0-9a-fA-F]{6}\b")
FONT = re.compile(r"font: (?:[a-z]+ )?([0-9.]+px) [^;]*")
OWN = re.compile(r"url\(#([^)]*)\)")


def for_page(svg: str, key: str, title: str, description: str, tips: dict[str, str]) -> str:
    """A figure as an element of an HTML page.

    Args:
        svg: as matplotlib writes it.
        key: unique in the page; all ids begin with it.
        title: accessible name.
        description: what it shows, in words.
        tips: what marks say when they are pointed at, by the id that they were drawn with.
    """
    root = ElementTree.fromstring(svg)
    for name in ("width", "height", "version"):
        root.attrib.pop(name, None)
    for parent in list(root.iter()):
        for child in list(parent):
            # matplotlib's style would hold for the whole page; its rule is in the page's own.
            if child.tag == f"{SVG}style" or child.tag == f"{SVG}metadata":
                parent.remove(child)
    variable = {light: f"var({name})" for name, (light, _) in variables().items()}
    for element in root.iter():
        if tip := tips.get(element.get("id", "")):
            pointed_at = ElementTree.Element(f"{SVG}title")
            pointed_at.text = tip
            element.insert(0, pointed_at)
        for name in ("style", "clip-path"):
            if value := element.get(name):
                coloured = HEX.sub(lambda found: variable.get(found[0].lower(), found[0]), value)
                element.set(name, OWN.sub(rf"url(#{key}-\1)", FONT.sub(r"font-size: \1", coloured)))
        if own := element.get("id"):
            element.set("id", f"{key}-{own}")
        if (target := element.attrib.pop(HREF, None)) is not None:
            element.set("href", f"#{key}-{target.removeprefix('#')}")
    for tag, text in (("desc", description), ("title", title)):
        child = ElementTree.Element(f"{SVG}{tag}", {"id": f"{key}-{tag}"})
        child.text = text
        root.insert(0, child)
    root.attrib.update({"role": "img", "aria-labelledby": f"{key}-title", "aria-describedby": f"{key}-desc"})
    ElementTree.register_namespace("", SVG.strip("{}"))
    return ElementTree.tostring(root, encoding="unicode")
