"""The evaluation gate: metrics, significance, slices, and the one verdict about a model."""

from airworthy.evaluation.judgement import SCORES, Evaluation, evaluate

__all__ = ["SCORES", "Evaluation", "evaluate"]
