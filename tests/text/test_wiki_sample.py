import bz2
from pathlib import Path

import pytest

from nowag_exp.compose import compose
from nowag_exp.config import build_experiment
from nowag_exp.text import WikiSample
from nowag_exp.text.wiki_sample import clean_articles, clean_wikitext

LONG = "This sentence is long enough to count as a paragraph of prose, since it has more than eighty characters in it."


def test_templates_references_tables_and_files_go_and_prose_stays() -> None:
    wikitext = (
        "{{Infobox|name={{nested}}}}\n"
        f"[[File:x.png|thumb|A [[picture]] of it]]'''Bold''' [[link|shown]]{LONG}<ref name=\"a\">{{{{cite}}}}</ref>\n"
        '{| class="wikitable"\n| cell\n|}\n'
        "== Heading ==\n* a list entry\n"
        f"{LONG} &amp; [[Category:Things]] <math>x^2</math>\n"
        "[[de:Ding]]"
    )
    assert clean_wikitext(wikitext).split("\n\n") == [f"Bold shown{LONG}", f"{LONG} &"]


def test_gaps_of_removed_templates_are_closed() -> None:
    assert (
        clean_wikitext(f"A ({{{{lang|el|x}}}}, from Greek ) word , {{{{a}}}} {LONG}") == f"A (from Greek) word, {LONG}"
    )


def test_markup_that_could_not_be_parsed_goes_with_its_paragraph() -> None:
    assert clean_wikitext(f"{LONG} [[File:broken|\n\n{LONG}") == LONG


def test_redirects_are_left_out_and_order_is_kept(tmp_path: Path) -> None:
    page = "<page><title>{}</title>{}<revision><text>{}</text></revision></page>"
    pages = page.format("A", "", LONG) + page.format("R", '<redirect title="A" />', "x") + page.format("B", "", LONG)
    dump = tmp_path / "dump.bz2"
    dump.write_bytes(bz2.compress(f'<mediawiki xmlns="http://www.mediawiki.org/x">{pages}</mediawiki>'.encode()))
    assert list(clean_articles(dump)) == [("A", LONG), ("B", LONG)]


@pytest.mark.real_model
def test_calibration_and_evaluation_share_no_article() -> None:
    experiment = build_experiment(compose([]))
    assert experiment.calibration is not None
    calibration = list(experiment.calibration.documents())
    evaluation = list(experiment.texts["evaluation.wiki_sample"].documents())
    assert len(calibration) == len(evaluation) == 53
    assert not set(calibration) & set(evaluation)
    # Nor any paragraph: an article that was in both under two titles would be found here.
    paragraphs = [{p for text in half for p in text.split("\n\n")} for half in (calibration, evaluation)]
    assert not paragraphs[0] & paragraphs[1]
    assert 2_000_000 < sum(map(len, calibration + evaluation)) < 3_000_000


@pytest.mark.real_model
def test_a_damaged_text_in_the_cache_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calibration = build_experiment(compose([])).calibration
    assert isinstance(calibration, WikiSample)
    whole = calibration.fetch()
    monkeypatch.setenv("NOWAG_EXP_CACHE", str(tmp_path))
    folder = tmp_path / "texts" / whole.parent.name
    folder.mkdir(parents=True)
    (folder / whole.name).write_bytes(whole.read_bytes()[:-100])
    made = []
    monkeypatch.setattr(WikiSample, "_make", lambda self, target: made.append((target / whole.name).touch()))
    calibration.fetch()
    assert len(made) == 1
