"""Deliberate faults, each of which a test must find: `python tests/mutations.py` (make mutations).

The packages are copied to a temporary folder, and one fault at a time is put into the copy: a
log-determinant counted twice, a sign, a constant. The tests named beside it must fail, and must
pass without it. Of the kernels those that hold the fault run: PyTorch's own, the compiled ones,
which are compiled with it, or Triton's, interpreted. `tests/test_mutations.py` holds that each
fault still has its place.

Words after the command choose the faults whose names contain one of them.
"""

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.util import find_spec
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

    @property
    def kernels(self) -> str:
        """Kernels that hold the fault, as COUPLINGS_KERNELS."""
        if "/triton_" in self.file:
            return "triton"
        return "compiled" if "/csrc/" in self.file else "python"


CONTRACT = "test_contract.py::test_inverse_and_log_dets_are_exact"

# By file and by the tests of its package, of which one must fail (-k chooses among them): what is
# wrong, and ⟨what is right→what stands there instead⟩ within text that occurs once.
TABLE = r"""
couplings/ops/affine.py
  CONTRACT
    affine coupling: log-det twice
      unit.flatten(1).sum(1).mul_(⟨→2 * ⟩signed)
couplings/ops/reference.py
  ops/test_affine.py::test_as_exact_as_the_definition
    affine coupling's definition: log-det twice
      + shift, ⟨→2 * ⟩log_scale.flatten(1).sum(1)
couplings/ops/spline_planes.py
  CONTRACT
    spline: log-det twice
      torch.sum(log_slope.mul_(⟨→2 * ⟩inside).add_(x, alpha=0), 1, out=log_slopes)
    spline's inverse: sign of the log-det
      log_slopes.⟨neg→abs⟩_()
couplings/ops/matmul.py
  CONTRACT
    rotation: log-det twice
      * ⟨→2 * ⟩(-positions if inverse else positions)
    scales of channels: log-det not times the positions
      positions = ⟨x.shape[1:].numel() // x.shape[1]→1⟩
couplings/transforms.py
  CONTRACT
    Haar downsampling: log-det twice
      return haar(x, self.scale), constant_log_det(x, ⟨→2 * ⟩self.dims * log(self.scale))
couplings/ops/haar.py
  CONTRACT
    Haar downsampling: another factor
      torch.sub(a, b, out=upper).mul_(factor⟨ / 2→⟩)
couplings/layers.py
  CONTRACT
    standardisation: sign of the log-det
      return (x - self.shift) / self.scale, ⟨-→⟩self._log_det(x)
  test_layers.py
    logistic's inverse: sign of the log-det
      return x, ⟨-→⟩self._log_det(x)
couplings/core.py
  test_core.py CONTRACT
    chain: the last log-det for the sum
      torch.stack(log_dets⟨→[-1:]⟩).sum(0)
couplings/ops/affine.py
  ops/test_affine.py::test_derivatives_and_opcheck
    affine coupling's backward: sign of the shift
      ⟨torch.neg(grad_active, out=grad_shift→grad_shift.copy_(grad_active⟩)
    soft clamp's backward: 2/π
      values.mul_(work).mul_(factor⟨ * 2 / pi→⟩)
couplings/ops/spline_planes.py
  ops/test_spline.py::test_derivatives_and_opcheck
    spline's backward: sign of a share
      at_bin = size.⟨sub→add⟩_(mean)
couplings/ops/matmul.py
  ops/test_rotation.py::test_derivatives_and_opcheck
    rotation's backward: sign of the scale
      grad_z, sign = (grad_input, ⟨-→⟩1) if inverse else (grad, 1)
  ops/test_mixture.py::test_is_the_broadcast_formula
    mixture: no 2π
      common = torch.linalg.vecdot(z, z).⟨add_(z.shape[1] * log(2 * pi)).→⟩mul_(-0.5)
    mixture: ½ of the norms
      bias = torch.linalg.vecdot(means, means).mul_(-⟨0.5→1⟩)
couplings/ops/csrc/affine.h
  ops/test_affine.py::test_as_exact_as_the_definition
    compiled affine coupling: log-det twice
      const T log_det = T(⟨→2 * ⟩sum * (map.inverse
  ops/test_affine.py::test_derivatives_and_opcheck
    compiled affine coupling's backward: sign of the shift
      grad_shift[i] = map.inverse ? ⟨-→⟩scaled : g;
couplings/ops/csrc/rotation.h
  ops/test_rotation.py::test_derivatives_and_opcheck
    compiled rotation's backward: no offset
      product += gradient[c] * ⟨(latent[c] - shift)→latent[c]⟩;
    compiled rotation's backward, channels-last: no offset
      products[c] += gradient[c] * ⟨(latent[c] - offset[c])→latent[c]⟩;
couplings/ops/csrc/spline.h
  ops/test_spline.py::test_any_number_of_bins
    compiled spline's inverse: sign of the log-det
      (inverse ? ⟨-→⟩log_derivative : log_derivative)
  ops/test_spline.py::test_derivatives_and_opcheck
    compiled spline's backward: sign of a share
      at0[i] = (by_width ⟨-→+⟩ mean0) * scale0;
flowclf/latent/information.py
  latent/test_information.py::test_densities_are_those_of_torch
    Gaussian: no 2π
      -0.5 * (square + log_var⟨ + log(2 * pi)→⟩).sum(-1)
    Gaussian: no ½
      -⟨0.5→1.0⟩ * (square + log_var + log(2 * pi)).sum(-1)
flowclf/objectives.py
  test_objectives.py
    IB-INN: β̃ on the rate
      total = weight_⟨rate * rate_per_dim + weight_decision→decision * rate_per_dim + weight_rate⟩
flowclf/nn/encoders.py
  test_classifier.py
    encoder: pre-processing without its log-det
      return Encoding(z, log_det_⟨preprocess + log_det_→⟩network)
flowclf/latent/gaussian.py
  latent/test_gaussian.py::test_densities_and_posterior_are_those_of_torch_distributions
    mixture: weights that are not normalised
      return ⟨(self.weight_logits + offsets).log_softmax(0)→self.weight_logits + offsets⟩
flowclf/evaluation/metrics.py
  evaluation/test_metrics.py
    bits/dim in nats
      return float(-log_prob.double().mean() / ⟨(dims * log(2))→dims⟩)
flowclf/systems/variational.py
  systems/test_variational.py::test_each_term_reaches_its_parameters
    VC: discriminators move the encoder
      self._discriminator_loss(z⟨.detach()→⟩, batch.y, batch.generator)
    VC: the ratio moves the discriminators
      self._ratio()⟨.frozen→⟩(z, self.mixture) if self.heads
flowclf/objectives.py
  systems/test_variational.py -k total or terms
    VC: sign of the ratio
      total = total ⟨+→-⟩ weights["ratio"] * terms["ratio"]
  nn/test_density_ratio.py systems/test_identities.py
    VC: discriminators the wrong way round
      return softplus(⟨-→⟩ratio_data.gather(1, own)).mean() +
  systems/test_systems.py::test_the_rate_of_vib_is_the_divergence_from_a_standard_normal
    KL divergence: sign of the log-variance
      return 0.5 * (mean.square() + log_var.exp() ⟨-→+⟩ log_var - 1)
flowclf/systems/autoencoder.py
  systems/test_autoencoder.py systems/test_vae.py
    VAE: sign of the KL divergence
      self.log_likelihood(x, each) ⟨-→+⟩ self.kl(encoding, self.densities(each))
flowclf/objectives.py
  systems/test_vae.py::test_the_two_parts_of_the_rate
    VAE-AS: divergence without the information
      "md_nats": kl⟨ - known→⟩
    VAE-AS: the paper's entropy with another sign
      "mi_nats": log_count ⟨-→+⟩ entropy
flowclf/nn/sample_softmax.py
  nn/test_sample_softmax.py::test_values_and_gradients_are_those_of_all_logits
    VAE-AS: backward of the entropy
      .mul_(⟨-→⟩grad_entropy[:, None])
flowclf/objectives.py
  systems/test_untapped.py -k bounds
    M2: no log K
      return log_x + log_prior - log_q_z⟨ - log(classes)→⟩
    M2: marginal bound without the entropy
      return (log_posterior.exp() * ⟨(labelled - log_posterior)→labelled⟩).sum(1)
    M2: relaxed bound without log Γ(K)
      return log_x + log_prior - log_q_z ⟨+ lgamma(classes) →⟩- log_q_y
    Untapped: sign of log p(x'|y,z) in the reverse bound
      return known ⟨-→+⟩ log_x + log_base
flowclf/nn/relaxed_label.py
  nn/test_relaxed_label.py
    relaxed label: τ for τ + 1
      return constant + ⟨(powers - log_y)→powers⟩.sum(1) - classes * powers.logsumexp(1)
flowclf/evaluation/calibration.py
  evaluation/test_calibration.py
    ECE: sums of magnitudes for magnitudes of sums
      .bincount(⟨hit - confidence→(hit - confidence).abs()⟩, bins)
    calibration: bins that are not weighed
      return float(⟨(self.count * self.gap).sum() / self.count.sum→self.gap.mean⟩())
    IB-INN's calibration: no more than twenty in a bin
      kept = binned.count > ⟨PAPER_LEAST_COUNT→0⟩
flowclf/nn/likelihoods.py
  nn/test_likelihoods.py
    logistic likelihood: half a grey level
      upper, lower = (x + ⟨0.5→1.0⟩ - self.mean(out)) * inverse
couplings/ops/triton_affine.py
  ../kernels/test_triton_affine.py
    Triton's affine coupling: sum of all but the sample's own numbers
      total = tl.sum(tl.where(inside, u, ⟨0.0→1.0⟩))
    Triton's affine coupling, backward: sign of the inverse's shift
      g_raw, g_shift = -(g * x + g_log) * slope, ⟨-→⟩g_x
couplings/ops/triton_rotation.py
  ../kernels/test_triton_mixture_rotation.py
    Triton's rotation, backward: no offset
      product = total * ⟨(value - offset)→value⟩
couplings/ops/triton_mixture.py
  ../kernels/test_triton_mixture_rotation.py
    Triton's mixture: no running maximum
      total = total * ⟨tl.exp(highest - base)→1.0⟩ + tl.sum
couplings/ops/triton_spline.py
  ../kernels/test_triton_spline.py
    Triton's spline: sign of the inverse's log-det
      tl.store(sums + sample * blocks + block, ⟨-→⟩total if INVERSE else total)
    Triton's spline, backward: sign of a term
      log_theta = 2 * ((b * theta ⟨-→+⟩ a * other + slant) / m
couplings/ops/triton_haar.py
  ../kernels/test_triton_haar.py
    Triton's Haar wavelets: one band for another
      tl.store(out + write + third, (upper ⟨-→+⟩ lower).to(dtype), inside)
couplings/ops/csrc/spline.h
  ops/test_spline.py::test_derivatives_and_opcheck
    compiled spline's backward: sign of the inverse's log-det
      grad_log = ⟨-→⟩grad_log;
    compiled spline's backward: a share of the scale
      const T by_s = grad_log - by_a * c.a ⟨-→+⟩ by_b * c.b;
couplings/logistic_mixture.py
  test_logistic_mixture.py CONTRACT
    mixture of logistics: log-det without the scale
      return y.to(x.dtype), (log_slope⟨ + scale→⟩).flatten(1).sum(1)
    mixture of logistics: slope without log(1 - F)
      log_density - log_below⟨ - log_above→⟩
  test_logistic_mixture.py
    mixture of logistics, backward: sign of a share
      grad_weights = share_below ⟨-→+⟩ share_above + density
couplings/layers.py
  CONTRACT
    piecewise linear: sign of the inverse's log-det
      return x.view_as(z), ⟨-→⟩sum_log_det(slope.log())
    mixing of channels: log-det of one position
      self.log_scale.sum() * ⟨(self.dims // self.in_shape[0])→1⟩)
    space to depth: patches in another order
      channels = patches.permute(0, 1, ⟨3, 5→5, 3⟩, 2, 4).reshape(x.shape[0], *self.out_shape)
  test_layers.py
    mixing of channels: no signs
      diagonal = ⟨self.signs * →⟩self.log_scale.double().exp()
flowclf/latent/vmf.py
  latent/test_vmf.py
    sphere: another order of the Bessel function
      order = dims / 2⟨ - 1→⟩\n    return order * kappa.log()
    sphere: rejection that keeps all
      log_keep = kappa * (c - w) + ⟨(dims - 1) * log_ratio→0 * log_ratio⟩
flowclf/latent/low_rank.py
  latent/test_low_rank.py
    low rank: no half of the squares
      return ⟨0.5→1.0⟩ * (own.square().sum(1) + ((shared @ gram) * shared).sum(1))
    low rank: projection without the inverse
      along = (rest @ self.mean_basis.T).double()⟨ @ inverse→⟩
flowclf/latent/beta_conditioned.py
  latent/test_beta_conditioned.py
    β̃: uniform instead of log-uniform
      self.lowest * (u * log(self.highest / self.lowest))⟨.exp()→⟩)
flowclf/latent/gaussian.py
  latent/test_gaussian.py
    mixture: draws at any temperature alike
      return centre + ⟨temperature * →⟩(0.5 * self._log_var()[y]).exp() * noise
    mixture: distance without its root
      means[:, : repeats * classes] = blocks * distance / (⟨2 * →⟩repeats) ** 0.5
flowclf/evaluation/conformal.py
  evaluation/test_conformal.py
    conformal: quantile of n instead of n + 1
      return ceil((n⟨ + 1→⟩) * _exact(coverage))
    conformal: p-values that can be zero
      return (⟨1 + →⟩len(ordered) - below).double()
    APS: all of a class's own probability
      before = ordered.cumsum(1) - ordered + ⟨u[:, None].double() * →⟩ordered
    RAPS: no penalty
      return aps(log_posterior, u) + ⟨penalty→0⟩ *
flowclf/evaluation/selective.py
  evaluation/test_selective.py
    accuracy at coverage: of one sample fewer
      curve.risk), 6)) - ⟨1→2⟩])
    AURC: the least sure first
      values, group, count = ⟨uncertainty→(-uncertainty)⟩.unique(
    F1: no factor of two
      return float((⟨2 * →⟩confusion.diag() / both)
flowclf/evaluation/discriminant.py
  evaluation/test_scores.py
    relative distance: distance of all without their spread
      (place.square() / ⟨(1 + self.between.to(z.device))→1⟩).sum(1)
flowclf/evaluation/scores.py
  evaluation/test_scores.py
    surprise: no log
      above + 1).double()⟨.log()→⟩
    joint distance: without the precision
      squares = ((new⟨ @ precision→⟩) * new).sum(1)
flowclf/evaluation/statistics.py
  evaluation/test_scores.py
    Anderson-Darling: weights from zero
      odd = 2 * torch.arange(1, dims + 1, dtype=torch.float64, device=u.device)⟨ - 1→⟩
flowclf/decide/decider.py
  decide/test_decider.py
    decider: a score fitted to what it ranks
      x_train, ranked = ⟨x[order[::2]]→x⟩, x[order[1::2]]
    decider: never seen at any p-value
      seen, single = (p_value ⟨>→<⟩ self.false_alarm)
    decider: another model's calibration is taken
      if weights ⟨!= digest(model.state_dict())→!= weights⟩:
flowclf/oracle/world.py
  oracle/test_world.py
    world: posterior without the weights
      return (torch.cat(parts).double()⟨ + weights→⟩).log_softmax(1)
    world: epistemic part with the aleatoric
      epistemic=float(cross_entropy⟨ - aleatoric→⟩),
flowclf/evaluation/calibration.py
  evaluation/test_calibration.py
    Brier score: mean over classes
      return float((p - o).square().⟨sum→mean⟩(1).mean())
    overconfidence: its opposite
      return float((⟨confidence - hit→hit - confidence⟩).mean())
flowclf/runs.py
  test_hard_to_break.py
    run: a checkpoint of any
      if named ⟨!= own→!= named⟩:
flowclf/training/loop.py
  training/test_training.py
    average of weights: the other way round
      own.lerp_(other, ⟨1 - decay→decay⟩)
flowclf/training/muon.py
  training/test_muon.py
    Muon: weights that keep their norm of before
      weight.mul_(⟨len(weight) ** 0.5→1.0⟩ / weight.norm())
    Muon: no momentum of Nesterov's
      orthogonalised(⟨weight.grad.add(average, alpha=momentum)→average⟩.flatten(1))
flowclf/explore/paths.py
  explore/test_explorer.py
    arc: lengths that do not change
      return ⟨lengths→lengths[:1]⟩ * arc / angle.sin()
    likelier latent: away from the mean
      z.lerp(mean, (⟨1 - radius / away→radius / away⟩).clamp_min(0))
flowclf/explore/server.py
  explore/test_server.py
    page: any host
      if len(hosts) != 1 ⟨or hosts[0] not in self.hosts→⟩:
    page: any origin
      if any(⟨origin.removeprefix(b"http://") not in self.hosts→False⟩ for origin in origins):
    page: any token
      if len(found) != 1⟨ or not secrets.compare_digest(found[0], self.token)→⟩:
    page: bodies of any size
      if len(body) > ⟨most→2 ** 40⟩:
flowclf/objectives.py
  test_objectives.py
    pseudo-labels: of every guess
      return -own.where(confidence >= ⟨threshold→0⟩, 0.0).mean()
    consistency: with the guess of the same view
      log_prob_given_class[:, 0], ⟨guess→log_prob_given_class⟩.argmax(1))
flowclf/support/safetensors.py
  training/test_checkpoint.py::test_every_flipped_bit_of_the_weights_is_found
    files: any digest
      if ⟨stated != MARK + _digest(tensors, note)→False⟩:
flowclf/evaluation/samples.py
  evaluation/test_samples.py
    Fréchet distance: without the covariances' mixed term
      second.trace() - ⟨2→0⟩ * overlap
"""


def read_table(table: str) -> Iterator[Fault]:
    """Yield the faults of a table."""
    for line in table.replace("CONTRACT", CONTRACT).splitlines():
        text = line.strip().replace(r"\n", "\n")
        match len(line) - len(line.lstrip()):
            case 0:
                file = text
            case 2:
                names, _, only = text.partition(" -k ")
                tests = tuple(f"tests/{Path(file).parts[0]}/{name}" for name in names.split())
            case 4:
                name = text
            case 6:
                before, right, wrong, behind = re.split("[⟨→⟩]", text)
                yield Fault(
                    name, file, before + right + behind, before + wrong + behind, tests, only
                )


FAULTS = tuple(read_table(TABLE))


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


def run(root: Path, kernels: str, *module: str) -> tuple[int, str]:
    """Run a module in a copy with these kernels; return its exit status and output."""
    chosen = {"TRITON_INTERPRET": "1"} if kernels == "triton" else {"COUPLINGS_KERNELS": kernels}
    path = os.pathsep.join((str(root), *filter(None, [os.environ.get("PYTHONPATH")])))
    own = {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", **chosen}
    command = [sys.executable, "-m", *module]
    done = subprocess.run(command, cwd=root, env=os.environ | own, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def run_tests(root: Path, kernels: str, tests: list[str], *options: str) -> tuple[int, str]:
    """Return pytest's exit status in a copy, and its output."""
    quiet = "-x", "--tb=no", "-rfE", "-p", "no:cacheprovider"
    return run(root, kernels, "pytest", *quiet, *options, *tests)


def find(fault: Fault) -> tuple[Fault, str]:
    """Return the fault and the test that found it, empty if none did."""
    with TemporaryDirectory() as folder:
        root = copy_to(Path(folder))
        (root / fault.file).write_text(mutated(fault, root), "utf-8")
        if fault.kernels == "compiled":
            status, output = run(root, fault.kernels, "couplings", "build")
            assert status == 0, output
        status, output = run_tests(root, fault.kernels, list(fault.tests), "-k", fault.only)
    failed = re.search(r"^FAILED (.+?)(?: - |$)", output, re.MULTILINE)
    return fault, failed[1] if status == 1 and failed else ""


def main(words: list[str]) -> int:
    """Print a line for each fault; return the number of those that no test found."""
    chosen = [f for f in FAULTS if not words or any(word in f.name for word in words)]
    if find_spec("triton") is None:
        print("without triton its kernels are left out: pip install triton")
        chosen = [fault for fault in chosen if fault.kernels != "triton"]
    for fault in chosen:
        mutated(fault)
    start = time.perf_counter()
    with TemporaryDirectory() as folder:
        root = copy_to(Path(folder))
        for kernels in sorted({fault.kernels for fault in chosen}):
            tests = {test: None for f in chosen if f.kernels == kernels for test in f.tests}
            status, output = run_tests(root, kernels, list(tests))
            if status:
                print(f"without a fault, {kernels} kernels:\n{output}")
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
