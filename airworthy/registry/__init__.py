"""The model registry: versions with their lineage, and the aliases that say who serves.

The gate's lock is checked here again, whoever calls: a version needs a passed verdict about its very bundle,
and a champion needs a passed rollout of it too, and a person's approval where its spec asks for one. Old versions
are deleted by `prune` alone, which spares whatever an alias, a dossier or a way back refers to.
"""

from airworthy.registry.approval import Approval
from airworthy.registry.champion import Champion, champion_digest, export_champion, read_champion
from airworthy.registry.evidence import lineage
from airworthy.registry.history import Entry
from airworthy.registry.registry import Registry
from airworthy.registry.versions import Version
from airworthy.registry.waiting import wait_for_approval

__all__ = [
    "Approval",
    "Champion",
    "Entry",
    "Registry",
    "Version",
    "champion_digest",
    "export_champion",
    "lineage",
    "read_champion",
    "wait_for_approval",
]
