"""Documents that are in no file."""

from pathlib import Path

from nowag_exp.text.documents import Documents
from nowag_exp.text.readers import Records


def given_texts(*texts: object) -> Documents:
    """The texts, in order."""
    return Records(Path("given"), [{"text": text} for text in texts], "text")
