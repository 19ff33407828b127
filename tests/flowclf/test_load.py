"""Threads and processes that ask one model at once: each gets the answer that it would get alone.

    PYTHONPATH=tests python tests/flowclf/test_load.py 600 8 1

asks for so many seconds in eight threads of one process.
"""

import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from itertools import count
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

import flowclf
from flowclf.data import load_dataset
from flowclf.evaluation.statistics import statistics

SETTINGS = {"network": {"kind": "mlp", "blocks": 4, "hidden": [32]}, "train": {"epochs": 2}}


def questions(folder: Path) -> list[Callable[[], Tensor]]:
    """Return what can be asked of the saved model, on its own data."""
    data, model = load_dataset("digits"), flowclf.load(folder)
    x, y = data.test.x[:64], data.test.y[:64]
    decider = flowclf.Decider(model).fit(data.train.x[:400], data.train.y[:400])
    return [
        lambda: model.log_prob(x),
        lambda: model.log_posterior(x),
        lambda: torch.as_tensor(decider(x).p_value),
        lambda: model.sample(y, generator=torch.Generator().manual_seed(1)),
        lambda: statistics(model, x)["stage_log_dets_per_dim"],
    ]


def ask(folder: Path, seconds: float, threads: int) -> tuple[int, list[str]]:
    """Ask in so many threads; how many answers there were, and those that were wrong."""
    torch.set_num_threads(1)
    asked = questions(folder)
    expected = [question() for question in asked]
    end = time.monotonic() + seconds

    def work(first: int) -> tuple[int, list[str]]:
        wrong: list[str] = []
        for answers in count():
            number = (first + answers) % len(asked)
            if time.monotonic() > end:
                return answers, wrong
            try:
                right = torch.equal(asked[number](), expected[number])
            except Exception as error:
                wrong.append(f"question {number}: {error!r}")
            else:
                wrong += [] if right else [f"question {number}: another answer"]
        raise AssertionError

    with ThreadPoolExecutor(threads) as pool:
        return added(list(pool.map(work, range(threads))))


def added(found: Sequence[tuple[int, list[str]]]) -> tuple[int, list[str]]:
    return sum(answers for answers, _ in found), [line for _, wrong in found for line in wrong]


def save_trained(folder: Path) -> None:
    digits = load_dataset("digits")
    config = flowclf.make_config("ib-inn", "digits", digits.shape, overrides=SETTINGS)
    flowclf.train(config, digits, device="cpu").model.save(folder)


def main(seconds: float, threads: int, processes: int) -> None:
    with TemporaryDirectory() as name:
        save_trained(Path(name))
        work = partial(ask, Path(name), seconds)
        with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
            answers, wrong = added(list(pool.map(work, [threads] * processes)))
    print(f"{answers} answers, {len(wrong)} wrong {wrong[:3]}")


def test_threads_that_ask_one_model_get_the_answers_of_one(tmp_path: Path) -> None:
    save_trained(tmp_path)
    answers, wrong = ask(tmp_path, 2, 8)
    assert answers > 8
    assert wrong == []


if __name__ == "__main__":
    main(float(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
