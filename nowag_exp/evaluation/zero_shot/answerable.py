"""Whether a model's tokenizer leaves something to predict of every item, known before weights are loaded."""

from nowag_exp.errors import RequestError
from nowag_exp.evaluation.zero_shot.suites import ZeroShot
from nowag_exp.quiet import quiet_harness
from nowag_exp.text import Tokenizer


def check_items(suite: ZeroShot, tokenizer: Tokenizer, longest: int | None) -> None:
    """Encode every request as lm-eval does: the tokens of context and choice together, without those of the context.

    Args:
        suite: checked (:meth:`ZeroShot.check`).
        tokenizer: of the model.
        longest: positions of the model; ``None`` if it does not say.

    Raises:
        RequestError: naming the first choice that is no token after its context, has no token before it, or is longer
            than the model's context.
    """
    with quiet_harness():
        for name, task in suite.load_tasks().items():
            task.set_fewshot_seed(suite.seed)
            task.build_all_requests(limit=suite.limit, rank=0, world_size=1)
            for request in task.instances:
                context, choice = request.args
                n_context, n_choice = _lengths(context, choice, tokenizer, suite.bos)
                if not n_context or n_choice < 1 or (longest is not None and n_choice > longest):
                    most = "" if longest is None else f" to {longest}"
                    raise RequestError(
                        f"{suite.key}.tasks: {name}: item {request.doc_id}: the model's tokenizer makes {n_choice} "
                        f"tokens of {choice[:40]!r} after {n_context} of {context[-40:]!r}; there must be 1{most} "
                        f"after at least 1; leave {name} out of {suite.key}.tasks, or set {suite.key}.limit to score "
                        "only the items before it"
                    )


def _lengths(context: str, choice: str, tokenizer: Tokenizer, bos: str) -> tuple[int, int]:
    """Tokens of a context and of what follows it; lm-eval moves spaces that end a context to the choice."""
    if not context:  # BOS, or what lm-eval takes where a tokenizer has none, stands for it.
        return 1, len(tokenizer.encode(choice))
    before = context.rstrip()
    n_before, n_both = len(tokenizer.encode(before)), len(tokenizer.encode(context + choice))
    return n_before + (bos == "first"), n_both - n_before
