"""One experiment as one JSON file: what was asked, what it was run on, what came out."""

import functools
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from nowag_exp.calibration import CompressedLinear
from nowag_exp.checksum import is_as_written, with_checksum
from nowag_exp.errors import RequestError
from nowag_exp.evaluation import Metric
from nowag_exp.files import atomic_write, parse_json
from nowag_exp.ledger import Irregularity

SCHEMA_VERSION = 4


@dataclass(frozen=True)
class Labels:
    """What a table calls the parts; the calibration is ``None`` if the method uses none.

    Attributes:
        settings: the main settings of the method in a few words.
        seed: of the calibration if it draws at random, else of the method if that does.
    """

    model: str
    method: str
    settings: str | None
    propagate: str | None
    calibration: str | None
    n_sequences: int | None
    context_length: int | None
    seed: int | None


@dataclass(frozen=True)
class Inputs:
    """What exactly went in.

    Attributes:
        model_files: sha256 of each file of the checkpoint, chat templates and generation settings included.
        calibration_token_hash: sha256 of the calibration token ids, as int64 little-endian.
    """

    model_files: dict[str, str]
    calibration_token_hash: str | None


@dataclass(frozen=True)
class Compression:
    """What became of the linears.

    Attributes:
        n_weights: weights in all compressed linears (embeddings, norms and lm_head are left alone).
        sparsity: fraction of them removed, counted.
        bits_per_weight: size of their compressed form over their number.
        n_parameters: of the whole model.
        bits_per_parameter: size of the whole model over their number.
        n_bytes: of all its tensors as a checkpoint holds them, headers aside; a saved one is held against it.
        linears: one by one.
    """

    n_weights: int
    sparsity: float
    bits_per_weight: float
    n_parameters: int
    bits_per_parameter: float
    n_bytes: int
    linears: list[CompressedLinear]


@dataclass(frozen=True)
class StageCost:
    """What a stage cost when it was computed.

    Attributes:
        seconds: of wall time.
        peak_bytes: highest resident memory while it ran; ``None`` where the system does not tell.
        peak_gpu_bytes: highest memory allocated on the GPU; ``None`` without one.
        reused: whether this experiment took the result from the store.
    """

    seconds: float
    peak_bytes: int | None
    peak_gpu_bytes: int | None
    reused: bool = False


@dataclass(frozen=True)
class Costs:
    """The only part of a record that differs between two runs of the same experiment on one machine.

    Attributes:
        started_at: the run that wrote the record.
        finished_at: likewise.
        stages: what each cost, work of interrupted runs that was taken over included.
        resumed: whether there was any.
    """

    started_at: str
    finished_at: str
    stages: dict[str, StageCost]
    resumed: bool = False


@dataclass(frozen=True)
class RunRecord:
    """Everything about one experiment.

    Attributes:
        schema_version: of this format.
        fingerprint: of ``identity``; also the file's name.
        identity: what fixes the result.
        config: the resolved config.
        labels: names for tables.
        inputs: hashes of what went in.
        compression: what became of the linears.
        metrics: what was measured.
        items_sha256: of the file with the zero-shot items beside the record; ``None`` without any.
        irregularities: the ledger.
        provenance: versions, commit, machine, threads.
        costs: seconds and memory a stage.
    """

    schema_version: int
    fingerprint: str
    identity: dict[str, Any]
    config: dict[str, Any]
    labels: Labels
    inputs: Inputs
    compression: Compression
    metrics: list[Metric]
    items_sha256: str | None
    irregularities: list[Irregularity]
    provenance: dict[str, Any]
    costs: Costs

    def to_json(self) -> str:
        """Stable text with its own checksum: same content, same bytes."""
        return with_checksum(asdict(self))


def record_path(results: Path, fingerprint: str) -> Path:
    """Where the record of an experiment is kept."""
    return results / "runs" / f"{fingerprint}.json"


def save_record(results: Path, record: RunRecord) -> Path:
    """Write a record, whole or not at all."""
    path, content = record_path(results, record.fingerprint), record.to_json().encode()
    with atomic_write(path, len(content)) as temporary:
        temporary.write_bytes(content)
    return path


def load_record(path: Path) -> RunRecord:
    """Read a record back.

    Raises:
        RequestError: naming the file, if it is damaged, of another schema version, or named for another experiment.
    """
    try:
        written = path.read_bytes()
        content = parse_json(written)
        version = content.get("schema_version") if isinstance(content, dict) else None
        if version != SCHEMA_VERSION:
            raise RequestError(
                f"{path}: has schema version {version}, this program reads {SCHEMA_VERSION}; move the file away and "
                "run its experiment again"
            )
        content.pop("checksum", None)
        found = _adapter().validate_python(content)
        if not is_as_written(written):
            raise ValueError("its checksum is another: it was changed after it was written")
        if path.stem != found.fingerprint:
            raise RequestError(
                f"{path}: is the record of {found.fingerprint}, under another name; rename it to "
                f"{found.fingerprint}.json, or remove it if there is one"
            )
        return found
    except (OSError, ValueError, ValidationError) as error:
        raise RequestError(
            f"{path}: is damaged ({_first_line(error)}); remove it and run its experiment again"
        ) from error


def load_records(results: Path) -> list[RunRecord]:
    """All records below a results folder, ordered by file name."""
    return [load_record(path) for path in sorted((results / "runs").glob("*.json"))]


@functools.cache
def _adapter() -> TypeAdapter[RunRecord]:
    return TypeAdapter(RunRecord)


def _first_line(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    return next(iter(str(error).splitlines()), type(error).__name__)
