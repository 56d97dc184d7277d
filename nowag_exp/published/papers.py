"""What is known of a paper's protocol and stands in no column of its rows. Sources: docs/protocols.md."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Paper:
    """``None``: not stated.

    Attributes:
        c4: the option that its "c4" is.
        suite: the option with its zero-shot tasks, whose mean is its mean.
        lm_eval: version of lm-eval.
        accuracy: ``acc`` or ``acc_norm``, where the table does not say.
        dtype: of weights and activations.
    """

    c4: str | None = None
    suite: str | None = None
    lm_eval: str | None = None
    accuracy: str | None = None
    dtype: str | None = None


OURS = "nowag_exp"
"""What the ``paper`` column says of our own runs."""

WINDOWS = Paper(c4="c4_windows")

PAPERS = {
    "NoWag (arXiv 2504.14569)": Paper(c4="c4_windows", suite="paper_zero_shot", lm_eval="0.3.0", accuracy="acc"),
    "Wanda (arXiv 2306.11695)": Paper(
        c4="c4_joined", suite="wanda_zero_shot", lm_eval="commit df3da98", dtype="float16"
    ),
    "SparseGPT (arXiv 2301.00774)": Paper(c4="c4_joined"),
    "GPTQ (arXiv 2210.17323)": WINDOWS,
    "QuIP# (arXiv 2402.04396)": WINDOWS,
    "AQLM (arXiv 2401.06118)": WINDOWS,
    "AQLM repo README": WINDOWS,
    "GuidedQuant (quotes AQLM paper)": WINDOWS,
    "GuidedQuant (quotes AQLM paper for GPTQ)": WINDOWS,
    "QTIP (arXiv 2406.11235)": WINDOWS,
    "VPTQ (arXiv 2409.17066)": WINDOWS,
    "OmniQuant (arXiv 2308.13137)": WINDOWS,
}
UNKNOWN = Paper()


def paper_of(name: str) -> Paper:
    """What is known of a paper; of one that is not listed, nothing."""
    return PAPERS.get(name, UNKNOWN)
