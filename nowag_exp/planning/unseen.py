"""What is known of data sets before they are downloaded; rounded, and used for nothing but estimates."""

from nowag_exp.evaluation import ZeroShot
from nowag_exp.text import HubText

FILE_BYTES = {
    ("allenai/c4", "en/c4-train.00000-of-01024.json.gz"): 319e6,
    ("allenai/c4", "en/c4-validation.00000-of-00008.json.gz"): 40e6,
    ("Salesforce/wikitext", "wikitext-2-raw-v1/train-00000-of-00001.parquet"): 6.4e6,
    ("Salesforce/wikitext", "wikitext-2-raw-v1/test-00000-of-00001.parquet"): 0.7e6,
    ("ptb-text-only/ptb_text_only", "penn_treebank/test/0000.parquet"): 0.2e6,
    ("ptb-text-only/ptb_text_only", "penn_treebank/validation/0000.parquet"): 0.2e6,
}
"""Sizes of files by repository and path."""

REPO_BYTES = {"togethercomputer/RedPajama-Data-1T-Sample": 5e9}
"""Sizes of all files that are read, of repositories whose files are read together."""

TOKENS = {
    ("Salesforce/wikitext", "wikitext-2-raw-v1/test-00000-of-00001.parquet"): 341_000,
    ("ptb-text-only/ptb_text_only", "penn_treebank/test/0000.parquet"): 110_000,
    ("ptb-text-only/ptb_text_only", "penn_treebank/validation/0000.parquet"): 95_000,
    ("allenai/c4", "en/c4-validation.00000-of-00008.json.gz"): 540_000,
}
"""Tokens of Llama-2 in a text of which all windows are taken; of C4, in its first 1100 documents."""

ITEMS = {
    "arc_challenge": (1172, 65),
    "arc_easy": (2376, 55),
    "boolq": (3270, 145),
    "hellaswag": (10042, 215),
    "openbookqa": (500, 40),
    "piqa": (1838, 60),
    "rte": (277, 85),
    "winogrande": (1267, 50),
}
"""Items of a task, and tokens that one of them takes with all its answers."""

TOKENS_AN_ITEM = 30
"""Of a task that is not among :data:`ITEMS`: ours on packaged Wikipedia have 25."""


def download_bytes(text: HubText) -> float | None:
    """Size of the files of a text; ``None`` if it is not known."""
    whole = REPO_BYTES.get(text.repo)
    sizes = [FILE_BYTES.get((text.repo, file)) for file in text.files]
    return whole if whole is not None else None if None in sizes else sum(filter(None, sizes))


def n_tokens(text: HubText) -> int | None:
    """Tokens in all of a text; ``None`` if it is not known."""
    found = [TOKENS.get((text.repo, file)) for file in text.files]
    return None if None in found else sum(filter(None, found))


def items_and_tokens(suite: ZeroShot) -> tuple[int, int] | None:
    """Items of a suite, and the tokens they take; ``None`` if it is not here and not known."""
    if suite.is_here():
        n_items = suite.n_items()
        sizes = [ITEMS.get(task, (1, TOKENS_AN_ITEM))[1] for task in suite.tasks]
        return n_items, n_items * sum(sizes) // len(sizes)
    if any(task not in ITEMS for task in suite.tasks):
        return None
    counts = [(min(n, suite.limit or n), tokens) for n, tokens in map(ITEMS.__getitem__, suite.tasks)]
    return sum(n for n, _ in counts), sum(n * tokens for n, tokens in counts)
