"""Weights & Biases."""

import os
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, ClassVar, Literal

from nowag_exp.errors import RequestError, without_userinfo
from nowag_exp.records.record import RunRecord
from nowag_exp.records.tables import tidy
from nowag_exp.settings import settings
from nowag_exp.tracking.base import Tracker
from nowag_exp.tracking.contents import LEDGER_COLUMNS, facts, ledger_rows, metrics, numbers, title

if TYPE_CHECKING:
    from wandb import Run, Settings, Table
    from wandb.sdk.lib.wbauth import HostUrl

CONNECT_SECONDS = 60
"""After this long without an answer of the server, W&B gives a run up."""

NOT_IN_A_NAME = "/\\#?%:"
LONGEST_NAME = 128
"""What W&B refuses in a project, as it says when a run is sent; entities stand in the same URL."""


@settings
class WandbTracking(Tracker):
    """One W&B run a record, with the record's fingerprint as its id.

    Attributes:
        project: of W&B.
        entity: of W&B; ``null`` for the default one of the login.
        mode: ``offline`` writes ``wandb/`` in the results folder, for ``wandb sync``; ``online`` also sends it.
        group: of the runs; ``null`` for the name of the sweep.
        checkpoints: also send the compressed model, if it was saved, as an artifact.
        timeout: seconds that sending one record may take, its checkpoint included.
    """

    name: ClassVar[str] = "wandb"

    project: str
    entity: str | None
    mode: Literal["offline", "online"]
    group: str | None
    checkpoints: bool
    timeout: float

    def __post_init__(self) -> None:
        if not self.project:
            raise ValueError("project: must not be empty; set tracking.project=NAME")
        for key, value in {"project": self.project, "entity": self.entity}.items():
            if value is not None and not set(NOT_IN_A_NAME).isdisjoint(value):
                raise ValueError(f"{key}: W&B takes none of {' '.join(NOT_IN_A_NAME)} in a name; got {value!r}")
        for key, value in {"project": self.project, "entity": self.entity, "group": self.group}.items():
            if value is not None and not 0 < len(value) <= LONGEST_NAME:
                raise ValueError(f"{key}: must have 1 to {LONGEST_NAME} characters; got {len(value)}")
        if not self.timeout > 0:
            raise ValueError(f"timeout: must be more than 0 seconds; got {self.timeout}")

    def check(self) -> None:
        if self.mode == "offline":
            return
        _library()
        from wandb.errors import AuthenticationError
        from wandb.sdk.lib import wbauth

        try:
            # What wandb.init() asks before it prompts: WANDB_API_KEY, netrc and settings files, for this server.
            login = wbauth.authenticate_session(host=_server(), source="nowag-exp", prompt=False, update_session=False)
        except (AuthenticationError, ValueError) as error:
            raise RequestError(f"tracking.mode=online: {' '.join(str(error).split())}") from error
        if login is None:
            raise RequestError(
                "tracking.mode=online: not logged in to W&B; run: wandb login, or set WANDB_API_KEY, or set "
                "tracking.mode=offline"
            )

    def destination(self) -> str:
        where = without_userinfo(str(_server())) if self.mode == "online" else "offline"
        return f"{where}: {self.entity or 'default entity'}/{self.project}"

    def send(self, record: RunRecord, results: Path, group: str | None) -> None:
        wandb = _library()
        run = wandb.init(
            project=self.project,
            entity=self.entity,
            mode=self.mode,
            dir=results,
            id=record.fingerprint,
            resume="allow",
            reinit="create_new",
            name=title(record),
            group=self.group or group,
            config=record.config,
            settings=_quiet_settings(wandb, self.timeout),
        )
        try:
            if run.step == 0:  # Not sent before: a run that is continued has its step.
                run.log(metrics(record), step=0)
            run.summary.update(numbers(record) | facts(record))
            self._add_tables(wandb, run, record)
            _add_record(run, record)
            if self.checkpoints:
                _add_checkpoint(wandb, run, results, record.fingerprint)
        except BaseException:
            run.finish(exit_code=1)
            raise
        run.finish(exit_code=0)

    @staticmethod
    def _add_tables(wandb: ModuleType, run: "Run", record: RunRecord) -> None:
        table = tidy([record])
        rows = table.astype("object").where(table.notna(), None).to_numpy().tolist()
        tables: dict[str, Table] = {
            "table": wandb.Table(columns=list(table.columns), data=rows),
            "ledger": wandb.Table(columns=LEDGER_COLUMNS, data=ledger_rows(record)),
        }
        for key, content in tables.items():
            # Bound by hand, a table is a file of its run. W&B would bind it when it is set, and then also copy it to
            # the user's home as an artifact, where `wandb sync` on another machine would not find it.
            content.bind_to_run(run, key, "summary")
            run.summary[key] = content


def _library() -> ModuleType:
    """W&B, without its own lines on the terminal and without reports to its makers."""
    # Read when it is imported and when its service starts.
    os.environ.setdefault("WANDB_SILENT", "true")
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    import wandb

    return wandb


def _server() -> "HostUrl":
    """The server that this user's settings name: WANDB_BASE_URL, a settings file, or the public one."""
    _library()
    from wandb.sdk import wandb_setup
    from wandb.sdk.lib import wbauth

    known = wandb_setup.singleton().settings
    return wbauth.HostUrl(known.base_url, app_url=known.app_url)


def _quiet_settings(wandb: ModuleType, timeout: float) -> "Settings":
    """Nothing but what we send: no code, no git, no host, no console, no machine statistics, no links."""
    return wandb.Settings(
        console="off",
        silent=True,
        host="",
        disable_git=True,
        disable_code=True,
        save_code=False,
        symlink=False,
        use_dot_wandb=False,
        x_disable_meta=True,
        x_disable_machine_info=True,
        x_disable_stats=True,
        x_save_requirements=False,
        # A send that was given up by us ends by these, so that it does not keep the process from ending.
        init_timeout=min(timeout, CONNECT_SECONDS),
        finish_timeout=timeout,
        finish_timeout_raises=True,
    )


def _add_record(run: "Run", record: RunRecord) -> None:
    path = Path(run.dir) / "record.json"
    path.write_text(record.to_json(), encoding="utf-8")
    run.save(str(path), base_path=run.dir, policy="now")


def _add_checkpoint(wandb: ModuleType, run: "Run", results: Path, fingerprint: str) -> None:
    """The folder of the compressed model, if there is one; ``immutable``, because W&B would copy it to the home."""
    for config in (results / "checkpoints").glob(f"*-{fingerprint}/config.json"):
        folder = config.parent
        artifact = wandb.Artifact(f"checkpoint-{fingerprint}", type="model")
        for file in sorted(path for path in folder.rglob("*") if path.is_file()):
            artifact.add_file(str(file), name=str(file.relative_to(folder)), policy="immutable", skip_cache=True)
        run.log_artifact(artifact)
