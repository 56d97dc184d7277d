"""Where records are sent beside their files. W&B comes with the evaluation suites; until then, nowhere."""

from nowag_exp.settings import settings


@settings
class NoTracking:
    """Records stay in their files."""
