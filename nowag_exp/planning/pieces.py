"""What experiments consist of: the work each of them does alone, and the work that is done once for several."""

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

from nowag_exp.calibration import Calibration
from nowag_exp.config import Experiment
from nowag_exp.errors import RequestError
from nowag_exp.evaluation import Perplexity, ZeroShot
from nowag_exp.experiment import Workbench
from nowag_exp.ledger import Ledger
from nowag_exp.memory import DTYPE_BYTES, site_widths
from nowag_exp.methods import Method, Needs
from nowag_exp.methods.second_order import SecondOrder
from nowag_exp.models import SITES, Architecture
from nowag_exp.planning.unseen import items_and_tokens, n_tokens
from nowag_exp.records.store import Store, content_key
from nowag_exp.reference import DenseOutcomes, DenseStates
from nowag_exp.shelf import StatisticsShelf, StoredFactors
from nowag_exp.text import HubText

ITEM_CONTEXT = 64
"""Tokens of a row of a zero-shot task, about."""


@dataclass(frozen=True)
class Forward:
    """One token through one block, in windows of ``context_length``."""

    sizes: Architecture
    dtype: str
    context_length: int


@dataclass(frozen=True)
class Head:
    """The logits of one token and its loss; also those of the dense model, and the divergence, if ``held_against``."""

    sizes: Architecture
    dtype: str
    held_against: bool


@dataclass(frozen=True)
class SecondMoment:
    """The outer product of one activation of ``d_in`` values, added to the others."""

    d_in: int


@dataclass(frozen=True)
class Factorisation:
    """The factor of a Hessian of ``d_in`` inputs."""

    d_in: int


@dataclass(frozen=True)
class Compress:
    """All linears of a block through a method; a factor of their Hessians is made apart."""

    method: Method
    sizes: Architecture
    dtype: str


Task = Forward | Head | SecondMoment | Factorisation | Compress
Work = dict[Task, float]
"""How often each task is done."""


@dataclass(frozen=True)
class Piece:
    """A part of an experiment.

    Attributes:
        stage: under which records keep its cost.
        what: in words.
        keys: what it leaves behind for others; empty if nothing. A piece is done if all of them are there.
        work: ``None`` if it cannot be told how much there is to do.
        disk_bytes: what it writes, headers of files aside.
        kept: whether the store has what it would leave.
    """

    stage: str
    what: str
    keys: frozenset[str]
    work: Work | None
    disk_bytes: float
    kept: bool


class Dissector:
    """Takes experiments apart. What is the same for several of them is looked up once.

    Args:
        bench: draws the tokens of texts that are here.
        store: where stages are kept.
    """

    def __init__(self, bench: Workbench, store: Store) -> None:
        self._bench, self._store = bench, store
        self._known: dict[Hashable, Any] = {}

    def sizes(self, experiment: Experiment) -> Architecture:
        """Of its model."""
        return self._once(("sizes", experiment.model), experiment.model.sizes)

    def is_here(self, experiment: Experiment) -> bool:
        """Whether its model is on this machine."""
        return self._once(("here", experiment.model), experiment.model.is_here)

    def _once(self, key: Hashable, make: Callable[[], Any]) -> Any:
        if key not in self._known:
            self._known[key] = make()
        return self._known[key]

    def model_identity(self, experiment: Experiment) -> dict[str, Any]:
        """What fixes the model; its settings, where a branch cannot be resolved to a commit without a network."""

        def find() -> dict[str, Any]:
            try:
                return experiment.model.identity()
            except RequestError:
                if self.is_here(experiment):
                    raise
                return {"unresolved": repr(experiment.model)}

        return self._once(("model", experiment.model), find)

    def _identity(self, part: Calibration | Perplexity | ZeroShot) -> Any:
        """What fixes a text or a suite; its settings, if that needs a network which is not there."""

        def find() -> Any:
            try:
                return part.identity()
            except RequestError:
                if part.is_here():
                    raise
                return {"unresolved": repr(part)}

        return self._once(("identity", part), find)

    def resolves(self, experiment: Experiment) -> bool:
        """Whether all that fixes it is known, and so its fingerprint; of the hub's branches only a network tells."""
        parts = [*experiment.texts.values(), *experiment.evaluation.zero_shot]
        found = [self.model_identity(experiment), *(self._identity(part) for part in parts)]
        return not any("unresolved" in identity for identity in found)

    def _items_and_tokens(self, suite: ZeroShot) -> tuple[int, int] | None:
        return self._once(("items", suite), lambda: items_and_tokens(suite))

    def n_windows(self, experiment: Experiment, text: Calibration | Perplexity) -> int | None:
        """Of a text; ``None`` if it takes all there are, and is not here to count them."""
        wanted = text.n_sequences if isinstance(text, Calibration) else text.n_windows
        if wanted is not None:
            return wanted
        if self.can_draw(experiment, text):
            return len(self._bench.tokens(experiment, text.key).ids)
        tokens = n_tokens(text) if isinstance(text, HubText) else None
        return None if tokens is None else tokens // text.context_length

    def can_draw(self, experiment: Experiment, text: Calibration | Perplexity) -> bool:
        """Whether its tokens can be drawn without the hub."""
        return self.is_here(experiment) and self._once(("text here", text), text.is_here)

    def _token_hash(self, experiment: Experiment, text: Calibration | Perplexity) -> str | None:
        return self._bench.tokens(experiment, text.key).sha256 if self.can_draw(experiment, text) else None

    def pieces(self, experiment: Experiment) -> list[Piece]:
        """All that the experiment asks for, in the order in which it is done; what is kept already is marked."""
        parts = [*self._reference(experiment), *self._statistics(experiment), self._compression(experiment)]
        return [*parts, *self._measurements(experiment)]

    def _reference(self, experiment: Experiment) -> list[Piece]:
        """What the dense model gives on the evaluation's tokens and items."""
        if not experiment.evaluation.fidelity:
            return []
        sizes, dtype, model = self.sizes(experiment), experiment.model.dtype, self.model_identity(experiment)
        label = experiment.model.label
        pieces = []
        state = sizes.hidden_size * DTYPE_BYTES[dtype]
        for text in experiment.evaluation.perplexities:
            n, token_hash = self.n_windows(experiment, text), self._token_hash(experiment, text)
            kept = token_hash is not None and n is not None
            kept = kept and DenseStates(self._store, model, str(token_hash), Ledger()).has(
                int(n or 0), text.context_length, state
            )
            pieces.append(
                Piece(
                    "reference",
                    f"{label}: the dense model on {text.protocol}",
                    frozenset([content_key({"states": model, "text": self._identity(text)})]),
                    None if n is None else self._forward(experiment, text.context_length, n * text.context_length),
                    0 if n is None else n * (text.context_length - 1) * state,
                    kept,
                )
            )
        for suite in experiment.evaluation.zero_shot:
            found = self._items_and_tokens(suite)
            identity = self._identity(suite)
            known = "unresolved" not in identity
            pieces.append(
                Piece(
                    "reference_items",
                    f"{label}: the dense model on {suite.name}",
                    frozenset([content_key({"items": model, "name": suite.name, "suite": identity})]),
                    None if found is None else self._items(experiment, found[1]),
                    0 if found is None else found[0] * ITEM_BYTES,
                    known and DenseOutcomes(self._store, model, Ledger()).has(suite),
                )
            )
        return pieces

    def _statistics(self, experiment: Experiment) -> list[Piece]:
        """The dense statistics of the calibration, and the factors made of them."""
        method, text = experiment.method, experiment.calibration
        if text is None or method.propagate == "compressed":
            return []
        sizes, model = self.sizes(experiment), self.model_identity(experiment)
        widths = site_widths(sizes)
        tokens = text.n_sequences * text.context_length
        work = self._forward(experiment, text.context_length, tokens)
        diagonals = sizes.n_blocks * (8 * sum(widths) + 8 * len(widths))
        disk: float = diagonals
        kinds = {method.needs, Needs.DIAGONAL}
        shelf = self._shelf(experiment, text)
        squares = sizes.n_blocks * sum(width * width for width in widths)
        if method.needs is Needs.HESSIAN:
            _add(work, {SecondMoment(width): float(tokens * sizes.n_blocks) for width in widths})
            disk = 2 * diagonals + 4 * squares + diagonals
        label, about = experiment.model.label, f"{text.label}, {text.n_sequences} x {text.context_length} tokens"
        inputs = {"model": model, "text": self._identity(text)}
        # Second moments bring the diagonals with them, as the shelf keeps both.
        keys = frozenset(content_key({**inputs, "needs": kind.value}) for kind in kinds)
        pass_ = Piece(
            "calibration",
            f"{label}: one calibration pass ({about}{', Hessians' if method.needs is Needs.HESSIAN else ''})",
            keys,
            work,
            disk,
            shelf is not None and _has_statistics(shelf, method.needs),
        )
        if not isinstance(method, SecondOrder):
            return [pass_]
        factors = Piece(
            "compression",
            f"{label}: one factorisation a site ({about}, {method.factor_name})",
            frozenset([content_key({**inputs, "factor": method.factor_name})]),
            {Factorisation(width): float(widths.count(width) * sizes.n_blocks) for width in widths},
            4 * squares,
            shelf is not None and _has_factors(shelf, method.factor_name),
        )
        return [pass_, factors]

    def _shelf(self, experiment: Experiment, text: Calibration) -> StatisticsShelf | None:
        token_hash = self._token_hash(experiment, text)
        if token_hash is None:
            return None
        n_blocks = self.sizes(experiment).n_blocks
        return StatisticsShelf(self._store, self.model_identity(experiment), token_hash, n_blocks, Ledger())

    def _compression(self, experiment: Experiment) -> Piece:
        method, sizes, text = experiment.method, self.sizes(experiment), experiment.calibration
        work: Work = {Compress(method, sizes, experiment.model.dtype): float(sizes.n_blocks)}
        if text is not None and method.propagate == "compressed":
            tokens, widths = text.n_sequences * text.context_length, site_widths(sizes)
            passes = self._forward(experiment, text.context_length, tokens)
            # Each block but the last is run again on its compressed weights.
            _add(work, {task: count * (2 - 1 / sizes.n_blocks) for task, count in passes.items()})
            if method.needs is Needs.HESSIAN:
                for width in widths:
                    _add(work, {SecondMoment(width): float(tokens * sizes.n_blocks)})
                    _add(work, {Factorisation(width): float(sizes.n_blocks)})
        return Piece("compression", method.name, frozenset(), work, 0, False)

    def _measurements(self, experiment: Experiment) -> list[Piece]:
        pieces = []
        evaluation, sizes, dtype = experiment.evaluation, self.sizes(experiment), experiment.model.dtype
        known = experiment.is_dense and evaluation.fidelity
        for text in evaluation.perplexities:
            n, context = self.n_windows(experiment, text), text.context_length
            work: Work | None = None
            if n is not None:
                work = {} if known else self._forward(experiment, context, n * context)
                _add(work, {Head(sizes, dtype, evaluation.fidelity and not known): float(n * (context - 1))})
                if known and evaluation.noise_floor_windows:
                    floor = min(n, evaluation.noise_floor_windows)
                    for other in ("bfloat16", "float32"):
                        _add(work, {Forward(sizes, other, context): float(floor * context * sizes.n_blocks)})
                    _add(work, {Head(sizes, dtype, True): float(floor * (context - 1))})
            pieces.append(Piece("evaluation", text.protocol, frozenset(), work, 0, False))
        for suite in [] if known else evaluation.zero_shot:
            found = self._items_and_tokens(suite)
            work = None if found is None else self._items(experiment, found[1])
            pieces.append(Piece("zero_shot", suite.name, frozenset(), work, 0, False))
        return pieces

    def _forward(self, experiment: Experiment, context_length: int, tokens: int) -> Work:
        sizes = self.sizes(experiment)
        return {Forward(sizes, experiment.model.dtype, context_length): float(tokens * sizes.n_blocks)}

    def _items(self, experiment: Experiment, tokens: int) -> Work:
        work = self._forward(experiment, ITEM_CONTEXT, tokens)
        # A fifth of the tokens are predicted: contexts are only read.
        _add(work, {Head(self.sizes(experiment), experiment.model.dtype, False): tokens / 5})
        return work


ITEM_BYTES = 120
"""Of an item in the store, about: compressed, most of it log-likelihoods and a hash."""


def _add(work: Work, more: Work) -> None:
    for task, count in more.items():
        work[task] = work.get(task, 0.0) + count


def _has_statistics(shelf: StatisticsShelf, needs: Needs) -> bool:
    blocks = range(shelf.n_blocks if needs is Needs.HESSIAN else 0)
    paths = [shelf.store.path("second_moments", shelf._key(needs, block)) for block in blocks]
    return all(path.exists() for path in [shelf.store.path("statistics", shelf._key(needs)), *paths])


def _has_factors(shelf: StatisticsShelf, name: str) -> bool:
    for block in range(shelf.n_blocks):
        key = shelf._key(Needs.HESSIAN, block)
        for site in SITES:
            factors = StoredFactors(shelf.store, {"statistics": key, "site": site.name}, shelf.ledger)
            if not shelf.store.path("factors", factors._key(name)).exists():
                return False
    return True
