"""One experiment, read from top to bottom, and the workbench that lets experiments share what is the same."""

import logging
from typing import Any, Literal, get_args

import torch

from nowag_exp.calibration import Calibration, CompressedLinear, compress, walk
from nowag_exp.calibration.statistics import VERSION as STATISTICS_VERSION
from nowag_exp.calibration.statistics import BlockStatistics, from_tensors, to_tensors
from nowag_exp.config import Experiment
from nowag_exp.errors import ConfigError, RequestError
from nowag_exp.evaluation import Evaluation, Metric, perplexity, window_losses
from nowag_exp.files import locked
from nowag_exp.ledger import Ledger
from nowag_exp.methods import Needs
from nowag_exp.models import CausalLM, ModelSource, input_widths
from nowag_exp.progress import Reporter
from nowag_exp.records.provenance import CostMeter, provenance
from nowag_exp.records.record import (
    SCHEMA_VERSION,
    Compression,
    Inputs,
    Labels,
    RunRecord,
    StageCost,
    load_record,
    record_path,
    save_record,
)
from nowag_exp.records.store import Store, Stored, content_key
from nowag_exp.text import DrawnTokens, Tokenizer, load_tokenizer

Group = Literal["calibration", "evaluation"]
GROUPS: tuple[Group, ...] = get_args(Group)

DEFAULT_THREADS = torch.get_num_threads()

log = logging.getLogger(__name__)


class Workbench:
    """What experiments of one process share: tokenizers, drawn tokens, checked models, and the last loaded one."""

    def __init__(self) -> None:
        self._tokenizers: dict[str, Tokenizer] = {}
        self._tokens: dict[str, DrawnTokens] = {}
        self._architectures: dict[str, dict[str, Any]] = {}
        self._model: tuple[str, CausalLM] | None = None

    def architecture(self, experiment: Experiment) -> dict[str, Any]:
        """The model's ``config.json``, after its checkpoint has been checked."""
        key = content_key({"model": experiment.identity["model"], "context": experiment.model.context_length})
        if key not in self._architectures:
            self._architectures[key] = experiment.model.check()
        return self._architectures[key]

    def tokens(self, experiment: Experiment, group: Group) -> DrawnTokens:
        """Windows of the calibration or evaluation text in the model's tokens.

        Drawn once for equal identities, so a record's hash is of the tokens that were used.

        Raises:
            RequestError: if the text is too short, or is not what it was when the experiment was fingerprinted.
        """
        text = getattr(experiment, group)
        weights = experiment.model.weights_identity()
        key = content_key({"model": weights, "text": experiment.identity[group]})
        if key not in self._tokens:
            source = content_key(weights)
            if source not in self._tokenizers:
                self._tokenizers[source] = load_tokenizer(experiment.model.folder())
            drawn = text.tokens(self._tokenizers[source])
            if text.identity() != experiment.identity[group]:
                raise RequestError(f"{group}: the text changed while it was read; run the same command again")
            self._tokens[key] = drawn
        return self._tokens[key]

    def model(self, source: ModelSource, device: torch.device) -> CausalLM:
        """The model with its original weights; one is kept, and restored if an experiment changed it."""
        key = content_key({**source.identity(), "device": str(device)})
        if self._model is None or self._model[0] != key:
            self._model = None  # Free the old one first.
            self._model = (key, source.load(device))
        self._model[1].restore()
        return self._model[1]


def check(experiment: Experiment, bench: Workbench) -> None:
    """Everything that can be found wrong before weights are loaded; downloads what is missing.

    Raises:
        RequestError: on the first thing that is.
    """
    choose_device(experiment)
    with locked(record_path(experiment.paths.folder, experiment.fingerprint)):
        pass  # The results folder can be written.
    architecture = bench.architecture(experiment)
    for linear, width in input_widths(architecture).items():
        if problem := experiment.method.check_width(linear, width):
            raise ConfigError([f"method.{problem}"])
    longest, vocabulary = architecture.get("max_position_embeddings"), architecture["vocab_size"]
    for group in GROUPS:
        text = getattr(experiment, group)
        if text is None:
            continue
        if longest is not None and text.context_length > longest:
            raise ConfigError(
                [f"{group}.context_length: {text.context_length} is more than the model's {longest} positions"]
            )
        highest = int(bench.tokens(experiment, group).ids.max())
        if highest >= vocabulary:
            raise RequestError(
                f"model {experiment.model.label}: its tokenizer gives token {highest}, but config.json has "
                f"vocab_size {vocabulary}; the tokenizer is another model's"
            )


def recorded(experiment: Experiment) -> RunRecord | None:
    """The record of an equal experiment, if there is one."""
    path = record_path(experiment.paths.folder, experiment.fingerprint)
    return load_record(path) if path.exists() else None


def run(experiment: Experiment, bench: Workbench, reporter: Reporter) -> RunRecord:
    """Run one experiment and keep its record.

    Raises:
        NowagError: for a reason that has a name; other exceptions are bugs or the machine's.
    """
    meter, ledger = CostMeter(), Ledger()
    device = choose_device(experiment)
    torch.set_num_threads(experiment.runtime.threads or DEFAULT_THREADS)
    with meter.stage("load"):
        model = bench.model(experiment.model, device)
    if experiment.model.identity() != experiment.identity["model"]:
        raise RequestError(
            "model: its files changed since the experiment was fingerprinted; run the same command again"
        )
    linears = _compress(experiment, model, bench, meter, ledger, reporter)
    metric = _evaluate(experiment, model, bench, meter, ledger, reporter)
    record = RunRecord(
        schema_version=SCHEMA_VERSION,
        fingerprint=experiment.fingerprint,
        identity=experiment.identity,
        config=experiment.config,
        labels=_labels(experiment),
        inputs=Inputs(
            model_files=model.checkpoint.hashes(),
            calibration_token_hash=(bench.tokens(experiment, "calibration").sha256 if experiment.calibration else None),
        ),
        compression=_summarise(linears),
        metrics=[metric],
        irregularities=ledger.entries,
        provenance=provenance(device),
        costs=meter.finish(),
    )
    log.info("kept %s", save_record(experiment.paths.folder, record))
    return record


def choose_device(experiment: Experiment) -> torch.device:
    """The device that ``runtime.device`` means here.

    Raises:
        RequestError: if it asks for a GPU that is not there.
    """
    wanted = experiment.runtime.device
    if wanted == "cuda" and not torch.cuda.is_available():
        raise RequestError(
            "runtime.device=cuda: torch sees no GPU; install the CUDA build of torch, or set runtime.device=auto"
        )
    return torch.device("cuda" if wanted != "cpu" and torch.cuda.is_available() else "cpu")


def _compress(
    experiment: Experiment, model: CausalLM, bench: Workbench, meter: CostMeter, ledger: Ledger, reporter: Reporter
) -> list[CompressedLinear]:
    method, n_blocks = experiment.method, len(model.blocks)
    statistics = None
    if experiment.calibration is not None and method.needs is not Needs.NOTHING:
        tokens = bench.tokens(experiment, "calibration")
        _note_overlap(tokens, "calibration", ledger)
        if method.propagate == "compressed":
            # Pulled by the compression below, so its cost is part of that stage.
            statistics = walk(model, tokens.ids, _batch_size(experiment, experiment.calibration), "compressed")
        else:
            statistics = iter(
                _dense_statistics(experiment, experiment.calibration, model, tokens, meter, ledger, reporter)
            )
    with meter.stage("compression"), reporter.stage(f"{method.name}: blocks", n_blocks) as tick:
        return compress(model, method, statistics, ledger, tick)


def _dense_statistics(
    experiment: Experiment,
    calibration: Calibration,
    model: CausalLM,
    tokens: DrawnTokens,
    meter: CostMeter,
    ledger: Ledger,
    reporter: Reporter,
) -> list[BlockStatistics]:
    """One pass over the dense model, shared through the store by every method with these tokens."""
    store, n_blocks = Store(experiment.paths.folder / "store"), len(model.blocks)
    key = content_key(
        {
            "version": STATISTICS_VERSION,
            "model": experiment.model.identity(),
            "tokens": tokens.sha256,
            "needs": "diagonal",
        }
    )
    with store.lock("statistics", key):
        if stored := store.load("statistics", key, ledger):
            meter.stages["calibration"] = StageCost(**stored.notes, reused=True)
            return from_tensors(stored.tensors, n_blocks)
        statistics: list[BlockStatistics] = []
        with meter.stage("calibration"), reporter.stage("calibration: blocks", n_blocks) as tick:
            for block in walk(model, tokens.ids, _batch_size(experiment, calibration), "dense"):
                statistics.append(block)
                tick()
        cost = meter.stages["calibration"]
        notes: dict[str, Any] = {name: getattr(cost, name) for name in ("seconds", "peak_bytes", "peak_gpu_bytes")}
        store.save("statistics", key, Stored(to_tensors(statistics), notes))
        return statistics


def _evaluate(
    experiment: Experiment, model: CausalLM, bench: Workbench, meter: CostMeter, ledger: Ledger, reporter: Reporter
) -> Metric:
    evaluation = experiment.evaluation
    tokens = bench.tokens(experiment, "evaluation")
    _note_overlap(tokens, "evaluation", ledger)
    n_windows, context_length = tokens.ids.shape
    with meter.stage("evaluation"), reporter.stage(f"{evaluation.protocol}: windows", n_windows) as tick:
        losses = window_losses(model, tokens.ids, _batch_size(experiment, evaluation), tick)
    value, standard_error = perplexity(losses)
    return Metric(
        name="perplexity",
        protocol=evaluation.protocol,
        value=value,
        standard_error=standard_error,
        token_hash=tokens.sha256,
        n_windows=n_windows,
        n_predicted=n_windows * (context_length - 1),
        window_losses=losses.tolist(),
    )


def _note_overlap(tokens: DrawnTokens, group: Group, ledger: Ledger) -> None:
    if tokens.n_overlapping:
        detail = f"of {len(tokens.ids)} windows, this many share text with another"
        ledger.add("overlapping_windows", group, detail, tokens.n_overlapping)


def _batch_size(experiment: Experiment, text: Calibration | Evaluation) -> int:
    return max(1, experiment.runtime.batch_tokens // text.context_length)


def _summarise(linears: list[CompressedLinear]) -> Compression:
    n_weights = sum(d_out * d_in for d_out, d_in in (linear.shape for linear in linears))
    return Compression(
        n_weights=n_weights,
        sparsity=1 - sum(linear.n_kept for linear in linears) / n_weights,
        bits_per_weight=sum(linear.bits for linear in linears) / n_weights,
        linears=linears,
    )


def _labels(experiment: Experiment) -> Labels:
    method, calibration = experiment.method, experiment.calibration
    return Labels(
        model=experiment.model.label,
        method=method.name,
        pattern=getattr(method, "pattern", None),
        propagate=method.propagate if calibration else None,
        calibration=calibration.label if calibration else None,
        n_sequences=calibration.n_sequences if calibration else None,
        context_length=calibration.context_length if calibration else None,
        seed=calibration.seed if calibration and calibration.is_random else None,
    )
