"""The model registry: versions with their lineage, and the aliases that say who serves.

The gate's lock is checked here again, whoever calls: a version needs a passed verdict about its very bundle,
and a champion needs a passed rollout of it too. Nothing here deletes a version.
"""

from airworthy.registry.champion import Champion, champion_digest, export_champion, read_champion
from airworthy.registry.evidence import lineage
from airworthy.registry.registry import Registry
from airworthy.registry.versions import Version

__all__ = [
    "Champion",
    "Registry",
    "Version",
    "champion_digest",
    "export_champion",
    "lineage",
    "read_champion",
]
