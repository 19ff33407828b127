"""VAE, BVAE and VAE-AS: identities between them, and what each term teaches."""

from pathlib import Path
from typing import Any

import pytest
import torch
from small_systems import small
from torch import Tensor
from torch.testing import assert_close

import flowclf
from couplings.testing import randomize
from flowclf.config import make_config
from flowclf.data import load_dataset
from flowclf.latent.gaussian import Around
from flowclf.runs import Run
from flowclf.support.errors import UserError
from flowclf.systems.branched import BranchedAutoencoder
from flowclf.training import train

SHAPE = (1, 4, 4)
NETWORKS: dict[str, Any] = {**small("vae", hidden=12), "branch": {"hidden": [8]}, "latent": 3}
MIXTURE = {"start": "equidistant", "means": "learned", "distance": 3.0}


def make(system: str, **settings: Any) -> BranchedAutoencoder:
    """Float64, with random weights also where a network starts at zero."""
    if system == "vae-as":
        settings = {"identity": {"hidden": [7]}, "samples": 20, **settings}
    model = flowclf.build(system, **{"shape": SHAPE, "classes": 4, **NETWORKS, **settings})
    assert isinstance(model, BranchedAutoencoder)
    randomize(model.heads, torch.Generator().manual_seed(3))
    return model.double().train()


def batch() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(4)
    x = torch.randint(256, (20, *SHAPE), generator=generator).double()
    return x, torch.arange(20) % 4, torch.arange(20).flip(0)


def terms(model: BranchedAutoencoder, y: Tensor | None = None) -> dict[str, Tensor]:
    x, labels, index = batch()
    return model.loss(x, labels if y is None else y, torch.Generator().manual_seed(5), index)


def gradients(model: BranchedAutoencoder, loss: Tensor) -> dict[str, Tensor]:
    learned = {name: p for name, p in model.named_parameters() if p.requires_grad}
    grads = torch.autograd.grad(loss, [*learned.values()], allow_unused=True, retain_graph=True)
    return {name: g for name, g in zip(learned, grads, strict=True) if g is not None}


def reached(model: BranchedAutoencoder, loss: Tensor) -> set[str]:
    """List the parts that have a gradient other than zero."""
    names = [name for name, g in gradients(model, loss).items() if bool(g.any())]
    return {name.removeprefix("heads.").split(".")[0] for name in names}


def test_bvae_is_a_vae_of_other_weights() -> None:
    alpha, lam = 4.0, 6.0
    bvae = make("bvae", objective={"rec": alpha, "branch": lam})
    vae = make("bvae", objective={"kl": 1 / alpha, "branch": lam / alpha})
    one, other = terms(bvae)["total"], alpha * terms(vae)["total"]
    assert_close(one, other)
    assert_close(gradients(bvae, one), gradients(vae, other))


def test_without_a_branch_weight_the_branch_is_a_probe() -> None:
    probed, taught = make("vae"), make("bvae")
    found = terms(probed)
    assert reached(probed, found["decision"]) == {"branch"}
    assert reached(taught, terms(taught)["decision"]) == {"branch", "encoder"}
    assert reached(probed, found["rec_nats"]) == {"encoder", "decoder"}
    assert reached(probed, found["kl_nats"]) == {"encoder"}
    assert_close(found["total"], found["rec_nats"] + found["kl_nats"] + found["decision"])


def test_mixture_prior_and_posterior_make_the_bound_of_the_joint_density() -> None:
    model = make("bvae", mixture=MIXTURE, branch={"kind": "mixture"}, objective={"branch": 1.0})
    x, y, _ = batch()
    encoding = model.encode(x, torch.Generator().manual_seed(5))
    assert encoding.mean is not None
    assert encoding.log_var is not None
    normal = torch.distributions.Normal(encoding.mean, (0.5 * encoding.log_var).exp())
    given_class = model.mixture.log_prob_given_class(encoding.z).gather(1, y[:, None])[:, 0]
    joint = model.log_likelihood(x, encoding.z) + given_class + model.mixture.log_weights[y]
    assert_close(terms(model)["total"], -(joint + normal.entropy().sum(1)).mean())
    assert reached(model, terms(model)["decision"]) == {"encoder", "mixture"}


@pytest.mark.parametrize("form", ["bound", "entropy"])
def test_negatives_change_the_training_and_not_what_is_reported(form: str) -> None:
    objective = {"form": form, "md": 0.5}
    exact, sampled = (
        make("vae-as", objective=objective, identity={"hidden": [7], "negatives": negatives})
        for negatives in (None, 4)
    )
    whole, estimate = terms(exact), terms(sampled)
    assert not torch.equal(estimate["identity"], whole["identity"])
    for name, gradient in gradients(sampled, estimate["total"]).items():
        assert bool(gradient.isfinite().all()), name
    assert_close(terms(sampled), estimate, rtol=0, atol=0)
    assert_close(terms(sampled.eval()), terms(exact.eval()), rtol=0, atol=0)


def test_equal_weights_make_vae_as_a_vae_whatever_the_softmax() -> None:
    vae, auxiliary = make("vae"), make("vae-as")
    ours, theirs = terms(auxiliary), terms(vae)
    assert_close(ours["total"] - ours["identity"], theirs["total"])
    found = gradients(auxiliary, ours["total"])
    for name, gradient in gradients(vae, theirs["total"]).items():
        assert_close(found[name], gradient, rtol=1e-12, atol=1e-12)


def teach(model: BranchedAutoencoder, steps: int = 60) -> None:
    """Let the softmax learn which sample the latents of the batch are of."""
    x, _, index = batch()
    z = model.encode(x, torch.Generator().manual_seed(5)).z.detach()
    head = model.heads["identity"]
    optimizer = torch.optim.Adam(head.parameters(), 0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        head(z, index)[0].mean().backward()
        optimizer.step()


@pytest.mark.parametrize(
    ("form", "taught"), [("bound", True), ("bound", False), ("entropy", True), ("entropy", False)]
)
def test_the_two_parts_of_the_rate(form: str, taught: bool) -> None:
    alpha, beta = 2.0, 0.3
    model = make("vae-as", objective={"mi": alpha, "md": beta, "form": form})
    if taught:
        teach(model)
    found, head = terms(model), model.heads["identity"]
    x, _, index = batch()
    encoding = model.encode(x, torch.Generator().manual_seed(5))
    identity, entropy = (v.mean() for v in head(encoding.z, index))
    kl = model.kl(encoding, model.densities(encoding.z)).mean()
    log_count = torch.tensor(20.0, dtype=torch.float64).log()
    assert bool(identity < log_count) == taught
    # A bound below nought says nothing of the information, and teaches nothing.
    mi = (log_count - identity).clamp_min(0) if form == "bound" else log_count - entropy
    md = kl - mi if form == "bound" else kl + identity - log_count
    assert_close(found["mi_nats"], mi)
    assert_close(found["md_nats"], md)
    if taught:
        assert_close(found["md_nats"], found["kl_nats"] + found["identity"] - log_count)
    rest = found["total"] - found["rec_nats"] - found["decision"]
    assert_close(rest, alpha * mi + beta * md + identity)
    # The encoder learns from the weighted terms, the softmax from its cross-entropy alone.
    expected = gradients(model, alpha * mi + beta * md + found["rec_nats"])
    expected |= {name: g for name, g in gradients(model, identity).items() if "identity" in name}
    for name, gradient in gradients(model, found["total"]).items():
        if name.startswith("encoder") or "identity" in name:
            assert_close(gradient, expected[name])


def test_free_bits_and_warmup() -> None:
    def rest(found: dict[str, Tensor]) -> Tensor:
        return found["total"] - found["rec_nats"] - found["decision"]

    free = rest(terms(make("vae", objective={"free_bits": 50.0})))
    assert_close(free, torch.full_like(free, 150.0))
    warm = make("vae", objective={"warmup": 0.5, "kl": 2.0})
    for progress, weight in ((0.0, 0.0), (0.25, 1.0), (0.5, 2.0), (1.0, 2.0)):
        warm.progress = progress
        assert_close(rest(found := terms(warm)), weight * found["kl_nats"])


def test_class_weights_are_as_good_as_copies() -> None:
    model = make("bvae", objective={"branch": 3.0, "class_weights": [10, 1, 1, 1]}).eval()
    plain = make("bvae", objective={"branch": 3.0}).eval()
    x, y, _ = batch()
    copies = torch.arange(20).repeat_interleave(torch.where(y == 0, 10, 1))
    weighted, copied = model.loss(x, y), plain.loss(x[copies], y[copies])
    for name in ("rec_nats", "kl_nats", "decision", "total"):
        assert_close(weighted[name], copied[name])


def test_fixed_outputs_aim_at_the_class() -> None:
    model = make("vae", objective={"target": "class-mean"}).eval()
    x, y, _ = batch()
    model.fit_statistics(x.to(torch.uint8), y)
    assert model.templates is not None
    assert_close(model.templates[1].float(), x[y == 1].float().mean(0))
    aimed = model.log_likelihood(model.templates[y], model.encode(x).z)
    assert_close(model.loss(x, y)["rec_nats"], -aimed.mean())
    with pytest.raises(UserError, match="labels"):
        model.loss(x, torch.full_like(y, -1))


def test_samples_without_a_label_teach_all_but_the_branch() -> None:
    model = make("bvae")
    found = terms(model, torch.full((20,), -1))
    assert found["decision"] == 0
    assert reached(model, found["total"]) == {"encoder", "decoder"}


@pytest.mark.parametrize(
    ("system", "settings", "message"),
    [
        ("vae", {"branch": {"kind": "mixture"}}, "standard normal"),
        ("bvae", {"branch": {"kind": "knn"}}, "no gradient"),
        ("vae", {"mixture": MIXTURE, "branch": {"kind": "mixture"}}, "branch above 0 for branch.k"),
        ("vae", {"objective": {"free_bits": 0.1}, "mixture": MIXTURE}, "free_bits"),
        ("vae", {"objective": {"class_weights": [1, 2]}}, "class_weights of 4"),
        ("vae", {"noise": {"uniform": 1.0}}, "noise.uniform=0"),
        ("vae", {"mixture": {"kind": "vmf"}}, "gaussian"),
        ("vae", {"shape": (5,), "objective": {"target": "blob"}}, "table"),
        ("vae", {"shape": (5,), "likelihood": "bernoulli"}, "table"),
        ("vae-as", {"samples": None}, "samples=N"),
    ],
)
def test_what_does_not_go_together(system: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make(system, **settings)


@pytest.mark.parametrize(
    ("system", "settings", "least"),
    [
        ("vae", {"branch": {"kind": "knn"}}, 0.7),
        ("bvae", {"likelihood": "logistic", "latent": 4}, 0.9),
        ("vae-as", {"latent": 6, "identity": {"hidden": [32], "tags": 2}}, 0.5),
    ],
)
def test_runs_train_and_load(
    system: str, settings: dict[str, Any], least: float, tmp_path: Path
) -> None:
    digits = load_dataset("digits")
    quick = {"train": {"epochs": 12}, "data": {"augment": "none"}}
    config = make_config(system, "digits", digits.shape, overrides=[quick, settings])
    trained = train(config, digits, Run(tmp_path / "run"), device="cpu")
    results = trained.summary["test"]
    assert results["accuracy"] > least
    assert results["elbo_nats"] < 0
    assert (results["bits_per_dim"] is not None) == (system == "bvae")
    again, x = flowclf.load(tmp_path / "run"), digits.test.x[:20]
    assert torch.equal(again.log_posterior(x), trained.model.log_posterior(x))
    assert again.sample(torch.arange(10)).shape == (10, 1, 8, 8)
    assert seen_as_meant(again, "data") > seen_as_meant(again, "means")
    if system == "bvae":
        assert seen_as_meant(again, "data") > 0.8


def seen_as_meant(model: flowclf.GenerativeClassifier, around: Around) -> float:
    """Share of the samples that are classified as what they were drawn as."""
    y = torch.arange(10).repeat_interleave(30)
    x = model.sample(y, 0.7, torch.Generator().manual_seed(0), around)
    return (model.predict(x) == y).float().mean().item()
