"""``python -m benchmarks``: our code against plain formulations and against what the machine can do; see README.md."""

import argparse
import importlib
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from nowag_exp.errors import RequestError, report
from nowag_exp.layout import among

if TYPE_CHECKING:
    import torch

    from benchmarks.timing import Comparison, Rates

PARTS = ("masks", "forward", "kmeans", "solver", "packing", "zero_shot", "texts", "startup", "sweep", "memory")
LONG = ("sweep", "memory")
"""Minutes to an hour each: in full runs alone."""


def main(argv: list[str] | None = None) -> int:
    """Run, or compare two runs; 0 if all that was wanted is reached, 1 if not, 2 if the request was wrong."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] not in ([verb] for verb in VERBS):
        arguments.insert(0, "run")
    options = _parser().parse_args(arguments)
    try:
        return int(options.verb(options, arguments))
    except Exception as error:
        return report(error)


class _Parser(argparse.ArgumentParser):
    """Errors in one line."""

    def error(self, message: str) -> None:  # type: ignore[override]
        self.exit(2, f"error: {message}; see python -m benchmarks --help\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m benchmarks", description="Ours, the plain formulation, their ratio, and the floor."
    )
    verbs = parser.add_subparsers(metavar="VERB", required=True, parser_class=_Parser)
    known = {name: verbs.add_parser(name, help=text) for name, (_, text) in VERBS.items()}
    for name, (verb, _) in VERBS.items():
        known[name].set_defaults(verb=verb)
    known["run"].add_argument("parts", nargs="*", metavar="PART", help=f"of: {', '.join(PARTS)}; none for all")
    known["run"].add_argument("--full", action="store_true", help=f"the whole model, more rounds, {' and '.join(LONG)}")
    known["compare"].add_argument("a", metavar="A.json", type=Path)
    known["compare"].add_argument("b", metavar="B.json", type=Path)
    known["gpu"].add_argument("--quick", action="store_true", help="one block of Llama-2-7B instead of all 32")
    known["llmcompressor"].add_argument("methods", nargs="*", metavar="METHOD", help="sparsegpt, wanda, gptq")
    return parser


def _run(options: argparse.Namespace, arguments: list[str]) -> int:
    if unknown := [name for name in options.parts if name not in PARTS]:
        raise RequestError(f"{unknown[0]}: no such part{among(unknown[0], list(PARTS))}")
    if not options.full and (long := [name for name in options.parts if name in LONG]):
        raise RequestError(f"{long[0]}: takes long and has no quick form; add --full")
    from benchmarks.bench import CPU, Bench

    bench = Bench(options.full)
    names = options.parts or [name for name in PARTS if options.full or name not in LONG]

    def rows() -> "Iterator[Comparison]":
        for name in names:
            yield from importlib.import_module(f"benchmarks.{name}").run(bench)

    return _print_and_keep(rows(), arguments, CPU, lambda: bench.rates if bench.rates_were_measured else None)


def _compare(options: argparse.Namespace, arguments: list[str]) -> int:
    from benchmarks.results import compare_runs, load

    del arguments
    text = compare_runs(load(options.a), load(options.b))
    print(text, end="")
    return 1 if "SLOWER" in text else 0


def _gpu(options: argparse.Namespace, arguments: list[str]) -> int:
    import torch

    if not torch.cuda.is_available():
        raise RequestError("gpu: torch sees no GPU; install the CUDA build of torch on a machine that has one")
    from benchmarks import gpu, rates

    device = torch.device("cuda")
    measured = rates.measure(device)
    shapes = gpu.LLAMA2_7B
    return _print_and_keep(gpu.run(device, measured, shapes, options.quick), arguments, device, lambda: measured)


def _llmcompressor(options: argparse.Namespace, arguments: list[str]) -> int:
    from benchmarks import against_llmcompressor
    from benchmarks.bench import CPU

    return _print_and_keep(against_llmcompressor.run(options.methods), arguments, CPU, lambda: None)


VERBS = {
    "run": (_run, "time the parts (also without the word run)"),
    "compare": (_compare, "two runs side by side; says what got slower"),
    "gpu": (_gpu, "the Triton kernels, and whole methods on the shapes of Llama-2-7B; needs CUDA"),
    "llmcompressor": (_llmcompressor, "against llmcompressor, in an environment of its own (make bench-llmcompressor)"),
}


def _print_and_keep(
    rows: "Iterable[Comparison]", arguments: list[str], device: "torch.device", rates: "Callable[[], Rates | None]"
) -> int:
    """Print rows as they come; keep them also where a part fails."""
    from benchmarks import results

    print(results.HEADER)
    done = []
    try:
        for row in rows:
            print(results.line(row), flush=True)
            done.append(row)
    finally:
        if done:
            path = results.save(results.new_run(" ".join(arguments), device, rates(), done))
            print(f"kept: {path}, and the same as a table: {path.with_suffix('.md')}")
    return 0 if all(row.is_reached for row in done) else 1


if __name__ == "__main__":
    sys.exit(main())
