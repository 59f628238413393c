"""From Feast to Parquet: the rows of a model's windows with the features known at their decision time."""

from airworthy.feast_repo import prepare_feature_repo
from airworthy.features.retrieval import point_in_time, retrieve
from airworthy.features.service import feature_columns

__all__ = ["feature_columns", "point_in_time", "prepare_feature_repo", "retrieve"]
