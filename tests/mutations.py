"""Deliberate faults, each of which a test must find: `python tests/mutations.py` (make mutations).

The packages are copied to a temporary folder, and one fault at a time is put into the copy: a
log-determinant counted twice, a sign, a constant. The tests named beside it must fail, and must
pass without it. `tests/test_mutations.py` holds that each fault still has its place.

Words after the command choose the faults whose names contain one of them.
"""

import os
import re
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

HERE = Path(__file__).parent.parent
COPIED = ("benchmarks", "couplings", "flowclf", "tests", "pyproject.toml")
AT_ONCE = 2


@dataclass(frozen=True)
class Fault:
    """One text in place of another.

    Attributes:
        name: what is wrong then.
        file: below the repository.
        right, wrong: the text there, which occurs once, and its replacement.
        tests: paths and identifiers for pytest, of which one must fail.
        only: an expression of pytest's -k.
    """

    name: str
    file: str
    right: str
    wrong: str
    tests: tuple[str, ...]
    only: str = ""


def couplings(name: str, file: str, right: str, wrong: str, *tests: str, only: str = "") -> Fault:
    """Make a fault in `couplings`."""
    paths = tuple(f"tests/couplings/{test}" for test in tests)
    return Fault(name, f"couplings/{file}", right, wrong, paths, only)


def flowclf(name: str, file: str, right: str, wrong: str, *tests: str, only: str = "") -> Fault:
    """Make a fault in `flowclf`."""
    paths = tuple(f"tests/flowclf/{test}" for test in tests)
    return Fault(name, f"flowclf/{file}", right, wrong, paths, only)


CONTRACT = "test_contract.py::test_inverse_and_log_dets_are_exact"

FAULTS = (
    couplings(
        "affine coupling: log-det twice",
        "ops/affine.py",
        "unit.flatten(1).sum(1).mul_(signed)",
        "unit.flatten(1).sum(1).mul_(2 * signed)",
        CONTRACT,
    ),
    couplings(
        "affine coupling's definition: log-det twice",
        "ops/reference.py",
        "+ shift, log_scale.flatten(1).sum(1)",
        "+ shift, 2 * log_scale.flatten(1).sum(1)",
        "ops/test_affine.py::test_as_exact_as_the_definition",
    ),
    couplings(
        "spline: log-det twice",
        "ops/spline_planes.py",
        "torch.sum(log_slope.mul_(inside).add_(x, alpha=0), 1, out=log_slopes)",
        "torch.sum(log_slope.mul_(2 * inside).add_(x, alpha=0), 1, out=log_slopes)",
        CONTRACT,
    ),
    couplings(
        "rotation: log-det twice",
        "ops/matmul.py",
        "* (-positions if inverse else positions)",
        "* 2 * (-positions if inverse else positions)",
        CONTRACT,
    ),
    couplings(
        "scales of channels: log-det not times the positions",
        "ops/matmul.py",
        "positions = x.shape[1:].numel() // x.shape[1]",
        "positions = 1",
        CONTRACT,
    ),
    couplings(
        "Haar downsampling: log-det twice",
        "transforms.py",
        "return haar(x, self.scale), constant_log_det(x, self.dims * log(self.scale))",
        "return haar(x, self.scale), constant_log_det(x, 2 * self.dims * log(self.scale))",
        CONTRACT,
    ),
    couplings(
        "Haar downsampling: another factor",
        "ops/haar.py",
        "torch.sub(a, b, out=upper).mul_(factor / 2)",
        "torch.sub(a, b, out=upper).mul_(factor)",
        CONTRACT,
    ),
    couplings(
        "standardisation: sign of the log-det",
        "layers.py",
        "return (x - self.shift) / self.scale, -self._log_det(x)",
        "return (x - self.shift) / self.scale, self._log_det(x)",
        CONTRACT,
    ),
    couplings(
        "spline's inverse: sign of the log-det",
        "ops/spline_planes.py",
        "log_slopes.neg_()",
        "log_slopes.abs_()",
        CONTRACT,
    ),
    couplings(
        "logistic's inverse: sign of the log-det",
        "layers.py",
        "return x, -self._log_det(x)",
        "return x, self._log_det(x)",
        "test_layers.py",
    ),
    couplings(
        "chain: the inverse forgets the log-dets before",
        "core.py",
        ".inverse(z, context)\n            total = total + log_det",
        ".inverse(z, context)\n            total = log_det",
        "test_core.py",
        CONTRACT,
    ),
    couplings(
        "affine coupling's backward: sign of the shift",
        "ops/affine.py",
        "torch.neg(grad_active, out=grad_shift)",
        "grad_shift.copy_(grad_active)",
        "ops/test_affine.py::test_derivatives_and_opcheck",
    ),
    couplings(
        "soft clamp's backward: 2/π",
        "ops/affine.py",
        "values.mul_(work).mul_(factor * 2 / pi)",
        "values.mul_(work).mul_(factor)",
        "ops/test_affine.py::test_derivatives_and_opcheck",
    ),
    couplings(
        "spline's backward: sign of a share",
        "ops/spline_planes.py",
        "at_bin = size.sub_(mean)",
        "at_bin = size.add_(mean)",
        "ops/test_spline.py::test_derivatives_and_opcheck",
    ),
    couplings(
        "rotation's backward: sign of the scale",
        "ops/matmul.py",
        "grad_z, sign = (grad_input, -1) if inverse else (grad, 1)",
        "grad_z, sign = (grad_input, 1) if inverse else (grad, 1)",
        "ops/test_rotation.py::test_derivatives_and_opcheck",
    ),
    couplings(
        "mixture: no 2π",
        "ops/matmul.py",
        "common = torch.linalg.vecdot(z, z).add_(z.shape[1] * log(2 * pi)).mul_(-0.5)",
        "common = torch.linalg.vecdot(z, z).mul_(-0.5)",
        "ops/test_mixture.py::test_is_the_broadcast_formula",
    ),
    couplings(
        "mixture: ½ of the norms",
        "ops/matmul.py",
        "bias = torch.linalg.vecdot(means, means).mul_(-0.5)",
        "bias = torch.linalg.vecdot(means, means).mul_(-1)",
        "ops/test_mixture.py::test_is_the_broadcast_formula",
    ),
    flowclf(
        "Gaussian: no 2π",
        "latent/information.py",
        "-0.5 * (square + log_var + log(2 * pi)).sum(-1)",
        "-0.5 * (square + log_var).sum(-1)",
        "latent/test_information.py::test_densities_are_those_of_torch",
    ),
    flowclf(
        "Gaussian: no ½",
        "latent/information.py",
        "-0.5 * (square + log_var + log(2 * pi)).sum(-1)",
        "-1.0 * (square + log_var + log(2 * pi)).sum(-1)",
        "latent/test_information.py::test_densities_are_those_of_torch",
    ),
    flowclf(
        "IB-INN: β̃ on the rate",
        "objectives.py",
        "total = weight_rate * rate_per_dim + weight_decision * decision",
        "total = weight_decision * rate_per_dim + weight_rate * decision",
        "test_objectives.py",
    ),
    flowclf(
        "encoder: pre-processing without its log-det",
        "nn/encoders.py",
        "return Encoding(z, log_det_preprocess + log_det_network)",
        "return Encoding(z, log_det_network)",
        "test_classifier.py",
    ),
    flowclf(
        "mixture: weights that are not normalised",
        "latent/gaussian.py",
        "return (self.weight_logits + offsets).log_softmax(0)",
        "return self.weight_logits + offsets",
        "latent/test_gaussian.py::test_densities_and_posterior_are_those_of_torch_distributions",
    ),
    flowclf(
        "bits/dim in nats",
        "evaluation/metrics.py",
        "return float(-log_prob.double().mean() / (dims * log(2)))",
        "return float(-log_prob.double().mean() / dims)",
        "evaluation/test_metrics.py",
    ),
    flowclf(
        "VC: discriminators move the encoder",
        "systems/variational.py",
        "self._discriminator_loss(z.detach(), batch.y, batch.generator)",
        "self._discriminator_loss(z, batch.y, batch.generator)",
        "systems/test_variational.py::test_each_term_reaches_its_parameters",
    ),
    flowclf(
        "VC: the ratio moves the discriminators",
        "systems/variational.py",
        "self._ratio().frozen(z, self.mixture) if self.heads",
        "self._ratio()(z, self.mixture) if self.heads",
        "systems/test_variational.py::test_each_term_reaches_its_parameters",
    ),
    flowclf(
        "VC: sign of the ratio",
        "objectives.py",
        'total = total + weights["ratio"] * terms["ratio"]',
        'total = total - weights["ratio"] * terms["ratio"]',
        "systems/test_variational.py",
        only="total or terms",
    ),
    flowclf(
        "VC: discriminators the wrong way round",
        "objectives.py",
        "return softplus(-ratio_data.gather(1, own)).mean() + ",
        "return softplus(ratio_data.gather(1, own)).mean() + ",
        "nn/test_density_ratio.py",
        "systems/test_identities.py",
    ),
    flowclf(
        "KL divergence: sign of the log-variance",
        "objectives.py",
        "return 0.5 * (mean.square() + log_var.exp() - log_var - 1)",
        "return 0.5 * (mean.square() + log_var.exp() + log_var - 1)",
        "systems/test_systems.py::test_the_rate_of_vib_is_the_divergence_from_a_standard_normal",
    ),
    flowclf(
        "VAE: sign of the KL divergence",
        "systems/autoencoder.py",
        "self.log_likelihood(x, each) - self.kl(encoding, self.densities(each))",
        "self.log_likelihood(x, each) + self.kl(encoding, self.densities(each))",
        "systems/test_autoencoder.py",
        "systems/test_vae.py::test_mixture_prior_and_posterior_make_the_bound_of_the_joint_density",
    ),
    flowclf(
        "VAE-AS: divergence without the information",
        "objectives.py",
        '"md_nats": kl - known',
        '"md_nats": kl',
        "systems/test_vae.py::test_the_two_parts_of_the_rate",
    ),
    flowclf(
        "VAE-AS: the paper's entropy with another sign",
        "objectives.py",
        '"mi_nats": log_count - entropy',
        '"mi_nats": log_count + entropy',
        "systems/test_vae.py::test_the_two_parts_of_the_rate",
    ),
    flowclf(
        "VAE-AS: backward of the entropy",
        "nn/sample_softmax.py",
        ".mul_(-grad_entropy[:, None])",
        ".mul_(grad_entropy[:, None])",
        "nn/test_sample_softmax.py::test_values_and_gradients_are_those_of_all_logits",
    ),
    flowclf(
        "M2: no log K",
        "objectives.py",
        "return log_x + log_prior - log_q_z - log(classes)",
        "return log_x + log_prior - log_q_z",
        "systems/test_untapped.py",
        only="bounds",
    ),
    flowclf(
        "M2: marginal bound without the entropy",
        "objectives.py",
        "return (log_posterior.exp() * (labelled - log_posterior)).sum(1)",
        "return (log_posterior.exp() * labelled).sum(1)",
        "systems/test_untapped.py",
        only="bounds",
    ),
    flowclf(
        "M2: relaxed bound without log Γ(K)",
        "objectives.py",
        "return log_x + log_prior - log_q_z + lgamma(classes) - log_q_y",
        "return log_x + log_prior - log_q_z - log_q_y",
        "systems/test_untapped.py",
        only="bounds",
    ),
    flowclf(
        "relaxed label: τ for τ + 1",
        "nn/relaxed_label.py",
        "return constant + (powers - log_y).sum(1) - classes * powers.logsumexp(1)",
        "return constant + powers.sum(1) - classes * powers.logsumexp(1)",
        "nn/test_relaxed_label.py",
    ),
    flowclf(
        "Untapped: sign of log p(x'|y,z) in the reverse bound",
        "objectives.py",
        "return known - log_x + log_base",
        "return known + log_x + log_base",
        "systems/test_untapped.py",
        only="bounds",
    ),
    flowclf(
        "ECE: sums of magnitudes for magnitudes of sums",
        "evaluation/calibration.py",
        ".bincount(hit - confidence, bins)",
        ".bincount((hit - confidence).abs(), bins)",
        "evaluation/test_calibration.py",
    ),
    flowclf(
        "calibration: bins that are not weighed",
        "evaluation/calibration.py",
        "return float((self.count * self.gap).sum() / self.count.sum())",
        "return float(self.gap.mean())",
        "evaluation/test_calibration.py",
    ),
    flowclf(
        "IB-INN's calibration: no more than twenty in a bin",
        "evaluation/calibration.py",
        "kept = binned.count > PAPER_LEAST_COUNT",
        "kept = binned.count > 0",
        "evaluation/test_calibration.py",
    ),
    flowclf(
        "logistic likelihood: half a grey level",
        "nn/likelihoods.py",
        "upper, lower = (x + 0.5 - self.mean(out)) * inverse",
        "upper, lower = (x + 1.0 - self.mean(out)) * inverse",
        "nn/test_likelihoods.py",
    ),
)


def mutated(fault: Fault, root: Path = HERE) -> str:
    """Return the file's text with the fault.

    Raises:
        ValueError: the right text is not there once.
    """
    text = (root / fault.file).read_text("utf-8")
    if text.count(fault.right) != 1:
        raise ValueError(
            f"{fault.name}: expected {fault.right!r} once in {fault.file}, got it "
            f"{text.count(fault.right)} times; change it here as it was changed there"
        )
    return text.replace(fault.right, fault.wrong)


def copy_to(folder: Path) -> Path:
    """Copy the packages and the tests to a folder."""
    for name in COPIED:
        copy = shutil.copytree if (HERE / name).is_dir() else shutil.copy2
        copy(HERE / name, folder / name)
    return folder


def run_tests(root: Path, tests: list[str], *options: str) -> tuple[int, str]:
    """Return pytest's exit status in a copy, and its output."""
    command = [sys.executable, "-m", "pytest", "-x", "--tb=no", "-rfE", "-p", "no:cacheprovider"]
    environment = os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, *options, *tests], cwd=root, env=environment, capture_output=True, text=True
    )
    return done.returncode, done.stdout + done.stderr


def find(fault: Fault) -> tuple[Fault, str]:
    """Return the fault and the test that found it, empty if none did."""
    with TemporaryDirectory() as folder:
        root = copy_to(Path(folder))
        (root / fault.file).write_text(mutated(fault, root), "utf-8")
        status, output = run_tests(root, list(fault.tests), "-k", fault.only)
    failed = re.search(r"^FAILED (.+?)(?: - |$)", output, re.MULTILINE)
    return fault, failed[1] if status == 1 and failed else ""


def main(words: list[str]) -> int:
    """Print a line for each fault; return the number of those that no test found."""
    chosen = [f for f in FAULTS if not words or any(word in f.name for word in words)]
    for fault in chosen:
        mutated(fault)
    start = time.perf_counter()
    with TemporaryDirectory() as folder:
        tests = list(dict.fromkeys(test for fault in chosen for test in fault.tests))
        status, output = run_tests(copy_to(Path(folder)), tests)
    if status:
        print(f"without a fault:\n{output}")
        return 1
    print(f"{'without a fault':62} all pass")
    survived = 0
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for fault, test in pool.map(find, chosen):
            survived += not test
            print(f"{fault.name:62} {test or 'NOT FOUND'}", flush=True)
    seconds = time.perf_counter() - start
    print(f"{len(chosen) - survived} of {len(chosen)} faults found in {seconds:.0f} s")
    return survived


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
