"""Where text comes from, and how windows of tokens are drawn from it."""

from nowag_exp.text.sampling import MOST_DRAWN, DrawnTokens, Windows, draw
from nowag_exp.text.sources import HubText, LocalText, TextSource
from nowag_exp.text.tokenizer import Tokenizer, load_tokenizer, load_transformers_tokenizer, require_known
from nowag_exp.text.wiki_sample import WikiSample

__all__ = [
    "MOST_DRAWN",
    "DrawnTokens",
    "HubText",
    "LocalText",
    "TextSource",
    "Tokenizer",
    "WikiSample",
    "Windows",
    "draw",
    "load_tokenizer",
    "load_transformers_tokenizer",
    "require_known",
]
