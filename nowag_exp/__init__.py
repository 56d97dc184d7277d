"""Experiments that compare compression methods for Llama models; see README.md."""

from types import ModuleType

import wrapt

__version__ = "0.1.0"


@wrapt.when_imported("transformers.quantizers.auto")
def _register_quantizer(module: ModuleType) -> None:
    """Teach transformers our packed checkpoints once it is imported; importing it here would cost seconds."""
    import nowag_exp.formats.quantizer  # noqa: F401
