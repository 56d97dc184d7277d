"""TensorBoard."""

import importlib.util
import json
import shutil
import textwrap
from pathlib import Path
from typing import ClassVar

from tabulate import tabulate

from nowag_exp.errors import RequestError
from nowag_exp.files import atomic_folder, locked
from nowag_exp.records.record import RunRecord
from nowag_exp.settings import settings
from nowag_exp.tracking.base import Tracker
from nowag_exp.tracking.contents import LEDGER_COLUMNS, facts, ledger_rows, metrics, numbers

NO_GROUP = "runs"


@settings
class TensorBoardTracking(Tracker):
    """One folder a record: ``tensorboard/GROUP/FINGERPRINT`` in the results folder.

    Attributes:
        group: ``null`` for the name of the sweep, or ``runs`` for a single run.
    """

    name: ClassVar[str] = "tensorboard"
    timeout = 60.0

    group: str | None

    def __post_init__(self) -> None:
        if self.group is not None and (self.group in ("", ".", "..") or "/" in self.group or "\\" in self.group):
            raise ValueError(f"group: must be the name of a folder; got {self.group!r}")

    def check(self) -> None:
        if importlib.util.find_spec("tensorboard") is None:
            raise RequestError(
                "tracking=tensorboard: the package tensorboard is not installed; run: pip install .[tensorboard]"
            )

    def destination(self) -> str:
        return "tensorboard"

    def send(self, record: RunRecord, results: Path, group: str | None) -> None:
        from torch.utils.tensorboard import SummaryWriter
        from torch.utils.tensorboard.summary import hparams

        board = results / "tensorboard"
        folder = board / (self.group or group or NO_GROUP) / record.fingerprint
        with locked(folder), atomic_folder(folder) as temporary:
            with SummaryWriter(str(temporary)) as writer:
                for key, value in numbers(record).items():
                    writer.add_scalar(key, value, global_step=0)
                writer.add_text("config", _as_code(json.dumps(record.config, indent=1)), global_step=0)
                writer.add_text("facts", tabulate(facts(record).items(), ("key", "value"), "github"), global_step=0)
                writer.add_text("ledger", tabulate(ledger_rows(record), LEDGER_COLUMNS, "github"), global_step=0)
                labels = {key: value for key, value in vars(record.labels).items() if value is not None}
                for summary in hparams(labels, metrics(record)):
                    writer.file_writer.add_summary(summary)
            # TensorBoard puts the host into the name of its file.
            (events,) = temporary.iterdir()
            events.rename(temporary / f"events.out.tfevents.{record.fingerprint}")
        for old in board.glob(f"*/{record.fingerprint}"):
            if old != folder:
                shutil.rmtree(old)


def _as_code(text: str) -> str:
    return textwrap.indent(text, " " * 4)
