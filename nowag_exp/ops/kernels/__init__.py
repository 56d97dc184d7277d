"""Compiled kernels of the operations, and their plain torch twins; a module is imported when first needed."""
