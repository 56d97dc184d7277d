"""Colours that can be seen, and told apart without them."""

import pytest

from nowag_exp.layout import groups
from nowag_exp.report.palette import COLOURS, GROUND, styles, variables


def luminance(colour: str) -> float:
    """Relative luminance of WCAG 2."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(a: str, b: str) -> float:
    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_every_colour_stands_out_from_its_ground(scheme: int) -> None:
    surface, band = GROUND["surface"][scheme], GROUND["band"][scheme]
    for pair in COLOURS:
        assert contrast(pair[scheme], surface) >= 3, pair
    for name in ("ink", "muted"):
        assert contrast(GROUND[name][scheme], surface) >= 4.5
        assert contrast(GROUND[name][scheme], band) >= 4.5


def test_methods_differ_in_marker_or_colour_and_keep_theirs_whatever_else_is_there() -> None:
    known = set(groups()["method"]) - {"dense"}
    alone, crowd = styles(["wanda"]), styles(["wanda", "dense", *(f"new_{n}" for n in range(20))])
    assert alone["wanda"] == crowd["wanda"]
    assert len(set(crowd.values())) == len(crowd) == len(known) + 20
    assert len({style.marker for name, style in crowd.items() if name in known}) == len(known)


def test_no_two_roles_share_a_colour() -> None:
    """In a page a colour becomes a variable by its light value."""
    light = [pair[0] for pair in variables().values()]
    assert len(set(light)) == len(light)
