"""Run the notebooks: each source NN-name.py afresh, in a kernel of its own with one thread.

    python notebooks/execute.py            writes NN-name.ipynb, with what the cells gave
    python notebooks/execute.py --check    writes nothing
    python notebooks/execute.py 03         only those whose names begin so

A cell that fails or warns ends it with status 1.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

FOLDER = Path(__file__).resolve().parent
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
CELL_SECONDS = 300


def executed(source: Path) -> tuple[nbformat.NotebookNode, float, str]:
    """The notebook with its outputs, the seconds it took, and what failed or warned."""
    notebook = jupytext.read(source)
    notebook.metadata = {"kernelspec": KERNEL}
    for number, cell in enumerate(notebook.cells, start=1):
        cell.id, cell.metadata = f"cell-{number:02d}", {}
    client = NotebookClient(
        notebook,
        timeout=CELL_SECONDS,
        kernel_name=KERNEL["name"],
        resources={"metadata": {"path": str(FOLDER)}},
        record_timing=False,
        coalesce_streams=True,
        # That messages on this machine go unencrypted is no news.
        extra_arguments=["--IPKernelApp.log_level=ERROR"],
    )
    start, failure = time.perf_counter(), ""
    try:
        client.execute()
    except CellExecutionError as error:
        failure = str(error)
    # What the kernel says of itself changes with every version of Python.
    notebook.metadata = {"kernelspec": KERNEL}
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    warned = [output.text for output in outputs if output.get("name") == "stderr"]
    return notebook, time.perf_counter() - start, failure or "".join(warned)


def main() -> int:
    """Exit status 1 where a notebook failed or warned."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing")
    parser.add_argument("--jobs", type=int, default=2, help="notebooks at a time")
    parser.add_argument("names", nargs="*", help="how the names begin; none: all")
    options = parser.parse_args()
    sources = [
        path
        for path in sorted(FOLDER.glob("[0-9]*.py"))
        if path.name.startswith(tuple(options.names or [""]))
    ]
    with tempfile.TemporaryDirectory() as own:
        # One thread, and nobody's settings or history: the same on every machine.
        os.environ |= {"OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0"}
        os.environ |= {"IPYTHONDIR": own, "JUPYTER_RUNTIME_DIR": own}
        with ProcessPoolExecutor(options.jobs, mp_context=get_context("spawn")) as pool:
            found = zip(sources, pool.map(executed, sources), strict=True)
            return max([_told(*each, write=not options.check) for each in found], default=1)


def _told(source: Path, found: tuple[nbformat.NotebookNode, float, str], *, write: bool) -> int:
    """Write the notebook, say how it went: 0 where it did."""
    notebook, seconds, failure = found
    if write:
        nbformat.validate(notebook)
        nbformat.write(notebook, source.with_suffix(".ipynb"))
    print(f"{source.name}: {seconds:.0f} s{' FAILED' if failure else ''}", flush=True)
    print(failure, end="", file=sys.stderr)
    return int(bool(failure))


if __name__ == "__main__":
    sys.exit(main())
