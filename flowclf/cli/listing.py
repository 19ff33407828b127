"""`flowclf systems` and `flowclf datasets`."""

from typing import Any

from flowclf.cli.output import AsJson, DataDir, print_json, print_table


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
    _print("systems", rows, as_json, summary="what it is", beta="--beta")


def datasets(data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """List the data sets known by name, and where they were found."""
    from flowclf.data import DATASETS, locate

    rows = [
        {
            "data": name,
            "summary": info.summary,
            "shape": list(info.shape),
            "classes": info.classes,
            "train": info.train_size,
            "test": info.test_size,
            "found": str(found) if (found := locate(name, data_dir)) else None,
        }
        for name, info in DATASETS.items()
    ]
    _print("data sets", rows, as_json, summary="what it is")


def _print(title: str, rows: list[dict[str, Any]], as_json: bool, **titles: str) -> None:
    """Print rows under their keys, some under other titles."""
    if as_json:
        print_json(rows)
        return
    columns = [titles.get(key, key) for key in rows[0]]
    print_table(title, columns, [[_text(v) for v in row.values()] for row in rows])


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        joint = " x " if all(isinstance(part, int) for part in value) else ", "
        return joint.join(map(str, value))
    return "to download" if value is None else str(value)
