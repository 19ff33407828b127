"""Run the commands of the README and the guides, in a shorter form, or say why not.

    python tests/walk.py [PAGE ...]        (or `make walk`)

Indented lines and blocks of sh or console that begin with `flowclf` are run in the order of a page,
in a folder with stand-ins for what the reader has: my.npz, scans/, and the run runs/mnist.
Trainings get one epoch of 200 samples. `REASONS` says of what is not run why not, and `SHORTER`
what is run instead of what would be long. Commands on data that are not there are left out too.
"""

import os
import re
import shlex
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np

from flowclf.cli.app import run
from flowclf.data import DATASETS, load_dataset, locate

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("README.md", *(f"docs/{page.name}" for page in sorted((ROOT / "docs").glob("*.md"))))
LINE = re.compile(r"(?:    |\$ )?((?:flowclf|make|pip|python|torchrun|srun) .*)")
VERBS = {"audit", "bench", "datasets", "decide", "evaluate", "explore", "export", "figure",
         "interpolate", "report", "sample", "study", "sweep", "systems", "train"}  # fmt: skip
# A part of a command, and why it is not run.
REASONS = {
    "pip install": "needs a package index",
    "make ": "is run by continuous integration, or by hand",
    "torchrun": "needs several processes' cores",
    "srun": "needs SLURM",
    "--devices": "needs several GPUs",
    "python -m": "takes minutes: a measurement",
    "flowclf bench": "takes minutes: a measurement",
    "flowclf explore": "serves until it is stopped; tests/flowclf/explore asks the server",
    "RUN": "stands for any run",
}
SHORTER = {
    "--betas 0.02:50:12": "--betas 0.1:1:2",
    "--seeds 0,1,2": "--seeds 0",
    "--seeds 0,1": "--seeds 0",
    "--sizes 100,500,1000": "--sizes 40",
    "--epochs 7": "",
    "--coverage 0.95 --false-alarm 0.01": "--coverage 0.8 --false-alarm 0.2",
    "--temperatures 0.2,0.3,0.4,0.5,0.6,0.8,1": "--temperatures 0.6,1",
    "--per-class 12": "--per-class 2",
}
FEW = ("train.epochs=1", "data.train_size=200", "data.subset=stratified", "data.test_size=100")


def commands(text: str) -> Iterator[str]:
    """Yield the commands of a page, one each, without comments."""
    lines = iter(text.splitlines())
    for line in lines:
        if not (found := LINE.match(line)) or not line.startswith(("    ", "$ ", "flowclf")):
            continue
        command = found[1]
        while command.rstrip().endswith("\\"):
            command = command.rstrip()[:-1] + next(lines).strip()
        command = re.split(r"\s+#", command)[0].strip()
        for part in re.split(r"\s{4,}(?=flowclf )", command):
            words = part.split()
            if words[0] != "flowclf" or words[1] in VERBS:
                yield part


def stand_ins(folder: Path) -> None:
    """Make what the pages take for given."""
    from PIL import Image

    digits = load_dataset("digits")
    images, y = digits.train.x[:300].numpy(), digits.train.y[:300].numpy()
    x = images.reshape(300, 64).astype(np.float32)
    np.savez(folder / "my.npz", x_train=x, y_train=y, x_test=x[:99], y_test=y[:99])
    (folder / "scans").mkdir()
    for number, image in enumerate(images[:5]):
        grey = Image.fromarray(image[0].astype(np.uint8) * 15)
        grey.resize((28, 28)).save(folder / "scans" / f"{number}.png")


def shorter(command: str) -> list[str]:
    """Return the words of a command that is over soon."""
    for long, short in SHORTER.items():
        command = command.replace(long, short)
    words = shlex.split(command)[1:]
    settings = {"train": FEW, "sweep": FEW, "study": FEW[3:], "audit": FEW[:1]}.get(words[0], ())
    if "--resume" in words:
        return words
    given = {word.split("=")[0] for word in words if "=" in word}
    for setting in settings:
        if setting.split("=")[0] not in given or setting in FEW[1:]:
            words += ["--set", setting]
    labels = [word for word in words if word.startswith("data.labels=")]
    words = [f"data.labels={min(100, int(w.split('=')[1]))}" if w in labels else w for w in words]
    return words + (["--epochs", "1"] if words[0] == "study" else [])


def reason(command: str) -> str | None:
    """Return why a command is not run; None: it is."""
    for part, why in REASONS.items():
        if part in command:
            return why
    named = [name for name in DATASETS if re.search(rf"(--data|--outliers) \S*\b{name}\b", command)]
    missing = [name for name in named if locate(name) is None and name != "digits"]
    return f"needs {missing[0]} in FLOWCLF_DATA" if missing else None


def walk(page: str) -> list[str]:
    """Run a page's commands; return those that failed."""
    failed = []
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        stand_ins(Path(folder))
        for command in commands((ROOT / page).read_text("utf-8")):
            if why := reason(command):
                print(f"{page}: not run ({why}): {command}")
                continue
            words = shorter(command)
            for name in ("runs/mnist", "runs/other", "runs/digits"):
                if name in words and "--out" not in words and not Path(name).exists():
                    data = "digits" if name == "runs/digits" else "mnist"
                    made = ["train", "ib-inn", "--data", data, "--out", name, "--quiet"]
                    run([*made, *(word for few in FEW for word in ("--set", few))])
            start = time.perf_counter()
            with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
                code = run(words)
            verdict = "ran" if code == 0 else f"FAILED ({code})"
            print(
                f"{page}: {verdict} in {time.perf_counter() - start:.0f} s: {command}", flush=True
            )
            failed += [] if code == 0 else [f"{page}: flowclf {shlex.join(words)}"]
        os.chdir(before)
    return failed


def main() -> None:
    """Walk through all pages; end with status 1 if a command failed."""
    failed = [line for page in sys.argv[1:] or PAGES for line in walk(page)]
    print(*(f"failed: {line}" for line in failed), sep="\n")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
