"""``nowag-exp export``: a saved checkpoint in a form that other tools read."""

import argparse
from pathlib import Path

HELP = "a saved checkpoint in a form other tools read"
EPILOG = (
    "examples: nowag-exp export results/checkpoints/FOLDER --to dense\nnowag-exp export "
    "results/checkpoints/FOLDER --to compressed-tensors --out llama-int4   (needs pip install .[export])"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's own arguments."""
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="that checkpoint.save=true wrote")
    parser.add_argument(
        "--to", choices=("dense", "compressed-tensors"), required=True, help="dense: ordinary weights, for any tool"
    )
    parser.add_argument("--out", metavar="DIR", type=Path, help="a new folder; default: FOLDER-dense and so on")


def main(options: argparse.Namespace) -> int:
    """Write a packed folder in another form, and verify it."""
    from nowag_exp.formats.export import export

    done = export(options.folder, options.to, options.out)
    print(f"wrote {done.folder} ({_size(done.n_bytes)} of tensors, {done.dtype})")
    print(f"verified: transformers loads it, all {done.n_linears} compressed linears are equal bit for bit")
    print(f"load it with: {done.loading}")
    if done.why_dequantize:
        print(f"dequantize=True is needed: {done.why_dequantize}")
    return 0


def _size(n_bytes: int) -> str:
    return f"{n_bytes / 1e9:.2f} GB" if n_bytes >= 1e9 else f"{n_bytes / 1e6:.2f} MB"
