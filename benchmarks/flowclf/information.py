"""I(z; x) and KL(q(z) ‖ p(z)) by the number of samples: -m benchmarks.flowclf.information RUN…

Over the training samples of finished vae-as runs: by q(z) of all of them, by q(z) of a mini-batch
of S, and by its softmax. Figure 2 of the VAE-AS paper; rows go to results/vae-as-information.csv.
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.results import append_rows, recorded
from flowclf.evaluation.rate import gaussians
from flowclf.latent.information import gaussian_log_prob, information, minibatch_information
from flowclf.nn.sample_softmax import IdentitySoftmax
from flowclf.runs import Run
from flowclf.support.errors import UserError
from flowclf.support.seeding import generator_for
from flowclf.systems.autoencoder import Autoencoder
from flowclf.training.task import load_task

SIZES = (100, 200, 500, 1000, 2000, 5000, 10_000, 20_000)
LATENTS = 2000


@torch.no_grad()
def compare_information(run: Path) -> list[dict[str, Any]]:
    """Return and record a row for each estimator: `samples` S, `mi_nats`, `md_nats`.

    Raises:
        UserError: a run of another system.
    """
    task = load_task(run, device="cpu")
    model, x = task.model, task.training.x
    if not isinstance(model, Autoencoder) or "identity" not in model.heads:
        raise UserError(f"expected a run of vae-as, got {run} of {task.config.system}")
    mean, log_var = gaussians(model, x)
    noise = torch.empty_like(mean).normal_(generator=generator_for(0, "information"))
    z = mean + (0.5 * log_var).exp() * noise
    prior = model.mixture.log_prob(z)
    first = slice(0, LATENTS)
    own = z[first], mean[first], log_var[first]
    found = {("all", len(x)): information(*own, mean, log_var, prior[first])}
    for size in (size for size in SIZES if size < len(x)):
        whole = slice(0, max(size, LATENTS) // size * size)
        batch = z[whole], mean[whole], log_var[whole], prior[whole]
        found["mini-batch", size] = minibatch_information(*batch, size)
    found |= _by_softmax(model, *own, prior[first], len(x))
    own_facts = {"run": run.name, "seed": task.config.seed}
    rows = [{"estimator": n, "samples": s, **v, **own_facts} for (n, s), v in found.items()]
    append_rows(recorded("vae-as-information.csv"), rows, Run(run).read_precision())
    return rows


def _by_softmax(
    model: Autoencoder, z: Tensor, mean: Tensor, log_var: Tensor, prior: Tensor, samples: int
) -> dict[tuple[str, int], dict[str, float]]:
    softmax = model.heads["identity"]
    assert isinstance(softmax, IdentitySoftmax)
    identity, entropy = (float(v.mean()) for v in softmax(z, torch.arange(len(z))))
    divergence = float((gaussian_log_prob(z, mean, log_var) - prior).mean())
    md = divergence + identity - softmax.log_count
    parts = (("bound", identity), ("entropy", entropy))
    return {
        (f"softmax, {kind}", samples): {"mi_nats": softmax.log_count - part, "md_nats": md}
        for kind, part in parts
    }


def main() -> None:
    """Print and record the rows of each run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", type=Path, nargs="+", help="folders of finished vae-as runs")
    for row in (row for run in parser.parse_args().runs for row in compare_information(run)):
        numbers = f"MI {row['mi_nats']:.3f}  MD {row['md_nats']:.3f}"
        print(f"{row['estimator']:18} S = {row['samples']:6}  {numbers}")


if __name__ == "__main__":
    main()
