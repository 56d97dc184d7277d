"""``nowag-exp compare``: which differences of two records, and of their settings, are shown."""

import argparse

HELP = "which differences of two records, and of their settings, are shown"
EPILOG = "example: nowag-exp compare 3f2a 91bc   (fingerprints: the last column of nowag-exp table --format csv)"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's own arguments."""
    parser.add_argument("first", metavar="A", help="a fingerprint, its first digits, or a record's file")
    parser.add_argument("second", metavar="B", help="likewise")
    parser.add_argument("overrides", nargs="*", default=[], metavar="paths.results=DIR", help="default: results")


def main(options: argparse.Namespace) -> int:
    """Print paired tests of every metric that both records have."""
    from nowag_exp.compose import results_folder
    from nowag_exp.records.comparison import compare_records, find_record, render_comparison

    results = results_folder(options.overrides)
    a, b = find_record(results, options.first), find_record(results, options.second)
    print(render_comparison(a[1], b[1], compare_records(a, b)), end="")
    return 0
