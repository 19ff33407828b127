"""Sets of outliers: right colours, right shapes, the same each time, and one line for mistakes."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from flowclf.data import Dataset, Split, load_dataset
from flowclf.data.outliers import (
    OUTLIERS,
    coloured_drawings,
    fitted,
    load_outliers,
    rgb_rotation,
    rotation_matrix,
)
from flowclf.support.errors import UserError

pytestmark = pytest.mark.usefixtures("_global_rng_untouched")

FROM_ITSELF = sorted(OUTLIERS.keys() - {"drawings"})


def dataset(shape: tuple[int, ...] = (3, 8, 8), levels: int = 256, name: str = "mine") -> Dataset:
    generator = torch.Generator().manual_seed(0)

    def split(count: int) -> Split:
        x = torch.randint(levels, (count, *shape), generator=generator, dtype=torch.uint8)
        return Split(x, torch.arange(count) % 2)

    return Dataset(name, split(4), split(50), ("a", "b"), levels)


def a_drawing() -> Tensor:
    """(2, 1, 28, 28): a white stroke on black, and a blank page."""
    x = torch.zeros(2, 1, 28, 28, dtype=torch.uint8)
    x[0, 0, 10:18, 13] = 255
    return x


@pytest.fixture
def omniglot(monkeypatch: pytest.MonkeyPatch) -> None:
    split = Split(a_drawing(), torch.tensor([0, 1]))
    data = Dataset("omniglot", split, split, ("a", "b"), 256)
    monkeypatch.setattr("flowclf.data.outliers.load_dataset", lambda *_: data)


def test_the_rotation_is_that_of_the_authors_code() -> None:
    expected = [[0.6284, 0.0, 0.7779], [0.2309, 0.9549, -0.1865], [-0.7429, 0.2968, 0.6001]]
    matrix = rotation_matrix(0.35)
    torch.testing.assert_close(matrix, torch.tensor(expected).double(), rtol=0, atol=6e-5)
    for alpha, angle in ((0.35, 0.2985), (0.30, 0.250)):
        turned = ((rotation_matrix(alpha).trace() - 1) / 2).acos() / torch.pi
        assert float(turned) == pytest.approx(angle, abs=6e-4)
    assert torch.equal(rotation_matrix(0), torch.eye(3).double())


def test_colours_turn_about_mid_grey() -> None:
    x = dataset().test.x
    got = rgb_rotation(x, 256)
    pixel = x[7, :, 2, 3].double() / 255
    expected = (rotation_matrix(0.35) @ (pixel - 0.5) + 0.5).clamp(0, 1)
    torch.testing.assert_close(got[7, :, 2, 3].double() / 255, expected, rtol=0, atol=0.51 / 255)
    assert torch.equal(rgb_rotation(x, 256, 0), x)
    grey = torch.full((1, 3, 1, 1), 8, dtype=torch.uint8)
    assert torch.equal(rgb_rotation(grey, 17), grey)


@pytest.mark.parametrize("levels", [256, 17])
@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 6, 6)])
@pytest.mark.parametrize("kind", FROM_ITSELF)
def test_sets_from_the_data_itself(kind: str, shape: tuple[int, ...], levels: int) -> None:
    data = dataset(shape, levels)
    before = data.test.x.clone()
    if kind == "rgb-rotation" and shape[0] == 1:
        with pytest.raises(UserError, match="expected RGB images for rgb-rotation, got 1 channels"):
            load_outliers(kind, data)
        return
    first, again, other = (load_outliers(kind, data, seed).x for seed in (0, 0, 1))
    assert (first.dtype, first.shape) == (torch.uint8, before.shape)
    assert int(first.max()) < levels
    assert torch.equal(first, again)
    assert not torch.equal(first, before)
    drawn = kind in {"noise", "uniform", "gaussian", "rotated"}
    assert torch.equal(first, other) != drawn
    assert torch.equal(data.test.x, before)


def test_names_say_the_amount() -> None:
    data = dataset()
    assert load_outliers("noise", data).name == "noise:0.015"
    assert load_outliers("rgb-rotation:0.5", data).name == "rgb-rotation:0.5"
    assert load_outliers("flipped", data).name == "flipped"
    assert torch.equal(load_outliers("noise:0", data).x, data.test.x)
    weak, strong = (load_outliers(f"noise:{s}", data).x.float() for s in (0.01, 0.1))
    away = [(x - data.test.x).square().mean() for x in (weak, strong)]
    assert float(away[0]) < float(away[1]) / 20


def test_noise_has_the_deviation_it_is_given() -> None:
    split = Split(torch.full((50, 3, 8, 8), 128, dtype=torch.uint8), torch.zeros(50).long())
    grey = Dataset("grey", split, split, ("a", "b"), 256)
    x = load_outliers("noise:0.015", grey).x.double()
    assert float(x.std()) == pytest.approx(0.015 * 255, rel=0.03)
    assert float(x.mean()) == pytest.approx(128, abs=0.2)


def test_upside_down_negative_and_pure_noise() -> None:
    data = dataset(levels=17)
    assert torch.equal(load_outliers("flipped", data).x[:, :, 0], data.test.x[:, :, -1])
    assert bool((load_outliers("inverted", data).x + data.test.x == 16).all())
    uniform = load_outliers("uniform", data).x
    assert uniform.unique().tolist() == list(range(17))
    x = data.test.x.clone()
    x[:, 0] = 3
    flat = Dataset("flat", Split(x, data.test.y), Split(x, data.test.y), ("a", "b"), 17)
    gaussian = load_outliers("gaussian", flat).x
    assert gaussian[:, 0].unique().tolist() == [3]
    assert float(gaussian[:, 1].double().mean()) == pytest.approx(8, abs=0.3)


def test_drawings_in_colour_on_white(generator: torch.Generator) -> None:
    x = coloured_drawings(a_drawing(), (3, 32, 32), 256, generator)
    assert (x.dtype, x.shape) == (torch.uint8, (2, 3, 32, 32))
    assert x[1].unique().tolist() == [255]
    assert x[0, :, 0, 0].tolist() == [255] * 3
    strokes = x[0, :, 12:20, 15]
    assert (strokes == strokes[:, :1]).all()
    assert int(strokes.max()) <= round(0.7 * 255)
    assert len(strokes[:, 0].unique()) == 3


def test_drawings_in_grey_are_plain(generator: torch.Generator) -> None:
    drawing = a_drawing()
    assert torch.equal(coloured_drawings(drawing, (1, 28, 28), 256, generator), drawing)
    small = coloured_drawings(drawing, (1, 8, 8), 17, generator)
    assert small.shape == (2, 1, 8, 8)
    assert 0 < int(small.max()) <= 16
    assert int(small[1].max()) == 0


def test_padding_takes_over_the_edges(generator: torch.Generator) -> None:
    drawing = a_drawing()
    drawing[0, 0, :, 0] = 255
    x = coloured_drawings(drawing, (1, 32, 32), 256, generator)
    assert (x[0, 0, :, :3] == 255).all()
    assert torch.equal(x[:, :, 2:30, 2:30], drawing)


@pytest.mark.usefixtures("omniglot")
def test_drawings_come_from_omniglot() -> None:
    first, again, other = (load_outliers("drawings", dataset(), seed).x for seed in (0, 0, 1))
    assert first.shape == (2, 3, 8, 8)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    with pytest.raises(UserError, match="got drawings, which come from omniglot"):
        load_outliers("drawings", dataset(name="omniglot"))


def test_another_data_set_is_made_to_fit() -> None:
    """8×8 with 17 levels, in scikit-learn."""
    got = load_outliers("digits", dataset((3, 8, 8)))
    digits = load_dataset("digits").test.x
    assert (got.name, got.x.shape) == ("digits", (450, 3, 8, 8))
    assert got.notices == ("digits: made 8×8 RGB from 8×8 grey",)
    assert torch.equal(got.x[:, 2:], (digits * (255 / 16)).round().byte())
    same = load_outliers("digits", dataset((1, 8, 8), levels=17), resize=False)
    assert same.notices == ()
    assert torch.equal(same.x, digits)
    with pytest.raises(UserError, match="digits: expected 4×4 grey images, got 8×8 grey; convert"):
        load_outliers("digits", dataset((1, 4, 4)), resize=False)


def test_colour_becomes_luminance() -> None:
    x = torch.tensor([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255]]).byte()
    assert fitted(x[:, :, None, None], (1, 1, 1)).flatten().tolist() == [76, 150, 29, 255]
    with pytest.raises(UserError, match="expected images with 4 channels, or grey or RGB"):
        fitted(x[:, :, None, None], (4, 1, 1))


def test_the_centre_of_other_proportions_is_kept() -> None:
    x = torch.zeros(1, 1, 4, 10, dtype=torch.uint8)
    x[..., 3:7] = 200
    assert torch.equal(fitted(x, (1, 2, 2)), torch.full((1, 1, 2, 2), 200, dtype=torch.uint8))
    assert torch.equal(fitted(x.transpose(2, 3), (1, 8, 8)).unique(), torch.tensor([200]).byte())


def picture(path: Path, size: tuple[int, int], mode: str = "RGB", grey: int = 90) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", size, grey).convert(mode).save(path)


def test_a_folder_of_the_users_pictures(tmp_path: Path) -> None:
    folder = tmp_path / "holiday"
    picture(folder / "1.png", (8, 8))
    picture(folder / "sub" / "2.JPG", (40, 20))
    picture(folder / "3.bmp", (8, 8), "L", 10)
    picture(folder / ".hidden" / "4.png", (8, 8))
    (folder / "notes.txt").write_text("x")
    got = load_outliers(str(folder), dataset((3, 8, 8)))
    assert (got.name, got.x.dtype, got.x.shape) == ("holiday", torch.uint8, (3, 3, 8, 8))
    assert got.x.flatten(1).unique(dim=1).tolist() == [[90], [10], [90]]
    changed, ignored = got.notices
    assert changed.endswith("3.bmp: made 8×8 RGB from 8×8 grey (2 pictures in all)")
    assert ignored == "1 files that are not .png, .jpg, .webp or .bmp are ignored"


def test_a_folder_that_fits_needs_no_notice(tmp_path: Path) -> None:
    picture(tmp_path / "1.png", (6, 4), "L", 255)
    got = load_outliers(str(tmp_path), dataset((1, 4, 6), levels=17), resize=False)
    assert got.notices == ()
    assert got.x.unique().tolist() == [16]
    picture(tmp_path / "2.png", (6, 6), "L")
    with pytest.raises(UserError, match=r"2\.png: expected 6×4 grey images, got 6×6 grey; convert"):
        load_outliers(str(tmp_path), dataset((1, 4, 6)), resize=False)


def test_folders_without_pictures_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"expected at least one \.png, \.jpg, \.webp or \.bmp picture"
    ):
        load_outliers(str(tmp_path), dataset())
    (tmp_path / "1.png").write_bytes(b"no picture")
    with pytest.raises(
        UserError, match=r"1\.png: expected a readable PNG, JPEG, WebP or BMP picture"
    ):
        load_outliers(str(tmp_path), dataset())


def test_the_users_own_arrays(tmp_path: Path) -> None:
    x, y = np.full((4, 8, 8), 7, dtype=np.uint8), np.array([0, 1, 0, 1])
    path = tmp_path / "own.npz"
    np.savez(path, x_train=x, y_train=y, x_test=x, y_test=y)
    assert load_outliers(str(path), dataset((3, 8, 8))).x.unique().tolist() == [7]
    np.savez(path, x_train=np.eye(4), y_train=y, x_test=np.eye(4), y_test=y)
    with pytest.raises(UserError, match="expected images, got a table in"):
        load_outliers(str(path), dataset())


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("nothing", r"expected outliers of a kind \(rgb-rotation, .*known data set.*got 'nothing'"),
        ("rgb-rotation:2", "expected a number from 0 and at most 1 behind rgb-rotation:, got '2'"),
        ("noise:-1", "expected a number from 0 behind noise:, got '-1'; try 0.015"),
        ("noise:nan", "got 'nan'"),
        ("noise:inf", "got 'inf'"),
        ("noise:much", "got 'much'"),
        ("flipped:3", "expected 'flipped' alone, got '3' behind it"),
        ("mine", "expected other images than the model's own, got 'mine' again"),
    ],
)
def test_mistakes(spec: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_outliers(spec, dataset())


def test_real_sets_for_cifar(real: Path) -> None:
    cifar = load_dataset("cifar10", real, download=False)
    clothes = load_outliers("fashion-mnist", cifar, data_dir=real)
    assert clothes.x.shape == (10_000, 3, 32, 32)
    assert clothes.notices == ("fashion-mnist: made 32×32 RGB from 28×28 grey",)
    assert load_outliers("rgb-rotation", cifar).x.shape == (10_000, 3, 32, 32)


def test_real_drawings(real: Path) -> None:
    drawings = load_outliers("drawings", dataset((3, 32, 32)), data_dir=real).x
    assert drawings.shape == (8115, 3, 32, 32)
    assert float(drawings.float().mean()) > 220


def table(columns: int = 3) -> Dataset:
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(400, 1, generator=generator)
    x = torch.cat([base + 0.1 * torch.randn(400, columns, generator=generator)], 1) * 5 + 2
    y = torch.arange(400) % 2
    return Dataset("rows", Split(x, y), Split(x, y), ("a", "b"))


def test_shuffled_columns_keep_their_marginals_and_lose_what_joins_them() -> None:
    like = table()
    found = load_outliers("permuted", like)
    x = like.test.x
    assert bool((found.x.sort(0).values == x.sort(0).values).all())
    assert float(x.T.corrcoef()[0, 1]) > 0.9
    assert abs(float(found.x.T.corrcoef()[0, 1])) < 0.2
    assert bool((load_outliers("permuted", like).x == found.x).all())


@pytest.mark.parametrize(("spec", "spread"), [("gaussian", 1.0), ("far", 3.0), ("far:6", 6.0)])
def test_gaussian_rows_have_the_columns_means_and_deviations(spec: str, spread: float) -> None:
    like = table()
    found = load_outliers(spec, like)
    std, mean = torch.std_mean(like.test.x, 0)
    torch.testing.assert_close(found.x.std(0) / std, torch.full((3,), spread), rtol=0.15, atol=0)
    torch.testing.assert_close(found.x.mean(0), mean, rtol=0, atol=float(std.max()) * spread / 5)


def test_noise_of_a_table_is_in_standard_deviations() -> None:
    like = table()
    difference = load_outliers("noise:0.5", like).x - like.test.x
    ratio = difference.std(0) / like.test.x.std(0)
    torch.testing.assert_close(ratio, torch.full((3,), 0.5), rtol=0.15, atol=0)


def test_rows_of_a_file_are_outliers_of_a_table(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("a,b,c\n1,2,3\n4,5,6\n")
    assert load_outliers(str(path), table()).x.tolist() == [[1, 2, 3], [4, 5, 6]]
    with pytest.raises(UserError, match="expected 2 numbers in row 0, got 3 cells"):
        load_outliers(str(path), table(2))
    with pytest.raises(UserError, match=r"a kind \(permuted, .*like those of rows, got 'rotated'"):
        load_outliers("rotated", table())
