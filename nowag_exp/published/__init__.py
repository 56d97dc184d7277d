"""Numbers that others published, as data: their settings in terms of ours, and what may be compared with what."""

from nowag_exp.published.counterparts import Counterpart, counterparts
from nowag_exp.published.mapping import NotRunnable, overrides_of
from nowag_exp.published.rows import Published, load_csv, load_published, published_folder

__all__ = [
    "Counterpart",
    "NotRunnable",
    "Published",
    "counterparts",
    "load_csv",
    "load_published",
    "overrides_of",
    "published_folder",
]
