"""Drawing 128 windows from one document of 2 MB, against encoding it once with the same tokenizer.

The plain formulation cannot draw anything: a ratio of 1 is all that can be had.
"""

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.bench import Bench
from benchmarks.timing import Comparison, Wanted, compare
from nowag_exp.compose import compose as compose_config
from nowag_exp.config import build_experiment
from nowag_exp.text import load_tokenizer

N_BYTES, N_WINDOWS, LENGTH = 2_000_000, 128, 512
ROUNDS = (3, 5)


def run(bench: Bench) -> Iterator[Comparison]:
    packaged = build_experiment(compose_config([]))
    assert packaged.calibration is not None
    articles = "\n\n".join(packaged.calibration.documents())
    text = (articles * (N_BYTES // len(articles) + 1))[:N_BYTES]
    tokenizer = load_tokenizer(packaged.model.folder())
    with TemporaryDirectory() as folder:
        path = Path(folder, "text.txt")
        path.write_text(text, encoding="utf-8")
        asked = [f"calibration.path={path}", f"calibration.n_sequences={N_WINDOWS}"]
        asked += [f"calibration.context_length={LENGTH}"]
        calibration = build_experiment(compose_config(["calibration=files", *asked])).calibration
        assert calibration is not None
        yield compare(
            "128 windows of a .txt of 2 MB, against encoding it once",
            lambda: calibration.tokens(tokenizer),
            lambda: tokenizer.encode(text),
            ROUNDS[bench.full],
            None,
            Wanted(ratio=0.5),
        )
