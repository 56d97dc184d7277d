"""Whether a model's tokenizer leaves something to predict of every item, known before weights are loaded."""

import functools

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

    @functools.lru_cache(maxsize=1)  # The choices of an item follow one another, behind one context.
    def n_before(context: str) -> int:
        return len(tokenizer.encode(context)) + (suite.bos == "first")

    with quiet_harness():
        for name, task in suite.load_tasks().items():
            task.set_fewshot_seed(suite.seed)
            task.build_all_requests(limit=suite.limit, rank=0, world_size=1)
            for request in task.instances:
                context, choice = request.args
                # BOS, or what lm-eval takes where a tokenizer has none, stands for an empty context; spaces that end
                # one are moved to the choice.
                n_context = n_before(context.rstrip()) if context else 1
                n_all = len(tokenizer.encode(context + choice)) + (suite.bos == "first" or not context)
                n_choice = n_all - n_context
                if not n_context or n_choice < 1 or (longest is not None and n_choice > longest):
                    most = "" if longest is None else f" to {longest}"
                    raise RequestError(
                        f"{suite.key}.tasks: {name}: item {request.doc_id}: the model's tokenizer makes {n_choice} "
                        f"tokens of {choice[:40]!r} after {n_context} of {context[-40:]!r}; there must be 1{most} "
                        f"after at least 1; leave {name} out of {suite.key}.tasks, or set {suite.key}.limit to score "
                        "only the items before it"
                    )
