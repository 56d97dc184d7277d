"""Experiments that compare compression methods for Llama models; see README.md."""

__version__ = "0.1.0"
