"""`hashed_uniform`: noise that is a function of the sample it is added to."""

import torch

from flowclf.support.seeding import hashed_uniform


def test_hashed_numbers_are_uniform_and_depend_on_the_sample_alone() -> None:
    x = torch.randn(4000, 3, generator=torch.Generator().manual_seed(0))
    u = hashed_uniform(x)
    assert bool(((u >= 0) & (u < 1)).all())
    counts = torch.histc(u.float(), 20, 0, 1)
    assert float(((counts - 200).square() / 200).sum()) < 43.8  # χ² of 19 degrees, 0.1 %
    torch.testing.assert_close(hashed_uniform(x[7:9]), u[7:9], rtol=0, atol=0)
    assert not torch.equal(hashed_uniform(x.flip(1)), u)


def test_each_number_gets_its_own() -> None:
    """Of black images, too, whose numbers are all the same."""
    x = torch.zeros(2, 1, 40, 50, dtype=torch.uint8)
    x[1, 0, 0, 0] = 1
    u = hashed_uniform(x, each=True)
    assert u.shape == x.shape
    counts = torch.histc(u.float(), 20, 0, 1)
    assert float(((counts - 200).square() / 200).sum()) < 43.8
    assert abs(float(torch.corrcoef(u.flatten(1))[0, 1])) < 0.1
    torch.testing.assert_close(hashed_uniform(x[1:], each=True), u[1:], rtol=0, atol=0)
