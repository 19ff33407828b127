"""The reproduction page: every claim of the five papers, their number, ours, and a verdict.

    python -m benchmarks.flowclf.reproduction          # writes docs/reproduction.md

`claims.yaml` says what is claimed and which recorded rows test it; the numbers and the verdicts are
computed here, and a test compares the page with them. A verdict needs a 95 % interval over seeds
(Student's t, paired where two systems are compared) that excludes the other side.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import yaml

from benchmarks.flowclf.study import t_interval
from benchmarks.results import by_seed, recorded
from benchmarks.results import read as read_rows
from flowclf.support.atomic_files import write_text

Verdict = Literal["reproduced", "refuted", "undecided", "not run", "not testable here"]

Values = npt.NDArray[np.float64]

MOST_SEEDS = 100
CLAIMS = Path(__file__).with_name("claims.yaml")
PAGE = Path(__file__).parents[2] / "docs" / "reproduction.md"
VERDICTS: tuple[Verdict, ...] = (
    "reproduced", "refuted", "undecided", "not run", "not testable here",
)  # fmt: skip
HEAD = """# What the papers claim, and what was found

Made by `python -m benchmarks.flowclf.reproduction` from `benchmarks/flowclf/claims.yaml` and the
recorded rows; a test fails where they differ. *Ours* is a mean over seeds with its 95 % interval
(Student's t; paired by seed where two are compared; n is the number of seeds). *Reproduced* and
*refuted* need an interval that excludes the other side; all else is *undecided*. To some that were
undecided seeds were added, once or twice, which makes their intervals a little too narrow. Most of
ours is at a smaller scale than theirs, which the table says: a claim that is refuted here may hold
at theirs.

"""


@dataclass(frozen=True)
class Found:
    """What the rows say of a claim."""

    verdict: Verdict
    text: str  # our number, or the reason why there is none


def read_claims() -> dict[str, list[dict[str, Any]]]:
    """Read the claims, by paper."""
    found: dict[str, list[dict[str, Any]]] = yaml.safe_load(CLAIMS.read_text("utf-8"))
    return found


def judge(claim: dict[str, Any]) -> Found:
    """Return the verdict on a claim, and the number that it rests on."""
    for verdict in ("not testable here", "not run"):
        if verdict in claim:
            return Found(verdict, str(claim[verdict]))
    ours = claim["ours"]
    scale, unit = float(ours.get("scale", 1)), ours.get("unit", "")
    if "trend" in ours:
        return _trend(ours)
    values = _values(ours) * scale
    mean = float(values.mean())
    if "range" in ours:
        width = float(values.max() - values.min())
        return Found(_verdict(width, width, ours), f"{_shown(width)}{unit}, one seed")
    if ours.get("alone"):
        return Found(_verdict(mean, mean, ours), f"{_shown(mean)}{unit}")
    if len(values) < 2:
        return Found("undecided", f"{_shown(mean)}{unit}, one seed")
    mean, half = t_interval(values.tolist())
    text = f"{_shown(mean)} ± {_shown(half)}{unit}, n = {len(values)}"
    verdict = _verdict(mean - half, mean + half, ours)
    if verdict == "undecided":
        text += f"; {_needed(values - float(ours.get('than', 0)))}"
    return Found(verdict, text)


def _needed(values: Values) -> str:
    """Say how many seeds would decide, if mean and spread stayed what they are."""
    from scipy.stats import t

    mean, spread = abs(float(values.mean())), float(values.std(ddof=1))
    for n in range(len(values) + 1, MOST_SEEDS + 1):
        if t.ppf(0.975, n - 1) * spread < mean * n**0.5:
            return f"about {n} seeds would decide"
    return f"more than {MOST_SEEDS} seeds would be needed"


def _trend(ours: dict[str, Any]) -> Found:
    """Judge a trend by Kendall's τ over the rows, at the 5 % level."""
    from scipy.stats import kendalltau

    rows, metric, key = _rows(ours), ours["metric"], ours.get("key", "variant")
    if ours["trend"] == "order":
        places = {name: float(place) for place, name in enumerate(ours["of"])}
        pairs = [(places[r[key]], float(r[metric])) for r in rows if r[key] in places]
    else:
        pairs = [(float(r[ours["trend"]]), float(r[metric])) for r in rows if r[key] == ours["of"]]
    tau, p = kendalltau(*zip(*pairs, strict=True))
    text = f"{_shown(float(tau))} over {len(pairs)} values (p = {float(p):.2g})"
    if p > 0.05:
        return Found("undecided", text)
    return Found("reproduced" if (tau > 0) == (ours["expect"] == "higher") else "refuted", text)


def _verdict(low: float, high: float, ours: dict[str, Any]) -> Verdict:
    """Compare an interval with what is expected: above, below, or within a margin of a value."""
    value = float(ours.get("than", 0))
    if "within" in ours:
        least, most = value - ours["within"], value + ours["within"]
        if least <= low and high <= most:
            return "reproduced"
        return "refuted" if high < least or low > most else "undecided"
    above = ours["expect"] == "higher"
    if low > value:
        return "reproduced" if above else "refuted"
    if high < value:
        return "refuted" if above else "reproduced"
    return "undecided"


def _values(ours: dict[str, Any]) -> Values:
    """Return the numbers of a claim's rows, one a seed; differences where `minus` names another."""
    rows, metric, key = _rows(ours), ours["metric"], ours.get("key", "variant")
    if "range" in ours:
        return np.array([float(row[metric]) for row in rows if row[key] in ours["of"]])
    own = _found(rows, key, str(ours["of"]), metric)
    if "minus" not in ours:
        return np.array(list(own.values()))
    other = _found(rows, key, str(ours["minus"]), ours.get("minus_metric", metric))
    return np.array([own[seed] - other[seed] for seed in own if seed in other])


def _rows(ours: dict[str, Any]) -> list[dict[str, str]]:
    return read_rows(recorded(f"{ours['rows']}.csv"))


def _found(rows: Sequence[dict[str, str]], key: str, name: str, metric: str) -> dict[str, float]:
    found = by_seed(rows, key, name, metric)
    if not found:
        raise ValueError(f"no row with {key} = {name} has {metric}")
    return found


def _shown(value: float) -> str:
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2 if abs(value) >= 0.1 else 3
    return f"{value:.{digits}f}".replace("-", "−")


def page() -> str:
    """Return the page."""
    papers = read_claims()
    judged = {name: [(claim, judge(claim)) for claim in each] for name, each in papers.items()}
    return HEAD + _summary(judged) + "".join(_section(*each) for each in judged.items())


def _summary(judged: dict[str, list[tuple[dict[str, Any], Found]]]) -> str:
    rows = [f"| paper | claims | {' | '.join(VERDICTS)} |", "|---" * (len(VERDICTS) + 2) + "|"]
    totals = dict.fromkeys(VERDICTS, 0)
    for name, claims in judged.items():
        counts = {v: sum(found.verdict == v for _, found in claims) for v in VERDICTS}
        totals = {v: totals[v] + counts[v] for v in VERDICTS}
        rows.append(f"| {name} | {len(claims)} | {' | '.join(map(str, counts.values()))} |")
    rows.append(f"| all | {sum(totals.values())} | {' | '.join(map(str, totals.values()))} |")
    return "\n".join(rows) + "\n"


def _section(name: str, claims: list[tuple[dict[str, Any], Found]]) -> str:
    return "\n".join(["", f"## {name}", "", *_lines(claims)]) + "\n"


def _lines(claims: list[tuple[dict[str, Any], Found]]) -> Iterator[str]:
    yield "| claim | theirs | ours | scale: theirs; ours | verdict | command |"
    yield "|---|---|---|---|---|---|"
    for claim, found in claims:
        of = f"{claim['ours']['says']}: {found.text}" if "ours" in claim else found.text
        command = claim.get("command") or (
            f"flowclf bench {claim['ours']['rows']}" if "ours" in claim else ""
        )
        cells = [
            f"{claim['claim']} ({claim['where']})",
            str(claim.get("theirs", "-")),
            of,
            str(claim.get("scale", "-")),
            f"**{found.verdict}**",
            f"`{command}`" if command else "-",
        ]
        yield (
            "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"
        )


if __name__ == "__main__":
    write_text(PAGE, page())
    print(PAGE)
