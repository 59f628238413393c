"""What a feature service asks for and gives."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airworthy.datasets import FeatureColumn, Kind
from airworthy.errors import ConfigError

if TYPE_CHECKING:
    from feast import FeatureService, FeatureStore

KINDS: dict[str, Kind] = {
    "Float32": "number",
    "Float64": "number",
    "Int32": "integer",
    "Int64": "integer",
    "String": "category",
    "Bool": "bool",
}
"""Feast type -> kind of model input."""


def feature_columns(service: FeatureService) -> list[FeatureColumn]:
    """The model inputs of a feature service, in its order.

    Raises:
        ConfigError: A feature's type can't be a model input, or two features share a name.
    """
    columns: list[FeatureColumn] = []
    for projection in service.feature_view_projections:
        for field in projection.features:
            kind = KINDS.get(str(field.dtype))
            if kind is None:
                raise ConfigError(
                    f"feature service {service.name}: {projection.name_to_use()}:{field.name} is "
                    f"{field.dtype}; a model takes {', '.join(KINDS)}"
                )
            columns.append(FeatureColumn(name=field.name, kind=kind))
    names = [column.name for column in columns]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(
            f"feature service {service.name}: two features are called {', '.join(twice)}; rename one"
        )
    return columns


def service_inputs(store: FeatureStore, service: FeatureService) -> tuple[list[str], list[str]]:
    """Join keys, and request data, that a feature service needs; each in a stable order."""
    on_demand = {view.name: view for view in store.list_on_demand_feature_views()}
    plain = {view.name: view for view in store.list_feature_views()}
    keys: list[str] = []
    request: list[str] = []
    for projection in service.feature_view_projections:
        needed = [projection]
        if projection.name in on_demand:
            view = on_demand[projection.name]
            request += sorted(view.get_request_data_schema())
            # the registry returns these in another order in every process
            needed = sorted(view.source_feature_view_projections.values(), key=lambda each: each.name)
        for each in needed:
            if each.name in plain:
                names = [e.name for e in plain[each.name].entity_columns if not e.name.startswith("__")]
                keys += [each.join_key_map.get(name, name) for name in names]
    return list(dict.fromkeys(keys)), [name for name in dict.fromkeys(request) if name not in keys]
