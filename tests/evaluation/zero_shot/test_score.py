import hashlib
import logging
import math
import random
import statistics
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from nowag_exp.errors import NowagError, RequestError
from nowag_exp.evaluation import Metric
from nowag_exp.evaluation.zero_shot import SuiteOutcome, ZeroShot, score
from nowag_exp.evaluation.zero_shot.answerable import check_items
from nowag_exp.models import CausalLM
from nowag_exp.models.tiny import byte_tokenizer
from nowag_exp.text import Tokenizer

Suite = Callable[..., ZeroShot]
Row = dict[str, Any]
Item = tuple[list[str], list[str], list[str], int]
TASKS = ("winogrande", "piqa", "rte", "arc_easy", "arc_challenge", "boolq", "hellaswag", "openbookqa")
WITHOUT_NORM = ("winogrande", "rte", "boolq")


def ignore() -> None:
    pass


def one(outcomes: list[SuiteOutcome]) -> SuiteOutcome:
    (outcome,) = outcomes
    return outcome


def metric(outcome: SuiteOutcome, protocol: str, name: str = "acc") -> Metric:
    (found,) = (m for m in outcome.metrics if (m.protocol, m.name) == (f"{outcome.suite}/{protocol}", name))
    return found


def by_hand(task: str, row: Row) -> Item:
    """Contexts, continuations, the choices that lengths are taken of, and the right one: the prompts, spelled out."""
    if task == "winogrande":
        before, after = row["sentence"].split("_")
        contexts = [before + row["option1"], before + row["option2"]]
        return contexts, [" " + after.strip()] * 2, contexts, int(row["answer"]) - 1
    if task == "piqa":
        context, choices, right = f"Question: {row['goal']}\nAnswer:", [row["sol1"], row["sol2"]], row["label"]
    elif task == "rte":
        context = f"{row['sentence1']}\nQuestion: {row['sentence2']} True or False?\nAnswer:"
        choices, right = ["True", "False"], row["label"]
    elif task == "boolq":
        context = f"{row['passage']}\nQuestion: {row['question']}?\nAnswer:"
        choices, right = ["no", "yes"], row["label"]
    elif task == "hellaswag":
        context = {
            "Cooking": "Cooking: A man cuts an onion. He",
            "Rowing": "Rowing: Two women sit in a boat. They",
        }[row["activity_label"]]
        choices = {
            "Cooking": ["puts it in a pan.", "flies away.", " paints it.", "sleeps."],
            "Rowing": ["eat the boat.", "row to the shore.. Rest.", "are a tree.", "sing a car."],
        }[row["activity_label"]]
        right = int(row["label"])
    else:
        choices, right = row["choices"]["text"], row["choices"]["label"].index(row["answerKey"])
        context = row["question_stem"] if task == "openbookqa" else f"Question: {row['question']}\nAnswer:"
    return [context] * len(choices), [f" {choice}" for choice in choices], choices, right


def encode(text: str) -> list[int]:
    return byte_tokenizer()(text, add_special_tokens=False).input_ids


def stock_items(model: CausalLM, tokenizer: Any, suite: ZeroShot, **options: Any) -> dict[str, list[list[float]]]:
    """Log-likelihoods of each item by lm-eval's own HFLM."""
    from lm_eval.evaluator import evaluate
    from lm_eval.models.huggingface import HFLM

    lm = HFLM(pretrained=model.module, tokenizer=tokenizer, batch_size=4, **options)
    tasks = suite.load_tasks()
    for task in tasks.values():
        task.set_fewshot_seed(suite.seed)
    samples = evaluate(lm, {"tasks": tasks, "groups": {}}, limit=suite.limit, log_samples=True)["samples"]
    return {task: [[value for value, _ in sample["filtered_resps"]] for sample in samples[task]] for task in tasks}


def our_items(outcome: SuiteOutcome) -> dict[str, list[list[float]]]:
    return {str(task): part["loglikelihoods"].tolist() for task, part in outcome.items.groupby("task")}


def assert_equal(ours: dict[str, list[list[float]]], stock: dict[str, list[list[float]]]) -> None:
    assert ours.keys() == stock.keys()
    for task, items in ours.items():
        assert len(items) == len(stock[task])
        for found, expected in zip(items, stock[task], strict=True):
            assert found == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("task", TASKS)
def test_every_task_is_prompted_scored_and_averaged_as_worked_by_hand(
    task: str, suite: Suite, model: CausalLM, tokenizer_folder: Path, rows: Any, plain_answers: Callable[..., Any]
) -> None:
    outcome = one(score(model, tokenizer_folder, [suite(tasks=[task], bos="none")], 300, ignore))
    items = outcome.items
    hits, hits_per_character = [], []
    (scored,) = (split for name, split in rows[task].items() if name != "train")
    assert items["item"].tolist() == list(range(len(scored)))
    for row, (_, item) in zip(scored, items.iterrows(), strict=True):
        contexts, continuations, choices, right = by_hand(task, row)
        pairs = [(encode(a), encode(b)) for a, b in zip(contexts, continuations, strict=True)]
        expected = [value for value, _ in plain_answers(model, pairs)]
        assert item["loglikelihoods"] == pytest.approx(expected, abs=1e-4)
        per_character = [value / len(choice) for value, choice in zip(expected, choices, strict=True)]
        answer, answer_norm = expected.index(max(expected)), per_character.index(max(per_character))
        hits.append(int(answer == right))
        hits_per_character.append(int(answer_norm == right))
        assert (item["task"], item["target"], item["answer"], item["acc"]) == (task, right, answer, hits[-1])
        if task in WITHOUT_NORM:
            assert item["answer_norm"] is pd.NA
            assert item["acc_norm"] is pd.NA
        else:
            assert (item["answer_norm"], item["acc_norm"]) == (answer_norm, hits_per_character[-1])
    reported = {"acc": hits} if task in WITHOUT_NORM else {"acc": hits, "acc_norm": hits_per_character}
    assert {m.name for m in outcome.metrics} == set(reported)
    for name, values in reported.items():
        found = metric(outcome, task, name)
        assert found.n == len(values)
        assert found.value == pytest.approx(sum(values) / len(values))
        assert found.standard_error == pytest.approx(statistics.stdev(values) / math.sqrt(len(values)))


def test_one_item_worked_from_bytes_to_accuracy(suite: Suite, model: CausalLM, tokenizer_folder: Path) -> None:
    model.module.model.norm.weight.data.zero_()  # All logits are 0: each byte costs ln 258.
    outcome = one(score(model, tokenizer_folder, [suite(tasks=["openbookqa"])], 300, ignore))
    first = outcome.items.iloc[0]
    # "light", "shoes", "music" and "salt", each after a space, which is no part of the length that lm-eval divides by.
    costs = [-(1 + n) * math.log(258) for n in (5, 5, 5, 4)]
    assert first["loglikelihoods"] == pytest.approx(costs, rel=1e-5)
    assert (first["answer"], first["acc"], first["target"]) == (3, 0, 0)
    assert (first["answer_norm"], first["acc_norm"]) == (0, 1)  # -(6/5) ln 258 is more than -(5/4) ln 258.


@pytest.mark.parametrize(("bos", "add_bos_token"), [("none", False), ("first", None)])
def test_items_equal_those_of_lm_evals_own_model(
    suite: Suite, model: CausalLM, tmp_path: Path, bos: str, add_bos_token: bool | None
) -> None:
    from tokenizers.processors import TemplateProcessing

    tokenizer = byte_tokenizer()  # One that puts BOS first by itself, as Llama's do.
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", tokenizer.bos_token_id)]
    )
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    assert tokenizer("a").input_ids[0] == tokenizer.bos_token_id
    wanted = suite(bos=bos)
    ours = one(score(model, tmp_path / "tokenizer", [wanted], 300, ignore))
    assert_equal(our_items(ours), stock_items(model, tokenizer, wanted, add_bos_token=add_bos_token))


def test_bos_comes_first_though_the_tokenizer_would_not_put_it_there(
    suite: Suite, model: CausalLM, tokenizer_folder: Path, plain_answers: Callable[..., Any], rows: Any
) -> None:
    bos = byte_tokenizer().bos_token_id
    outcome = one(score(model, tokenizer_folder, [suite(tasks=["piqa"], bos="first")], 300, ignore))
    for row, found in zip(rows["piqa"]["validation"], outcome.items["loglikelihoods"], strict=True):
        contexts, continuations, _, _ = by_hand("piqa", row)
        pairs = [([bos, *encode(a)], encode(b)) for a, b in zip(contexts, continuations, strict=True)]
        assert found == pytest.approx([value for value, _ in plain_answers(model, pairs)], abs=1e-4)


def test_bos_is_not_put_before_a_text_that_opens_with_it(
    suite: Suite, model: CausalLM, data_dir: Path, tokenizer_folder: Path, rows: Any, write: Callable[..., None]
) -> None:
    changed = rows["openbookqa"]["test"]
    plain = suite(tasks=["openbookqa"], bos="first")
    expected = one(score(model, tokenizer_folder, [plain], 300, ignore))
    for row in changed:
        row["question_stem"] = "<s>" + row["question_stem"]
    write(data_dir / "allenai/openbookqa/main/test/data-00000-of-00001.arrow", changed)
    found = one(score(model, tokenizer_folder, [suite(tasks=["openbookqa"], bos="first")], 300, ignore))
    assert our_items(found) == our_items(expected)
    assert found.items["item_hash"].tolist() != expected.items["item_hash"].tolist()


def test_a_tokenizer_without_bos_is_refused_where_bos_is_asked_for(
    suite: Suite, model: CausalLM, tmp_path: Path
) -> None:
    from transformers import PreTrainedTokenizerFast

    bare = PreTrainedTokenizerFast(tokenizer_object=byte_tokenizer().backend_tokenizer, eos_token="</s>")
    bare.save_pretrained(tmp_path / "bare")
    message = r"evaluation\.full_zero_shot\.bos=first: the model's tokenizer has no BOS token; set .*\.bos=none"
    with pytest.raises(RequestError, match=message):
        score(model, tmp_path / "bare", [suite(bos="none"), suite(bos="first")], 300, ignore)
    score(model, tmp_path / "bare", [suite(tasks=["piqa"], bos="none")], 300, ignore)


@pytest.mark.parametrize(("bos", "n_dropped"), [("none", 63), ("first", 64)])
def test_a_text_too_long_for_the_model_loses_its_beginning_as_in_lm_eval(
    suite: Suite,
    model: CausalLM,
    data_dir: Path,
    rows: Any,
    write: Callable[..., None],
    tokenizer_folder: Path,
    plain_answers: Callable[..., Any],
    bos: str,
    n_dropped: int,
) -> None:
    length = model.module.config.max_position_embeddings
    long, short = rows["boolq"]["validation"]
    rest = len("\nQuestion: is salt a mineral?\nAnswer:")
    long["passage"] = "".join(random.Random(0).choices("abcdefgh ", k=length + 60 - rest))
    write(data_dir / "aps/super_glue/boolq/validation.json", [long, short])
    wanted = suite(tasks=["boolq"], bos=bos)
    outcome = one(score(model, tokenizer_folder, [wanted], 300, ignore))
    assert metric(outcome, "boolq").details["n_truncated"] == 2  # Both choices of the first item.
    # " yes" has four tokens, of which the last is not read; of " no" one more token of context has room.
    context = ([byte_tokenizer().bos_token_id] if bos == "first" else []) + encode(by_hand("boolq", long)[0][0])
    pairs = [(context[n_dropped - 1 :], encode(" no")), (context[n_dropped:], encode(" yes"))]
    assert [len(a) + len(b) - 1 for a, b in pairs] == [length, length]
    expected = [value for value, _ in plain_answers(model, pairs)]
    assert outcome.items["loglikelihoods"][0] == pytest.approx(expected, abs=1e-4)
    if bos == "none":
        assert_equal(our_items(outcome), stock_items(model, byte_tokenizer(), wanted, add_bos_token=False))


def test_examples_are_drawn_and_written_as_in_lm_eval(suite: Suite, model: CausalLM, tokenizer_folder: Path) -> None:
    wanted = suite(tasks=["arc_easy"], n_fewshot=2, bos="none", seed=5)
    ours = one(score(model, tokenizer_folder, [wanted], 300, ignore))
    assert_equal(our_items(ours), stock_items(model, byte_tokenizer(), wanted, add_bos_token=False))
    contexts = [request.args[0] for request in wanted.load_tasks()["arc_easy"].instances]
    right = {f"Question: Is {n} even?\nAnswer: {['yes', 'no'][n % 2]}" for n in range(6)}
    for context in contexts:
        first, second, question = context.split("\n\n")
        assert {first, second} <= right
        assert first != second
        assert question.startswith("Question: What")
    again = one(score(model, tokenizer_folder, [wanted], 300, ignore))
    assert metric(again, "arc_easy") == metric(ours, "arc_easy")
    other = one(
        score(model, tokenizer_folder, [suite(tasks=["arc_easy"], n_fewshot=2, bos="none", seed=6)], 300, ignore)
    )
    assert metric(other, "arc_easy").token_hash != metric(ours, "arc_easy").token_hash
    assert metric(ours, "arc_easy").details["n_fewshot"] == 2


def test_a_task_without_rows_to_learn_from_takes_its_examples_from_the_others_of_its_own(
    suite: Suite, model: CausalLM, data_dir: Path, rows: Any, write: Callable[..., None], tokenizer_folder: Path
) -> None:
    write(data_dir / "baber/piqa/train.jsonl", rows["piqa"]["validation"])  # The training rows hold the item itself.
    wanted = suite(tasks=["piqa"], n_fewshot=2, bos="none")
    score(model, tokenizer_folder, [wanted], 300, ignore)
    for request in wanted.load_tasks()["piqa"].instances:
        assert request.args[0].count(f"Question: {request.doc['goal']}\n") == 1


def test_limit_takes_the_first_items_of_each_task(suite: Suite, model: CausalLM, tokenizer_folder: Path) -> None:
    whole, limited = score(model, tokenizer_folder, [suite(), suite(limit=2)], 300, ignore)
    first = whole.items[whole.items["item"] < 2].reset_index(drop=True)
    pd.testing.assert_frame_equal(limited.items, first)
    assert metric(limited, "arc_easy").n == 2
    assert metric(limited, "arc_easy").details["limit"] == 2
    assert metric(limited, "mean").n == 16


def test_a_limit_above_the_number_of_items_takes_all(suite: Suite, model: CausalLM, tokenizer_folder: Path) -> None:
    whole, limited = score(model, tokenizer_folder, [suite(tasks=["rte"]), suite(tasks=["rte"], limit=99)], 300, ignore)
    pd.testing.assert_frame_equal(limited.items, whole.items)


def test_one_item_has_no_standard_error_and_neither_has_its_mean(
    suite: Suite, model: CausalLM, tokenizer_folder: Path
) -> None:
    outcome = one(score(model, tokenizer_folder, [suite(tasks=["rte", "piqa"], limit=1)], 300, ignore))
    assert [m.standard_error for m in outcome.metrics] == [None] * 4
    assert metric(outcome, "rte").value in (0.0, 1.0)


def test_the_mean_is_of_tasks_not_of_items_and_only_of_what_all_of_them_define(
    suite: Suite, model: CausalLM, tokenizer_folder: Path
) -> None:
    with_rte, without = score(
        model, tokenizer_folder, [suite(tasks=["arc_easy", "rte"]), suite(tasks=["arc_easy", "piqa"])], 300, ignore
    )
    easy, rte = metric(with_rte, "arc_easy"), metric(with_rte, "rte")
    mean = metric(with_rte, "mean")
    assert mean.value == pytest.approx((easy.value + rte.value) / 2)
    assert easy.standard_error is not None
    assert rte.standard_error is not None
    assert mean.standard_error == pytest.approx(math.sqrt(easy.standard_error**2 + rte.standard_error**2) / 2)
    assert mean.n == 5 + 3
    assert {(m.protocol, m.name) for m in with_rte.metrics} == {
        ("full_zero_shot/arc_easy", "acc"),
        ("full_zero_shot/arc_easy", "acc_norm"),
        ("full_zero_shot/rte", "acc"),
        ("full_zero_shot/mean", "acc"),
    }
    assert metric(without, "mean", "acc_norm").value == pytest.approx(
        (metric(without, "arc_easy", "acc_norm").value + metric(without, "piqa", "acc_norm").value) / 2
    )


def test_only_the_metrics_asked_for_are_reported(suite: Suite, model: CausalLM, tokenizer_folder: Path) -> None:
    outcome = one(score(model, tokenizer_folder, [suite(tasks=["piqa"], metrics=["acc_norm"])], 300, ignore))
    assert [m.name for m in outcome.metrics] == ["acc_norm"]  # Of one task, and so no mean.


def test_the_hash_is_of_every_token_of_where_a_context_ends_and_of_the_right_answers(
    suite: Suite, model: CausalLM, tokenizer_folder: Path, rows: Any
) -> None:
    outcome = one(score(model, tokenizer_folder, [suite(tasks=["piqa", "rte"], bos="none")], 300, ignore))
    content, answers = {}, {}
    for task in ("piqa", "rte"):
        numbers: list[int] = []
        for row in rows[task]["validation"]:
            contexts, continuations, _, _ = by_hand(task, row)
            for a, b in zip(contexts, continuations, strict=True):
                numbers += [len(encode(a)), len(encode(b)), *encode(a), *encode(b)]
        content[task] = struct.pack(f"<{len(numbers)}q", *numbers)
        answers[task] = b"".join(struct.pack("<q", row["label"]) for row in rows[task]["validation"])
    content["mean"], answers["mean"] = b"".join(content.values()), b"".join(answers.values())
    for protocol in content:
        expected = content[protocol] + answers[protocol]
        assert metric(outcome, protocol).token_hash == hashlib.sha256(expected).hexdigest()


def test_items_carry_lm_evals_hash_of_their_content(
    suite: Suite, model: CausalLM, tokenizer_folder: Path, rows: Any
) -> None:
    import json

    outcome = one(score(model, tokenizer_folder, [suite(tasks=["piqa"])], 300, ignore))
    texts = [json.dumps(row, indent=2, ensure_ascii=False) for row in rows["piqa"]["validation"]]
    assert outcome.items["item_hash"].tolist() == [hashlib.sha256(text.encode()).hexdigest() for text in texts]


def test_details_say_what_was_run(suite: Suite, model: CausalLM, tokenizer_folder: Path, data_dir: Path) -> None:
    outcome = one(score(model, tokenizer_folder, [suite(tasks=["boolq"])], 300, ignore))
    file = data_dir / "aps/super_glue/boolq/validation.json"
    assert metric(outcome, "boolq").details == {
        "lm_eval": "0.4.13",
        "n_fewshot": 0,
        "limit": None,
        "seed": 1234,
        "bos": "none",
        "task_version": 2.0,
        "dataset": "aps/super_glue",
        "configuration": "boolq",
        "files": {"validation": [hashlib.sha256(file.read_bytes()).hexdigest()]},
        "n_truncated": 0,
    }


def test_a_suite_computes_nothing_that_another_has_computed(
    suite: Suite, model: CausalLM, tokenizer_folder: Path, forwards: Any
) -> None:
    alone = one(score(model, tokenizer_folder, [suite()], 300, ignore))
    n_forwards = len(forwards.shapes)
    forwards.shapes.clear()
    wanda = suite("wanda_zero_shot")  # Seven of the eight tasks, and no BOS either.
    first, second = score(model, tokenizer_folder, [suite(), wanda], 300, ignore)
    assert len(forwards.shapes) == n_forwards
    pd.testing.assert_frame_equal(first.items, alone.items)
    rest = first.items[first.items["task"] != "piqa"].sort_values(["task", "item"], ignore_index=True)
    pd.testing.assert_frame_equal(second.items.sort_values(["task", "item"], ignore_index=True), rest)
    forwards.shapes.clear()
    score(model, tokenizer_folder, [suite(), suite("wanda_zero_shot", bos="first")], 300, ignore)
    assert len(forwards.shapes) > n_forwards  # Other tokens.


def test_choices_of_one_item_take_one_forward(
    suite: Suite, model: CausalLM, tokenizer_folder: Path, forwards: Any
) -> None:
    score(model, tokenizer_folder, [suite(tasks=["arc_challenge"])], 1, ignore)
    assert [rows for rows, _ in forwards.shapes] == [1, 1]  # Seven choices of two items.


def test_each_item_ticks_once(suite: Suite, model: CausalLM, tokenizer_folder: Path) -> None:
    suites = [suite(), suite("wanda_zero_shot", limit=2)]
    ticks: list[None] = []
    score(model, tokenizer_folder, suites, 300, lambda: ticks.append(None))
    assert suites[0].n_items() == 23
    assert suites[1].n_items() == 7 * 2
    assert len(ticks) == 23 + 14


def test_nothing_is_printed_and_no_state_of_others_changes(
    suite: Suite,
    model: CausalLM,
    tokenizer_folder: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import datasets
    import lm_eval.api.task

    def state() -> tuple[Any, ...]:
        # Not random.getstate(): the shape checks of the tests draw from it. A call of random.seed fails below.
        return (
            np.random.get_state()[1].tolist(),
            torch.get_rng_state().tolist(),
            logging.getLogger("lm_eval").level,
            lm_eval.api.task.tqdm,
            datasets.is_progress_bar_enabled(),
            torch.is_grad_enabled(),
        )

    capfd.readouterr()
    before, weights = state(), {name: value.clone() for name, value in model.module.state_dict().items()}
    monkeypatch.setattr(random, "seed", None)
    wanted = suite()
    wanted.check()
    score(model, tokenizer_folder, [wanted], 300, ignore)
    assert capfd.readouterr() == ("", "")
    assert state() == before
    assert all(torch.equal(value, weights[name]) for name, value in model.module.state_dict().items())


def test_the_model_is_used_in_place_as_it_is_now(suite: Suite, model: CausalLM, tokenizer_folder: Path) -> None:
    from nowag_exp.evaluation.zero_shot.lm import LoadedLM

    assert LoadedLM(model, byte_tokenizer(), 300, ignore).model is model.module
    wanted = suite(tasks=["piqa"])
    before = one(score(model, tokenizer_folder, [wanted], 300, ignore))
    name = "model.layers.0.mlp.up_proj"
    model.replace_weight(name, torch.zeros_like(model.module.get_submodule(name).weight))
    changed = one(score(model, tokenizer_folder, [wanted], 300, ignore))
    assert our_items(changed) != our_items(before)
    model.restore()
    assert our_items(one(score(model, tokenizer_folder, [wanted], 300, ignore))) == our_items(before)


def test_an_answer_longer_than_the_model_is_refused(
    suite: Suite, model: CausalLM, tokenizer_folder: Path, data_dir: Path, rows: Any, write: Callable[..., None]
) -> None:
    long = rows["piqa"]["validation"]
    long[2]["sol2"] = "x" * 3000
    write(data_dir / "baber/piqa/validation.jsonl", long)
    with pytest.raises(NowagError, match=r"is 3001 tokens after 28; there must be 1 to 2048 after at least 1"):
        score(model, tokenizer_folder, [suite(tasks=["piqa"], bos="none")], 300, ignore)


def test_a_choice_that_is_no_token_after_its_context_is_found_without_a_model(suite: Suite) -> None:
    one_superword = Tokenizer(encode=lambda text: [0], bos=None)
    with pytest.raises(RequestError, match=r"\.tasks: piqa: item 0: ") as caught:
        check_items(suite(tasks=["piqa"], bos="none"), one_superword, 2048)
    assert ".limit" in str(caught.value)


def test_a_choice_longer_than_the_model_is_found_without_it_and_the_limit_that_is_advised_leaves_it_out(
    suite: Suite, data_dir: Path, rows: Any, write: Callable[..., None]
) -> None:
    long = rows["piqa"]["validation"]
    long[2]["sol2"] = "x" * 3000
    write(data_dir / "baber/piqa/validation.jsonl", long)
    by_bytes = Tokenizer(encode=lambda text: list(text.encode()), bos=None)
    with pytest.raises(RequestError, match=r"piqa: item 2: .* 3001 "):
        check_items(suite(tasks=["piqa"], bos="none"), by_bytes, 2048)
    check_items(suite(tasks=["piqa"], bos="none", limit=2), by_bytes, 2048)
