"""``nowag-exp explain``: what differs between two records, and which of it makes the difference."""

import argparse

HELP = "what differs between two records, and what makes the difference"
EPILOG = (
    "example: nowag-exp explain 3f2a 91bc --attribute   (fingerprints: the last column of nowag-exp table --format csv)"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's own arguments."""
    parser.add_argument("first", metavar="A", help="a fingerprint, its first digits, or a record's file")
    parser.add_argument("second", metavar="B", help="likewise")
    parser.add_argument(
        "--attribute", action="store_true", help="run A with one setting of B at a time, and attribute the gap"
    )
    parser.add_argument("overrides", nargs="*", default=[], metavar="paths.results=DIR", help="default: results")


def main(options: argparse.Namespace) -> int:
    """Print what differs; with ``--attribute`` also what each setting alone changes; last the conclusion."""
    from nowag_exp.compose import results_folder
    from nowag_exp.explain import explain, render_explanation
    from nowag_exp.records.comparison import find_record

    results = results_folder(options.overrides)
    a, b = find_record(results, options.first), find_record(results, options.second)
    found = explain(a, b)
    print(render_explanation(found))
    if options.attribute and not found.one_record:
        from nowag_exp.experiment import Workbench
        from nowag_exp.explain import plan_attribution, render_attribution, render_rerun, rerun
        from nowag_exp.progress import Reporter

        bench, reporter = Workbench(), Reporter()
        planned = plan_attribution(a, b, results, bench)
        if planned is None:
            print("no setting differs that changes a number: running A's experiment again from nothing")
            print(render_rerun(rerun(a, b, bench, reporter)))
        else:
            print(planned.describe(), end="\n\n", flush=True)
            print(render_attribution(planned.run(bench, reporter)))
    print(f"conclusion: {found.conclusion}")
    return 0
