"""One experiment, read from top to bottom, and the workbench that lets experiments share what is the same."""

import functools
import logging
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import torch

from nowag_exp.allocator import give_back_freed, keep_freed
from nowag_exp.calibration import CompressedLinear, Statistics, Walk, compress, walk
from nowag_exp.config import Experiment
from nowag_exp.engines import build_engine
from nowag_exp.errors import ConfigError, NowagError, RequestError
from nowag_exp.evaluation import ZeroShot
from nowag_exp.evaluation.zero_shot.answerable import check_items
from nowag_exp.files import atomic_folder, locked, require_writable
from nowag_exp.formats.beside import are_alike
from nowag_exp.formats.folder import MANIFEST, FolderWriter
from nowag_exp.ledger import Ledger
from nowag_exp.manifest import write_manifest
from nowag_exp.measure import Evaluator, note_drawn
from nowag_exp.methods import Needs
from nowag_exp.models import Architecture, CausalLM, LocalModel, ModelSource, damage, linear_shapes
from nowag_exp.ops.kernels.choice import use
from nowag_exp.progress import Reporter, noted_if_long
from nowag_exp.records.items import items_path, require_items, save_items
from nowag_exp.records.provenance import PACKAGE, CostMeter, git_state, provenance
from nowag_exp.records.record import (
    SCHEMA_VERSION,
    Compression,
    Inputs,
    Labels,
    RunRecord,
    load_record,
    record_path,
    save_record,
)
from nowag_exp.records.store import Store, content_key
from nowag_exp.residence import choose
from nowag_exp.shelf import StatisticsShelf
from nowag_exp.text import DrawnTokens, Tokenizer, load_tokenizer, require_known
from nowag_exp.unfinished import RunLedger, Unfinished

DEFAULT_THREADS = torch.get_num_threads()

log = logging.getLogger(__name__)


class Workbench:
    """What experiments of one process share: tokenizers, drawn tokens, checked models, and the last loaded one."""

    def __init__(self) -> None:
        git_state(PACKAGE)  # Looked up now, not when the first experiment ends: the checkout may have moved on by then.
        self._tokenizers: dict[str, Tokenizer] = {}
        self._tokens: dict[str, DrawnTokens] = {}
        self._architectures: dict[str, dict[str, Any]] = {}
        self._held: set[str] = set()
        self._model: tuple[str, CausalLM] | None = None

    def architecture(self, experiment: Experiment) -> dict[str, Any]:
        """The model's ``config.json``, after its checkpoint has been checked."""
        key = content_key({"model": experiment.identity["model"], "context": experiment.model.context_length})
        if key not in self._architectures:
            self._architectures[key] = experiment.model.check()
        return self._architectures[key]

    def tokenizer(self, model: ModelSource) -> Tokenizer:
        """The model's tokenizer."""
        key = content_key(model.weights_identity())
        if key not in self._tokenizers:
            self._tokenizers[key] = load_tokenizer(model.folder())
        return self._tokenizers[key]

    def tokens(self, experiment: Experiment, key: str) -> DrawnTokens:
        """Windows of one of the experiment's texts, by its config key, in the model's tokens.

        Drawn once for equal identities, so a record's hash is of the tokens that were used.

        Raises:
            RequestError: if the text is too short, or is not what it was when the experiment was fingerprinted.
        """
        text = experiment.texts[key]
        identity = experiment.text_identity(key)
        weights = experiment.model.weights_identity()
        drawn_from = content_key({"model": weights, "text": identity})
        if drawn_from not in self._tokens:
            tokenizer = self.tokenizer(experiment.model)
            with noted_if_long(f"{key}: reading and tokenizing its text"):
                drawn = text.tokens(tokenizer)
            if text.identity() != identity:
                raise RequestError(f"{key}: the text changed while it was read; run the same command again")
            self._tokens[drawn_from] = drawn
        return self._tokens[drawn_from]

    def hold_items(self, experiment: Experiment, suite: ZeroShot) -> None:
        """Hold a suite's settings and items against the model's tokenizer, once for equal ones.

        Raises:
            RequestError: if the tokenizer lacks what the suite asks for, leaves nothing of an item to predict, or gives
                a token that the model does not have.
        """
        architecture, label = self.architecture(experiment), experiment.model.label
        longest, vocabulary = architecture.get("max_position_embeddings"), architecture["vocab_size"]
        weights = experiment.model.weights_identity()
        key = content_key({"model": weights, "suite": suite.identity(), "name": suite.name, "longest": longest})
        if key not in self._held:
            tokenizer = self.tokenizer(experiment.model)
            suite.check_tokenizer(tokenizer)
            check_items(suite, tokenizer.held(vocabulary, label), longest)
            if tokenizer.bos is not None:  # It stands before each text, or for an empty context.
                require_known(tokenizer.bos, vocabulary, label)
            self._held.add(key)

    def model(self, experiment: Experiment, device: torch.device, reporter: Reporter) -> CausalLM:
        """The model with its original weights; one is kept, and restored if an experiment changed it.

        Raises:
            RequestError: if memory does not suffice for even one block of it.
        """
        source = experiment.model
        found = choose(experiment, Architecture.of(self.architecture(experiment)), device, self._held_bytes())
        how = {"device": str(device), "streamed": found.streamed, "spread": found.gpus is not None}
        key = content_key({**source.identity(), **how})
        if self._model is None or self._model[0] != key:
            self._model = None  # Free the old one first.
            log.info(found.reason)
            if found.streamed or found.gpus:
                reporter.say(found.reason)
            # Before anything of it is read: what lies in the heap by then stays where it is.
            (give_back_freed if found.streamed else keep_freed)()
            self._model = (key, source.load(device, found.streamed, found.gpus))
        model = self._model[1]
        model.restore()
        model.placement, model.scratch = experiment.runtime.activations, experiment.paths.folder / "store"
        return model

    def _held_bytes(self) -> Counter[torch.device]:
        """What the kept model takes of each GPU: it will be used again or freed."""
        held: Counter[torch.device] = Counter()
        if self._model is not None:
            for parameter in self._model[1].module.parameters():
                if parameter.is_cuda:
                    held[parameter.device] += parameter.nbytes
        return held


def in_order(experiments: Sequence[Experiment]) -> list[Experiment]:
    """The order to run them in: model by model, so that each is loaded once, and what leaves most to the others first.

    A dense pass that collects Hessians serves those that need their diagonals alone; not the other way round.
    """
    models = list(dict.fromkeys(experiment.model for experiment in experiments))

    def place(experiment: Experiment) -> tuple[int, bool]:
        method = experiment.method
        return models.index(experiment.model), not (method.needs is Needs.HESSIAN and method.propagate == "dense")

    return sorted(experiments, key=place)


def check(experiment: Experiment, bench: Workbench) -> None:
    """Everything that can be found wrong before weights are loaded; downloads what is missing.

    Raises:
        RequestError: on the first thing that is.
    """
    build_engine(experiment.runtime.engine, choose_device(experiment)).check()
    experiment.tracking.check()
    architecture = bench.architecture(experiment)
    if problem := experiment.method.check_shapes(linear_shapes(architecture)):
        raise ConfigError([f"method.{problem}"])
    if experiment.checkpoint.save:
        target = experiment.checkpoint_folder
        if target.is_symlink() or (target.exists() and not target.is_dir()):
            raise RequestError(f"{target}: is not a folder, so no checkpoint can be kept there; remove it")
        require_writable(target)
    require_writable(record_path(experiment.paths.folder, experiment.fingerprint))
    for suite in experiment.evaluation.zero_shot:
        suite.check()
        bench.hold_items(experiment, suite)
    longest, vocabulary = architecture.get("max_position_embeddings"), architecture["vocab_size"]
    for key, text in experiment.texts.items():
        if longest is not None and text.context_length > longest:
            raise ConfigError(
                [f"{key}.context_length: {text.context_length} is more than the model's {longest} positions"]
            )
        require_known(int(bench.tokens(experiment, key).ids.max()), vocabulary, experiment.model.label)


def recorded(experiment: Experiment) -> RunRecord | None:
    """The record of an equal experiment, if its items are there and its checkpoint, if one is asked for, is whole.

    The checkpoint must have the chat templates and settings that the model has now, too.

    Raises:
        RequestError: if the record or its items are damaged.
    """
    path, items = (of(experiment.paths.folder, experiment.fingerprint) for of in (record_path, items_path))
    if not path.exists() or (experiment.evaluation.zero_shot and not items.is_file()):
        return None
    if experiment.checkpoint.save:
        model, saved = experiment.model, experiment.checkpoint_folder
        # Of other models what identifies the model fixes these files, too.
        if damage(saved) or (isinstance(model, LocalModel) and not are_alike(model.folder(), saved)):
            return None
    record = load_record(path)
    if experiment.evaluation.zero_shot:
        require_items(experiment.paths.folder, record)
    return record


def run(experiment: Experiment, bench: Workbench, reporter: Reporter) -> RunRecord:
    """Run one experiment and keep its record.

    Raises:
        NowagError: for a reason that has a name; other exceptions are bugs or the machine's.
    """
    meter = CostMeter()
    device = choose_device(experiment)
    torch.set_num_threads(experiment.runtime.threads or DEFAULT_THREADS)
    use(experiment.runtime.kernels)
    with meter.stage("load"):
        model = bench.model(experiment, device, reporter)
    if experiment.model.identity() != experiment.identity["model"]:
        raise RequestError(
            "model: its files changed since the experiment was fingerprinted; run the same command again"
        )
    save_every = experiment.runtime.save_every
    # Weights are mapped or read again until the end, so a file that is written to changes results: none is kept then.
    store = Store(experiment.paths.folder / "store", model.checkpoint.require_unchanged)
    store.check()
    ledger = RunLedger(store, experiment.fingerprint)
    model.on_halving = functools.partial(_note_halvings, ledger, device)
    streamed = model.stream is not None
    unfinished = Unfinished(store, experiment.fingerprint, model.n_blocks, save_every, device, streamed, meter, ledger)
    evaluator = Evaluator(experiment, functools.partial(bench.tokens, experiment), unfinished, meter, ledger, reporter)
    evaluator.look_at_dense(model)
    compression = _compress(experiment, model, bench, unfinished, meter, ledger, reporter)
    metrics, items = evaluator.measure(model)
    store.check()
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
        compression=compression,
        metrics=metrics,
        items_sha256=None if items is None else save_items(experiment.paths.folder, experiment.fingerprint, items),
        irregularities=ledger.all(),
        provenance=provenance(device),
        costs=meter.finish(),
    )
    log.info("kept %s", save_record(experiment.paths.folder, record))
    return record


def _note_halvings(ledger: Ledger, device: torch.device, too_many: int, taken: int) -> None:
    ledger.add("halved_batches", str(device), f"{too_many} tokens at once were too many, {taken} were taken then")


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
    experiment: Experiment,
    model: CausalLM,
    bench: Workbench,
    unfinished: Unfinished,
    meter: CostMeter,
    ledger: Ledger,
    reporter: Reporter,
) -> Compression:
    """Compress the model in place, and write it to its folder if that is asked for."""
    method, n_blocks = experiment.method, model.n_blocks
    statistics: Statistics | None = None
    if experiment.calibration is not None:
        tokens = bench.tokens(experiment, "calibration")
        note_drawn(tokens, "calibration", ledger)
        batch_size = experiment.batch_size(experiment.calibration)
        if method.propagate == "compressed":
            # Pulled by the compression below, so its cost is part of that stage.
            statistics = _walk_on(unfinished, model, method.needs) or walk(
                model, tokens.ids, batch_size, "compressed", method.needs
            )
        else:
            model_identity = experiment.model.identity()
            shelf = StatisticsShelf(unfinished.store, model_identity, tokens.sha256, n_blocks, ledger)
            save_every = experiment.runtime.save_every
            statistics = shelf.dense(model, tokens.ids, batch_size, method.needs, save_every, meter, reporter)
    with ExitStack() as stack:
        writer = None
        if experiment.checkpoint.save:
            target = experiment.checkpoint_folder
            stack.enter_context(locked(target))
            # Of a streamed model memory holds a block, and so does a shard.
            shard_bytes = None if model.stream is None else model.block_bytes
            writer = FolderWriter(stack.enter_context(atomic_folder(target)), shard_bytes)
        with meter.stage("compression"), reporter.stage(f"{method.name}: blocks", n_blocks) as tick:
            keep = writer.add_weight if writer else None
            engine = build_engine(experiment.runtime.engine, model.device)
            linears = compress(model, method, statistics, ledger, tick, keep, unfinished, engine)
        compression = _summarise(linears, model)
        if writer:
            with meter.stage("checkpoint"):
                _finish_checkpoint(writer, model, compression)
    return compression


def _walk_on(unfinished: Unfinished, model: CausalLM, needs: Needs) -> Walk | None:
    """The walk of an interrupted run over compressed blocks, where its activations were last kept."""
    kept = unfinished.activations()
    if kept is None:
        return None
    index, hidden = kept
    return Walk(model, hidden, sum(batch.shape[:2].numel() for batch in hidden), "compressed", needs, index)


def _finish_checkpoint(writer: FolderWriter, model: CausalLM, compression: Compression) -> None:
    """Write the rest of the folder, hold it against what was counted, and list its files.

    Raises:
        NowagError: if the files are not as large as the record says.
    """
    for name, _ in model.other_parameters():
        writer.add_tensor(name, model.values(name))
    config = {**model.checkpoint.config, "dtype": str(model.dtype).removeprefix("torch.")}
    config.pop("torch_dtype", None)  # What older versions of transformers called it.
    n_bytes = writer.finish(config, model.checkpoint.files_beside_weights(), model.checkpoint.folder)
    if n_bytes != compression.n_bytes:
        raise NowagError(
            f"{writer.folder}: holds {n_bytes} bytes of tensors, but {compression.n_bytes} were counted; the record "
            "would be wrong, so neither is kept. This is a bug: please report it"
        )
    write_manifest(writer.folder / MANIFEST)


def _summarise(linears: list[CompressedLinear], model: CausalLM) -> Compression:
    n_weights = sum(d_out * d_in for d_out, d_in in (linear.shape for linear in linears))
    bits = sum(linear.bits for linear in linears)
    others = [parameter for _, parameter in model.other_parameters()]
    n_parameters = n_weights + sum(parameter.numel() for parameter in others)
    n_bytes = bits // 8 + sum(parameter.numel() * parameter.element_size() for parameter in others)
    return Compression(
        n_weights=n_weights,
        sparsity=1 - sum(linear.n_kept for linear in linears) / n_weights,
        bits_per_weight=bits / n_weights,
        n_parameters=n_parameters,
        bits_per_parameter=8 * n_bytes / n_parameters,
        n_bytes=n_bytes,
        linears=linears,
    )


def _labels(experiment: Experiment) -> Labels:
    method, calibration = experiment.method, experiment.calibration
    return Labels(
        model=experiment.model.label,
        method=method.name,
        settings=method.describe() or None,
        propagate=method.propagate if calibration else None,
        calibration=calibration.label if calibration else None,
        n_sequences=calibration.n_sequences if calibration else None,
        context_length=calibration.context_length if calibration else None,
        seed=calibration.seed if calibration and calibration.is_random else getattr(method, "seed", None),
    )
