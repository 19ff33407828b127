"""`flowclf systems` and `flowclf datasets`."""

from __future__ import annotations

from flowclf.cli.output import AsJson, DataDir, print_json, print_table

__all__ = ["datasets", "systems"]


def systems(as_json: AsJson = False) -> None:
    """List the systems that can be trained."""
    from flowclf.config import preset_names
    from flowclf.systems import SYSTEMS

    rows = [
        {
            "system": name,
            "summary": system.summary,
            "paper": system.paper,
            "beta": system.beta is not None,
            "presets": preset_names(name),
        }
        for name, system in SYSTEMS.items()
    ]
    if as_json:
        print_json(rows)
    else:
        columns = ("system", "what it is", "paper", "--beta", "presets")
        print_table("systems", columns, [[_text(v) for v in row.values()] for row in rows])


def datasets(
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """List the data sets known by name, and where they were found."""
    from flowclf.data import DATASETS, locate

    rows = []
    for name, info in DATASETS.items():
        found = locate(name, data_dir)
        rows.append(
            {
                "data": name,
                "summary": info.summary,
                "shape": list(info.shape),
                "classes": info.classes,
                "train": info.train_size,
                "test": info.test_size,
                "found": str(found) if found else None,
            }
        )
    if as_json:
        print_json(rows)
    else:
        columns = ("data", "what it is", "shape", "classes", "train", "test", "found")
        print_table("data sets", columns, [[_text(v) for v in row.values()] for row in rows])


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        joint = " x " if all(isinstance(part, int) for part in value) else ", "
        return joint.join(map(str, value))
    return "to download" if value is None else str(value)
