"""The catalogue of metrics: label, unit, scale, direction and definition of every number shown.

Keys are the names in JSON documents, `results.csv` and rows of an evaluation. Tables, figures, the
report and model cards take labels, units and directions from here.
"""

import re
from dataclasses import dataclass, replace
from typing import Literal

__all__ = ["ENDS", "METRICS", "Metric", "find_metric"]

Better = Literal["higher", "lower", ""]

MISSING = "-"
ENDS = ("_low", "_high")
"""Suffixes of the ends of a metric's 95 % interval."""


@dataclass(frozen=True)
class Metric:
    """One metric as it is shown to people."""

    label: str  # name, without the unit
    definition: str  # one line
    unit: str = ""  # of the number as shown; "" where it has none
    better: Better = ""  # "higher", "lower", or "" where neither is better as such
    scale: float = 1.0  # factor from the stored number to the one shown, 100 for a fraction in %
    form: str = ".4f"  # format of the number shown

    @property
    def arrow(self) -> str:
        """↑ where higher is better, ↓ where lower is, otherwise empty."""
        return {"higher": "↑", "lower": "↓", "": ""}[self.better]

    @property
    def heading(self) -> str:
        """Label with the unit, such as "accuracy in %"."""
        return f"{self.label} in {self.unit}" if self.unit else self.label

    @property
    def column(self) -> str:
        """Heading of cells by `written`: a % sign is in the cells, other units are here."""
        return self.label if self.unit == "%" else self.heading

    def text(self, value: float | str | None, error: float | None = None) -> str:
        """Return the scaled number, ± its standard error, without the unit; "-" for None."""
        if value is None:
            return MISSING
        if isinstance(value, str) or (isinstance(value, int) and self.scale == 1):
            return str(value)
        spread = "" if error is None else f" ± {self.scale * error:{self.form}}"
        return f"{self.scale * value:{self.form}}{spread}"

    def written(self, value: float | str | None) -> str:
        """Return `text`, with the sign % where that is the unit."""
        return self.text(value) + (" %" if self.unit == "%" and value is not None else "")


def find_metric(name: str) -> Metric:
    """Return the entry of a name; of a metric at one β̃ or severity that metric's, so labelled.

    Further names are labelled by themselves: "my_rate_nats" as "my rate" in nats.
    """
    if name in METRICS:
        return METRICS[name]
    if match := re.fullmatch(r"(.+)_(at|severity)_([\d.]+)", name):
        base, kind, value = match.groups()
        if own := METRICS.get(base):
            place = f"at β̃ = {value}" if kind == "at" else f"at severity {value}"
            return replace(own, label=f"{own.label} {place}")
    words = name.replace("_", " ")
    return Metric(words.removesuffix(" nats"), words, "nats" if words.endswith(" nats") else "")


def _percent(label: str, definition: str, better: Better = "") -> Metric:
    """Return a fraction that is shown in %."""
    return Metric(label, definition, "%", better, 100, ".2f")


def _nats(label: str, definition: str, better: Better = "", form: str = ".4f") -> Metric:
    return Metric(label, definition, "nats", better, form=form)


def _error(label: str, definition: str) -> Metric:
    """Return an error of rounding, many orders of magnitude from others."""
    return Metric(label, definition, "", "lower", form=".1e")


_RUN = {
    "run": Metric("run", "Folder of the run."),
    "system": Metric("system", "Name of the system, or of a baseline."),
    "variant": Metric("variant", "Name of the settings that are compared."),
    "data": Metric("data", "Name of the data set."),
    "seed": Metric("seed", "Seed of the run."),
    "beta": Metric("β̃", "Weight of the cross-entropy in the objective.", form="g"),
    "train_size": Metric("training samples", "Number of training samples chosen."),
    "commit": Metric("commit", "Commit of the code that trained the run."),
    "seconds": Metric("training", "Wall-clock time of the training.", "seconds", form=".1f"),
    "parameters": Metric("parameters", "Number of learned numbers.", form=",.0f"),
}
_ACCURACY = {
    "accuracy": _percent("accuracy", "Share of samples whose predicted class is right.", "higher"),
    "top_5_accuracy": _percent(
        "top-5 accuracy", "Share of samples with the label among the five likeliest.", "higher"
    ),
    "auroc": _percent(
        "AUROC",
        "Area under the ROC curve: one class against the rest, or out-of-distribution data "
        "against the test split.",
        "higher",
    ),
    "accuracy_per_class": _percent("accuracy per class", "Accuracy within each class.", "higher"),
    "knn_accuracy": _percent("kNN accuracy", "Accuracy of 10 neighbours in latents.", "higher"),
    "forest_accuracy": _percent(
        "forest accuracy", "Accuracy of 100 trees fitted to latents.", "higher"
    ),
    "confusion": Metric("confusion", "Samples of each class (row) by predicted class."),
}
_CALIBRATION = {
    "ece": _percent("ECE (15 bins)", "Expected calibration error, top-1, equal widths.", "lower"),
    "ece_20_bins": _percent("ECE (20 bins)", "ECE of 20 bins instead of 15.", "lower"),
    "ece_scaled": _percent(
        "ECE (15 bins), temperature scaled",
        "ECE at the temperature fitted on the validation split.",
        "lower",
    ),
    "ece_20_bins_scaled": _percent(
        "ECE (20 bins), temperature scaled", "ECE of 20 bins at the fitted temperature.", "lower"
    ),
    "ece_equal_mass": _percent(
        "ECE (equal mass)", "ECE of 15 bins of equally many samples.", "lower"
    ),
    "ece_classwise": _percent("class-wise ECE", "Mean over classes of the ECE of each.", "lower"),
    "mce": _percent("MCE", "Largest gap of accuracy and confidence of the ECE's bins.", "lower"),
    "brier": Metric("Brier score", "Mean squared error of the posterior, 0 to 2.", "", "lower"),
    "overconfidence": _percent("overconfidence", "Mean top-1 confidence minus accuracy."),
    "negative_log_posterior_nats": _nats(
        "−log q(y|x)", "Mean negative log-posterior of the label (cross-entropy).", "lower"
    ),
    "negative_log_posterior_nats_scaled": _nats(
        "−log q(y|x), temperature scaled", "The same at the fitted temperature.", "lower"
    ),
    "temperature": Metric("temperature", "Temperature fitted on the validation split."),
    "reliability": Metric("reliability", "Bins of the ECE: confidence against accuracy."),
    "recalibration": Metric("recalibration", "Calibration after fits on the validation split."),
    "paper_calibration": Metric("IB-INN's calibration", "Calibration errors as published."),
    "ece_percent": Metric("ECE (IB-INN's)", "IB-INN's ECE of pooled probabilities.", "%", "lower"),
    "mce_percent": Metric("MCE (IB-INN's)", "IB-INN's MCE of pooled probabilities.", "%", "lower"),
    "ice_percent": Metric("ICE (IB-INN's)", "IB-INN's integrated calibration error.", "%", "lower"),
    "ovc": Metric(
        "OVC (IB-INN's)", "IB-INN's overconfidence, at most 1 if calibrated.", "", "lower"
    ),
    "geometric_mean": Metric("geometric mean", "Of IB-INN's calibration errors.", "", "lower"),
    "method": Metric("method", "Kind of recalibration."),
    "version": Metric("version", "Published, or of the draft."),
    "low": Metric("low", "Left edge of the bin."),
    "high": Metric("high", "Right edge of the bin."),
    "count": Metric("count", "Samples in the bin."),
    "confidence": Metric("confidence", "Mean top-1 posterior in the bin."),
}
_DENSITY = {
    "density": Metric("density", "Whether log q(x) is exact, bounded (elbo), or not known."),
    "bits_per_dim": Metric("bits/dim", "−log2 q(x) per dimension.", "", "lower", form=".3f"),
    "learned_noise_bits_per_dim": Metric(
        "bits/dim, learned noise",
        "−log2 q(x + u) + log2 q(u|x) per dimension, of the learned u.",
        "",
        "lower",
        form=".3f",
    ),
    "log_prob_nats": _nats("log q(x)", "Mean log-density in data units.", "higher", ".2f"),
    "elbo_nats": _nats("elbo", "Mean lower bound of log q(x).", "higher", ".2f"),
    "paper_rate_per_dim_nats": _nats("paper's L_X/d", "L_X/d in the units of IB-INN's authors."),
    "likelihood_per_class": Metric("likelihood per class", "Density of the samples of each class."),
    "bound": Metric("bound", "Bounds of log q(x) by importance sampling."),
    "draws": Metric("draws", "Importance samples."),
    "nll_nats": _nats(
        "−log q(x)", "Mean bound of −log q(x) by importance sampling.", "lower", ".2f"
    ),
    "test_rec_nats": _nats("−log p(x|z), test", "Mean reconstruction term, test split.", "", ".2f"),
    "test_kl_nats": _nats("KL, test", "Mean KL(q(z|x) ‖ p(z)), test split.", "", ".2f"),
    "train_rec_nats": _nats("−log p(x|z), training", "The same, training split.", "", ".2f"),
    "train_kl_nats": _nats("KL, training", "The same, training split.", "", ".2f"),
    "inverse_error": _error("inverse error", "Largest |x − decode(encode(x))|, in std."),
    "inverse_error_median": _error("inverse error, median", "Median over samples of the same."),
    "log_det_error": _error("log-determinant error", "Largest relative error against float64."),
    "latent_error": _error("latent error", "Largest error of z against float64."),
}
_LATENTS = {
    "kmeans_nmi": Metric("NMI, k-means", "Normalised mutual information.", "", "higher"),
    "kmeans_clustering_accuracy": _percent(
        "clustering accuracy, k-means", "Accuracy by the best assignment of clusters.", "higher"
    ),
    "kmeans_ari": Metric("ARI, k-means", "Adjusted Rand index.", "", "higher"),
    "mixture_nmi": Metric("NMI, mixture", "Normalised mutual information.", "", "higher"),
    "mixture_clustering_accuracy": _percent(
        "clustering accuracy, mixture", "Accuracy by the best assignment of components.", "higher"
    ),
    "mixture_ari": Metric("ARI, mixture", "Adjusted Rand index.", "", "higher"),
    "nmi": Metric("NMI", "Normalised mutual information of k-means and labels.", "", "higher"),
    "clustering_accuracy": _percent(
        "clustering accuracy", "Accuracy of k-means by the best assignment.", "higher"
    ),
    "ari": Metric("ARI", "Adjusted Rand index of k-means and labels.", "", "higher"),
    "class_distances": Metric("class distances", "Distances of class means, in std."),
    "class_distance_error": Metric(
        "error of class distances", "Standard error, in std.", form=".3f"
    ),
    "cycle_accuracy": _percent(
        "accuracy on own draws", "Share of draws whose predicted class is the one drawn.", "higher"
    ),
    "cycle_latent_error": Metric(
        "error of own latents", "Σ |z' − z|² over draws, over that within classes.", "", "lower"
    ),
    "variance_ratio": Metric("variance ratio", "Mean of (z − μ_y)²/σ_y²; 1 as the mixture claims."),
    "label_information_nats": _nats("I(Y; Z)", "H(Y) + mean log q(y|x), a lower bound.", "higher"),
    "input_information_nats": _nats("CI(X; Z)", "Cross-information of x and the flow's latents."),
    "noise_sigma": Metric("noise σ", "Standard deviation of the training noise, data units."),
    "mi_nats": _nats("I(X; Z)", "Mutual information of x and z, by the aggregate posterior."),
    "md_nats": _nats("KL(q(z) ‖ p(z))", "Divergence of the aggregate posterior from the prior."),
    "active_units": Metric("active units", "Latent dimensions whose mean varies with x."),
    "identity_nats": _nats("identity cross-entropy", "Cross-entropy of the sample's own number."),
    "mi_entropy_nats": _nats("I(X; Z), by entropy", "log N − H of the softmax over samples."),
    "exact_mi_nats": _nats("I(X; Z), Monte Carlo", "I(X; Z) by the aggregate posterior."),
    "exact_md_nats": _nats("KL(q(z) ‖ p(z)), Monte Carlo", "Divergence from the prior."),
    "softmax_identity_nats": _nats("identity cross-entropy", "Of vae-as' softmax over samples."),
    "softmax_mi_nats": _nats("I(X; Z), softmax", "Lower bound by vae-as' softmax."),
    "softmax_md_nats": _nats("KL(q(z) ‖ p(z)), softmax", "Upper bound by vae-as' softmax."),
    "softmax_mi_entropy_nats": _nats("I(X; Z), softmax entropy", "The paper's own estimate."),
}
_OTHER_DATA = {
    "ood": Metric("out-of-distribution detection", "Scores against each out-of-distribution set."),
    "ood_entropy": Metric("entropy by set", "Mean entropy of q(y|x) on each set."),
    "set": Metric("set", "Out-of-distribution data, or the test split."),
    "score": Metric("score", "Score of out-of-distribution samples."),
    "aupr": _percent("AUPR", "Average precision, out-of-distribution as positive.", "higher"),
    "fpr_at_95": _percent(
        "FPR at 95 % TPR", "False positive rate where 95 % of the positives are found.", "lower"
    ),
    "two_tailed_auroc": _percent("two-tailed AUROC", "AUROC of both tails of a score.", "higher"),
    "entropy_nats": _nats("entropy", "Mean entropy of q(y|x)."),
    "increase_nats": _nats("increase", "Entropy above that of the test split."),
    "shift": Metric("shift", "Corrupted images; in `explain`, α of the counterfactual."),
    "family": Metric("family", "Family of corruptions, clean, or the mean."),
    "severity": Metric("severity", "Severity of a corruption, 0 to 5."),
    "attack": Metric("attack", "Accuracy and density of attacked images."),
    "kind": Metric("kind", "Kind of attack."),
    "loss": Metric("loss", "Loss that an attack maximises."),
    "epsilon": Metric("ε", "L∞ bound, fraction of the range of grey levels.", form="g"),
    "log_prob_change_nats": _nats("change of log q(x)", "Attacked minus clean, mean."),
}
_DECISIONS = {
    "explain": Metric("decisions", "Test samples the model is least sure of."),
    "sample": Metric("sample", "Position in the test split."),
    "samples": Metric("samples", "Number of samples."),
    "class": Metric("class", "Number of the class."),
    "predicted": Metric("predicted", "Most probable class."),
    "runner_up": Metric("runner-up", "Second most probable class."),
    "posterior": Metric("posterior", "Of the predicted class."),
    "runner_up_posterior": Metric("runner-up posterior", "Of the runner-up."),
    "distance": Metric("distance", "Mahalanobis distance to the predicted class's mean."),
    "runner_up_distance": Metric("runner-up distance", "To the runner-up's mean."),
    "nearest_mean": Metric("nearest mean", "Class whose mean is nearest."),
    "log_prob_per_dim_nats": _nats("log q(x)/d", "Log-density per dimension, no noise."),
    "elbo_per_dim_nats": _nats("elbo/d", "Bound per dimension, no noise."),
    "counterfactual_log_prob_per_dim_nats": _nats(
        "counterfactual log q(x)/d", "The same of the counterfactual."
    ),
    "counterfactual_elbo_per_dim_nats": _nats(
        "counterfactual elbo/d", "The same of the counterfactual."
    ),
}
_DOUBT = {
    "conformal": Metric("conformal sets", "Sets of 95 % coverage, calibrated on validation."),
    "sets": Metric("sets", "Nonconformity of the sets."),
    "per_class": Metric("per class", "Whether thresholds are calibrated within each class."),
    "coverage": _percent("coverage", "Share of sets with the label in; of samples answered."),
    "worst_class_coverage": _percent("coverage, worst class", "The least within a class."),
    "set_size": Metric("set size", "Mean number of classes in a set.", "", "lower", form=".3f"),
    "empty": _percent("empty", "Share of sets without a class."),
    "single": _percent("of one class", "Share of sets of one class.", "higher"),
    "false_alarms": Metric("false alarms", "Test samples called never seen, by `auto`."),
    "level": _percent("level", "Share that may be called never seen."),
    "false_alarm": _percent("false alarms", "Share that is called never seen.", "lower"),
    "selective": Metric("selective prediction", "Accuracy if doubtful samples are left alone."),
    "aurc": _percent("AURC", "Area under the risk-coverage curve.", "lower"),
    "excess_aurc": _percent("E-AURC", "AURC above that of the best order.", "lower"),
    **{
        f"accuracy_surest_{share}": _percent(
            f"accuracy, surest {share} %", "Accuracy on the samples of least doubt.", "higher"
        )
        for share in (80, 90, 95, 99)
    },
    "balanced_accuracy": _percent("balanced accuracy", "Mean recall of the classes.", "higher"),
    "macro_f1": _percent("macro F1", "Mean F1 score of the classes.", "higher"),
    "risk_coverage": Metric("risk and coverage", "Error of the surest samples."),
    "risk": _percent("risk", "Error rate of the samples answered.", "lower"),
}
_SAMPLES = {
    "sample_quality": Metric("samples by temperature", "Class consistency and Fréchet distance."),
    "judge_accuracy": _percent(
        "accuracy of the judge", "Of the network that judges samples, on real images."
    ),
    "sample_temperature": Metric("temperature of samples", "Chosen on validation data.", form="g"),
    "class_consistency": _percent(
        "class consistency", "Samples whose class the judge recognises, mean of classes.", "higher"
    ),
    "frechet_distance": Metric(
        "Fréchet distance",
        "Of the judge's features, samples and real images.",
        "",
        "lower",
        1,
        ".2f",
    ),
    "frechet_floor": Metric("Fréchet distance, floor", "Of two halves of real images.", form=".2f"),
    "walk_dip_per_dim_nats": _nats(
        "dip of log q(x)/d on walks", "Mean of the largest fall below the ends.", "lower"
    ),
    "walk_class_changes": Metric(
        "class changes on walks", "Mean; 1 is the least.", "", "lower", form=".2f"
    ),
    "walk_largest_step": Metric(
        "largest step of walks", "Of the judge's features, over the mean.", "", "lower", form=".2f"
    ),
}
# All metrics, and the other columns of their tables, by key.
METRICS = (
    _RUN | _ACCURACY | _CALIBRATION | _DENSITY | _LATENTS | _OTHER_DATA | _DECISIONS | _DOUBT
    | _SAMPLES
)  # fmt: skip
