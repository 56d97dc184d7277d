"""``nowag-exp track``: send records that a tracker does not have yet."""

import argparse

from nowag_exp.errors import RequestError

HELP = "send records that a tracker does not have yet"
EPILOG = "example: nowag-exp track tracking=wandb tracking.mode=online paths.results=DIR"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's own arguments."""
    parser.add_argument(
        "overrides", nargs="*", default=[], metavar="KEY=VALUE", help="tracking=NAME, its settings, paths.results"
    )


def main(options: argparse.Namespace) -> int:
    """Send them, a line a record."""
    from nowag_exp.compose import tracking_and_results
    from nowag_exp.config import build
    from nowag_exp.layout import groups
    from nowag_exp.records.record import load_records
    from nowag_exp.runner import send_logged
    from nowag_exp.tracking import NoTracking, Tracker, is_sent
    from nowag_exp.tracking.contents import title

    node, results = tracking_and_results(options.overrides)
    tracker = build(node, "tracking", Tracker)  # type: ignore[type-abstract]
    if isinstance(tracker, NoTracking):
        others = " or ".join(f"tracking={name}" for name in groups()["tracking"] if name != NoTracking.name)
        raise RequestError(f"tracking=none: sends nothing; choose one: nowag-exp track {others}")
    tracker.check()
    records = load_records(results)
    if not records:
        raise RequestError(f"{results}: holds no records, so nothing was sent; set paths.results=DIR")
    counts = {"sent": 0, "sent before": 0, "failed": 0}
    for record in records:
        try:
            before, failure = is_sent(tracker, record, results), None
        except RequestError as error:  # One damaged receipt keeps no other record back.
            before, failure = False, str(error)
        failure = failure or send_logged(tracker, record.fingerprint, results)
        outcome = "failed" if failure else "sent before" if before else "sent"
        counts[outcome] += 1
        print(f"{record.fingerprint} {title(record)}: {outcome}{f', {failure}' if failure else ''}")
    print(f"{tracker.name}: " + ", ".join(f"{n} {outcome}" for outcome, n in counts.items()))
    return 1 if counts["failed"] else 0
