"""`flowclf.train` by names, and `make_config` in the ways people write settings."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.datasets import load_iris

import flowclf
from flowclf import UserError, make_config
from flowclf.runs import Run

X, Y = load_iris(return_X_y=True)
SMALL = {"network": {"blocks": 1, "hidden": [8]}}


def test_arrays_and_frames_are_trained_on_by_the_name_of_a_system() -> None:
    trained = flowclf.train("ib-inn", (X, Y), epochs=3, beta=2.0, lr=5e-3, verbose=False, **SMALL)
    assert trained.summary["system"] == "ib-inn"
    assert (len(trained.training), len(trained.test)) == (120, 30)
    again = flowclf.train(
        "ib-inn", (torch.from_numpy(X), Y), epochs=3, beta=2.0, lr=5e-3, verbose=False, **SMALL
    )
    x = torch.from_numpy(X).float()
    assert torch.equal(trained.model.log_posterior(x), again.model.log_posterior(x))
    frame = pd.DataFrame(X, columns=list("abcd")).assign(species=np.array(["s", "v", "w"])[Y])
    named = flowclf.train("gm", frame, target="species", epochs=1, verbose=False)
    assert named.model.info is not None
    assert named.model.info.class_names == ("s", "v", "w")


def test_progress_is_shown_unless_it_is_not_wanted(capsys: pytest.CaptureFixture[str]) -> None:
    flowclf.train("ce", (X, Y), epochs=1)
    assert "step" in capsys.readouterr().err
    flowclf.train("ce", (X, Y), epochs=1, verbose=False)
    assert "step" not in capsys.readouterr().err


def test_settings_beside_a_configuration_are_refused() -> None:
    data = flowclf.load_dataset("digits")
    config = make_config("ib-inn", "digits", data.shape)
    with pytest.raises(UserError, match="got epochs, network beside a configuration"):
        flowclf.train(config, data, epochs=3, network={"blocks": 1})


def test_settings_are_written_as_one_likes() -> None:
    shape = (1, 8, 8)
    nested = make_config("ib-inn", "digits", shape, overrides=[{"train": {"epochs": 4}}])
    for same in (
        make_config("ib-inn", "digits", shape, epochs=4),
        make_config("ib-inn", "digits", shape, train={"epochs": 4}),
        make_config("ib-inn", "digits", shape, overrides={"train": {"epochs": 4}}),
        make_config("ib-inn", "digits", shape, overrides={"train.epochs": 4}),
        make_config("ib-inn", "digits", shape, overrides=[{"train.epochs": 9}], epochs=4),
    ):
        assert same == nested
    assert make_config("ib-inn", "digits", shape, lr=0.1).train.lr == 0.1
    with pytest.raises(UserError, match="unknown setting 'epoch'"):
        make_config("ib-inn", "digits", shape, epoch=4)


def test_a_file_is_read_as_the_settings_say(tmp_path: Path) -> None:
    """And recorded by its path, so that the run can be evaluated."""
    frame = pd.DataFrame(X, columns=list("abcd")).assign(id=range(len(X)), kind=Y)
    frame.to_csv(tmp_path / "x.csv", index=False)
    run = Run(tmp_path / "run")
    overrides = {"data.drop": "id", "data.test_share": 0.5}
    trained = flowclf.train(
        "gm", tmp_path / "x.csv", run, target="kind", epochs=1, verbose=False, overrides=overrides
    )
    assert len(trained.test) == len(X) // 2
    assert run.load_data().feature_names == ("a", "b", "c", "d")
