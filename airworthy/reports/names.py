"""What metrics and probes are called for people, the same in every report."""

from __future__ import annotations

METRICS = {
    "auc": "AUC",
    "pr_auc": "Area under the precision-recall curve",
    "log_loss": "Log loss",
    "brier": "Brier score",
    "cost": "Cost per decision",
    "expected_cost": "Cost per decision",
    "calibration_error": "Calibration error",
    "calibration_error_measured": "Calibration error as measured, which noise can only raise",
    "calibration_error_floor": "Calibration error that a perfect model may show on these rows",
    "calibration_slope": "Calibration slope (1 is perfect)",
    "calibration_intercept": "Calibration intercept (0 is perfect)",
    "precision": "Precision at the threshold",
    "recall": "Recall at the threshold",
    "threshold": "Decision threshold",
}
PROBES = {
    "missing": "a feature is missing",
    "unseen": "a category is new",
    "out_of_range": "numbers are out of range",
    "noise": "numbers are a little off",
    "invariance": "what must not matter",
    "direction": "which way the score goes",
    "edge": "edge case",
    "scenario": "scenario",
}
"""Kinds of `BehaviourFinding`."""


def metric(name: str) -> str:
    """A metric's name for people."""
    return METRICS.get(name, name.replace("_", " ").capitalize())
