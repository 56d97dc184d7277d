"""The page in a browser: drawn whole on a phone and a screen, sorted by hand and by key, dark, and printed."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nowag_exp.report.page import Report

CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's chromium (apt-get install chromium)")
A4_WIDTH = 703
"""Of a page without its margins, CSS pixels."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield launched
        launched.close()


@pytest.fixture
def open_page(browser: Any, report: Report, tmp_path: Path) -> Iterator[Any]:
    """Opens the study's report; afterwards nothing may have been complained of, or requested but the file itself."""
    path = tmp_path / "index.html"
    path.write_text(report.html, encoding="utf-8")
    contexts, said, asked = [], [], []

    def _open(width: int = 1280, scheme: str = "light") -> Any:
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(path.as_uri())
        return page

    yield _open
    for context in contexts:
        context.close()
    assert said == []
    assert set(asked) <= {path.as_uri(), "data:,"}


FIGURES = """() => [...document.querySelectorAll("figure")].map(figure => {
  const outer = figure.getBoundingClientRect(), svg = figure.querySelector("svg").getBoundingClientRect();
  const drawn = figure.querySelector("svg > g").getBoundingClientRect();
  const texts = [...figure.querySelectorAll("svg text")].map(text => text.getBoundingClientRect());
  const inside = box => box.left >= svg.left - 1 && box.right <= svg.right + 1
    && box.top >= svg.top - 1 && box.bottom <= svg.bottom + 1;
  return {width: svg.width, height: svg.height, fits: svg.right <= outer.right + 1 && outer.right <= innerWidth + 1,
    drawn: drawn.width > svg.width / 2, labels: texts.length, clipped: texts.filter(box => !inside(box)).length};
})"""


@pytest.mark.parametrize("width", [360, 1280])
def test_every_figure_is_drawn_inside_its_box_and_the_page_does_not_scroll_sideways(open_page: Any, width: int) -> None:
    page = open_page(width)
    figures = page.evaluate(FIGURES)
    # Of each model two metrics against bits, sparsity and sequences, a profile and its costs; and a heat map a metric.
    assert len(figures) == 2 * (2 * 3 + 2) + 2
    for figure in figures:
        assert figure["width"] > 250
        assert figure["height"] > 50
        assert figure["drawn"]
        assert figure["fits"]
        assert figure["labels"] > 3
        assert figure["clipped"] == 0
    assert page.evaluate("document.documentElement.scrollWidth") == width
    smallest = page.evaluate(
        """() => Math.min(...[...document.querySelectorAll("figure svg")].map(svg => {
             const scale = svg.getBoundingClientRect().width / svg.viewBox.baseVal.width;
             const sizes = [...svg.querySelectorAll("text")].map(text => parseFloat(getComputedStyle(text).fontSize));
             return scale * Math.min(...sizes);
           }))"""
    )
    assert smallest >= 8.5, "letters on a phone"


COLUMN = """([key, column]) => [...document.querySelectorAll(`#${key} tbody tr`)]
  .map(row => row.cells[column].textContent.trim())"""


def test_headings_sort_by_click_and_by_key_in_both_directions(open_page: Any) -> None:
    page = open_page()
    heading = page.locator("#rows-0-0 thead th", has_text="perplexity")
    column = heading.evaluate("th => th.cellIndex")
    before = page.evaluate(COLUMN, ["rows-0-0", column])
    assert heading.get_attribute("aria-sort") == "none"

    def first_numbers() -> list[float]:
        return [float(text.split()[0]) for text in page.evaluate(COLUMN, ["rows-0-0", column]) if text != "-"]

    heading.locator("button").click()
    assert heading.get_attribute("aria-sort") == "ascending"
    assert first_numbers() == sorted(first_numbers())
    assert sorted(first_numbers()) != sorted(first_numbers(), key=str), "99 after 12, not before 7"
    heading.locator("button").focus()
    page.keyboard.press("Enter")
    assert heading.get_attribute("aria-sort") == "descending"
    assert first_numbers() == sorted(first_numbers(), reverse=True)
    page.keyboard.press("Space")
    assert heading.get_attribute("aria-sort") == "ascending"
    assert sorted(page.evaluate(COLUMN, ["rows-0-0", column])) == sorted(before), "no row is lost"

    other = page.locator("#rows-0-0 thead th", has_text="sequences")
    column = other.evaluate("th => th.cellIndex")
    for expected in (["2", "8", "16"], ["16", "8", "2"]):
        other.locator("button").click()
        texts = page.evaluate(COLUMN, ["rows-0-0", column])
        known = list(dict.fromkeys(text for text in texts if text != "-"))
        assert known == expected
        assert texts[-1] == "-", "what is missing is last in both directions"
    assert heading.get_attribute("aria-sort") == "none"


COLOURS = """() => {
  const shown = [...document.querySelectorAll("p, li, td, tbody th, dt, dd, figcaption, button, h2, a, code")]
    .filter(element => element.getClientRects().length);
  const ground = element => {
    for (let e = element; e; e = e.parentElement) {
      const colour = getComputedStyle(e).backgroundColor;
      if (colour !== "rgba(0, 0, 0, 0)") return colour;
    }
  };
  const pairs = shown.map(element => [getComputedStyle(element).color, ground(element)].join("|"));
  return {pairs: [...new Set(pairs)], text: getComputedStyle(document.querySelector("figure svg text")).fill};
}"""


def contrast(pair: str) -> float:
    """Of WCAG 2, from ``rgb(1, 2, 3)|rgb(4, 5, 6)``."""

    def luminance(colour: str) -> float:
        parts = [int(part) / 255 for part in colour.removeprefix("rgb(").removesuffix(")").split(",")]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted(luminance(colour) for colour in pair.split("|"))
    return (high + 0.05) / (low + 0.05)


def test_light_and_dark_differ_and_all_text_can_be_read_in_both(open_page: Any) -> None:
    light, dark = (open_page(scheme=scheme).evaluate(COLOURS) for scheme in ("light", "dark"))
    assert light["text"] != dark["text"]
    assert not set(light["pairs"]) & set(dark["pairs"])
    for found in (light, dark):
        assert {pair for pair in found["pairs"] if contrast(pair) < 4.5} == set()


def test_print_is_light_cuts_no_table_off_and_gives_a_pdf(open_page: Any, tmp_path: Path) -> None:
    page = open_page(A4_WIDTH, "dark")
    page.emulate_media(media="print")
    widths = page.evaluate(
        """() => [...document.querySelectorAll(".scroll")]
             .map(box => [box.querySelector("table").getBoundingClientRect().right, box.closest(".wide") ? 1.41 : 1])"""
    )
    assert len(widths) > 5
    assert all(right <= A4_WIDTH * landscape for right, landscape in widths)
    assert page.evaluate("getComputedStyle(document.body).color") == "rgb(27, 31, 36)"
    assert page.pdf(format="A4")[:4] == b"%PDF"
