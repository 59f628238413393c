"""Airworthy: from the feature store to verified production on Kubeflow, or on a laptop."""

__version__ = "0.1.0"
