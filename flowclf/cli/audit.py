"""`flowclf audit`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from flowclf.cli.output import AsJson, DataDir, Device, Where, print_json, print_table, status
from flowclf.cli.train import Request, settings_and_data
from flowclf.support.errors import UserError

SHOWN = 10
COLUMNS = (
    "row", "findings", "label", "suggested", "doubt_nats", "log_odds_nats", "agreement", "p_value",
    "twin", "distance",
)  # fmt: skip


def audit(
    run: Annotated[
        Path | None, typer.Argument(help="A trained run, whose data and settings are taken.")
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="A known name, an .npz or .csv file or a folder.")
    ] = None,
    system: Annotated[str, typer.Option(help="A name of `flowclf systems`.")] = "ib-inn",
    preset: Annotated[str | None, typer.Option(help="A preset of the system.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the training data.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of everything random.")] = None,
    assignments: Annotated[
        list[str] | None, typer.Option("--set", help="A setting, as key=value; repeatable.")
    ] = None,
    folds: Annotated[int, typer.Option(help="Parts, each judged by a model of the others.")] = 3,
    out: Annotated[Path, typer.Option(help="Folder for audit.csv and audit.html.")] = Path("audit"),
    data_dir: DataDir = None,
    device: Where = Device.auto,
    as_json: AsJson = False,
) -> None:
    """Find training rows that are likely mislabelled, odd, or there twice.

    A system is trained once for each fold, on all other rows; the labels in
    doubt, odd rows and near duplicates of the fold are then those of a model
    that has not seen them. OUT/audit.csv has them all, worst first, and
    OUT/audit.html their pictures.
    """
    from flowclf.many import audit as judge
    from flowclf.report.audit import write_audit_page
    from flowclf.runs import Run
    from flowclf.support.atomic_files import claimed, write_csv

    if (run is None) == (data is None):
        raise UserError("expected either a run or --data NAME|PATH to audit; see flowclf datasets")
    request = Request(system, data, None, epochs, seed, preset, assignments or [], None)
    if run is None:
        config, dataset = settings_and_data(request, data_dir)
    else:
        own, facts = Run(run).read_config()
        request = replace(request, system=own.system)
        config = request.make(own.dataset, facts.shape, own.to_dict())
        dataset = Run(run).load_data(data_dir)
    with claimed(out):
        with status("audit: ") as report:
            found = judge(config, dataset, folds, device.value, report)
        rows = list(found.rows(dataset.class_names))
        cells = [{**row, "findings": "|".join(row["findings"])} for row in rows]
        write_csv(out / "audit.csv", COLUMNS, cells)
        write_audit_page(found, dataset, out / "audit.html")
    counts = {name: len(order) for name, order in found.findings.items()}
    if as_json:
        print_json({"rows": len(found.label), "findings": counts, "out": str(out), "worst": rows})
        return
    worst = [
        [str(row["row"]), row["label"], row["suggested"], f"{row['doubt_nats']:.1f}"]
        for row in rows[: min(SHOWN, counts["label"])]
    ]
    print_table("labels most in doubt", ("row", "label", "rather", "doubt in nats"), worst)
    print(f"rows     {len(found.label):,}")
    for name, count in counts.items():
        print(f"{name:8} {count:,}")
    print(f"table    {out / 'audit.csv'}\npage     {out / 'audit.html'}")
