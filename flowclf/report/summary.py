"""What was found, in plain sentences."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod

from flowclf.report.collect import Collection, Entry
from flowclf.report.rows import Row, by_task, ranked

__all__ = ["Best", "TaskSummary", "sentences", "task_name", "task_summaries", "title"]

MOST_NAMED = 4


@dataclass(frozen=True)
class Best:
    """The best of a task by one number: which number, its value, whose it is, and what to add."""

    label: str
    value: str
    row: Row
    note: str = ""


@dataclass(frozen=True)
class TaskSummary:
    """The best of what may be compared."""

    name: str
    best: Sequence[Best]


def title(entries: Sequence[Entry]) -> str:
    """Systems and data, counted where they are many."""
    systems = [entry.config.system for entry in entries]
    data = [entry.data for entry in entries]
    return f"{_named(systems, 'systems')} on {_named(data, 'data sets')}"


def sentences(found: Collection) -> list[str]:
    """One for each data set: what was trained on it, how often, and what was varied."""
    groups: dict[str, list[Entry]] = {}
    for entry in found.entries:
        groups.setdefault(entry.data, []).append(entry)
    return [_sentence(data, entries) for data, entries in groups.items()]


def task_summaries(rows: Sequence[Row]) -> list[TaskSummary]:
    """Of each task the best by error, ECE and bits/dim, where there are such numbers."""
    groups = by_task(rows)
    return [TaskSummary(task_name(*task), _bests(group)) for task, group in groups.items()]


def task_name(data: str, size: int | None) -> str:
    """Data, and how many samples of them were trained on if not all."""
    return data if size is None else f"{data}, {size:,} training samples"


def _sentence(data: str, entries: Sequence[Entry]) -> str:
    facts = entries[0].facts
    systems = _named([entry.config.system for entry in entries], "systems")
    runs = "1 run" if len(entries) == 1 else f"{len(entries)} runs"
    shape = " × ".join(map(str, facts.shape))
    kind = f"{shape} images" if len(facts.shape) == 3 else f"{prod(facts.shape):,} features"
    samples = {entry.facts.samples for entry in entries} - {None}
    size = f", {_range(samples)} training samples" if samples else ""
    what = f"{runs} of {systems} on {data} ({kind}, {len(facts.class_names)} classes{size})"
    return f"{what}, {_seeds(entries)}{_betas(entries)}."


def _seeds(entries: Iterable[Entry]) -> str:
    seeds = sorted({entry.config.seed for entry in entries})
    return f"seed {seeds[0]}" if len(seeds) == 1 else f"{len(seeds)} seeds"


def _betas(entries: Iterable[Entry]) -> str:
    betas = sorted({beta for entry in entries if (beta := entry.config.beta) is not None})
    if not betas:
        return ""
    # No line breaks within.
    return f", β̃\u00a0{'=' if len(betas) == 1 else 'from'}\u00a0{_range(betas)}"


def _bests(rows: Sequence[Row]) -> list[Best]:
    error, ece, bits = (ranked(rows, name) for name in ("accuracy", "ece", "bits_per_dim"))
    several = len(rows) > 1
    found = [_best_error(error, several)] if error else []
    if ece:
        value = f"{100 * _value(ece[0], 'ece'):.2f} %"
        found.append(Best("lowest ECE" if several else "ECE", value, ece[0], "15 bins"))
    if bits:
        value = f"{_value(bits[0], 'bits_per_dim'):.3f}"
        note = f"{bits[0].values.get('density', '')} log-likelihood".strip()
        label = "fewest bits/dim" if several else "bits/dim"
        found.append(Best(label, value, bits[0], note))
    return found


def _best_error(order: Sequence[Row], several: bool) -> Best:
    first = order[0]
    value = f"{100 * (1 - _value(first, 'accuracy')):.2f} %"
    label = "lowest error" if several else "error"
    low, high = first.number("accuracy_low"), first.number("accuracy_high")
    if low is None or high is None:
        return Best(label, value, first)
    note = f"95 % interval {100 * (1 - high):.2f} to {100 * (1 - low):.2f} %"
    near = sum(_value(row, "accuracy") >= low for row in order[1:])
    if near:
        note += f"; {near} other {'run lies' if near == 1 else 'runs lie'} within"
    return Best(label, value, first, note)


def _value(row: Row, name: str) -> float:
    number = row.number(name)
    assert number is not None, "ranked rows have it"
    return number


def _named(names: Iterable[str], what: str) -> str:
    """ "a, b and c", or how many they are."""
    known = list(dict.fromkeys(names))
    if len(known) > MOST_NAMED:
        return f"{len(known)} {what}"
    return " and ".join(filter(None, (", ".join(known[:-1]), known[-1])))


def _range(values: Iterable[float | None]) -> str:
    known = sorted(value for value in values if value is not None)
    ends = [_written(value) for value in dict.fromkeys((known[0], known[-1]))]
    return " to ".join(ends)


def _written(value: float) -> str:
    if value == float("inf"):
        return "∞"
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"
