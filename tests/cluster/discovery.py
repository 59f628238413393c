"""Discovery documents, from which `DynamicClient` learns what the API serves."""

from __future__ import annotations

from tests.cluster.store import KINDS, Kind, Object

VERBS = ["create", "delete", "get", "list", "patch", "update", "watch"]


def document(path: str) -> Object | None:
    """The answer for `/version`, `/api…` and `/apis…`; None for other paths."""
    if path == "/version":
        unknown = dict.fromkeys(
            ("gitCommit", "gitTreeState", "buildDate", "goVersion", "compiler"), "unknown"
        )
        return unknown | {"major": "1", "minor": "31", "gitVersion": "v1.31.0", "platform": "linux/amd64"}
    if path == "/api":
        return {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []}
    if path == "/api/v1":
        return _resources("v1", [kind for kind in KINDS if not kind.group])
    if path == "/apis":
        return {"kind": "APIGroupList", "apiVersion": "v1", "groups": [_group(name) for name in _groups()]}
    parts = path.removeprefix("/apis/").split("/")
    if path.startswith("/apis/") and parts[0] in _groups():
        if len(parts) == 1:
            return _group(parts[0]) | {"kind": "APIGroup", "apiVersion": "v1"}
        kinds = [kind for kind in KINDS if [kind.group, kind.version] == parts]
        return _resources("/".join(parts), kinds) if kinds else None
    return None


def _groups() -> list[str]:
    return sorted({kind.group for kind in KINDS if kind.group})


def _group(name: str) -> Object:
    versions = sorted({kind.version for kind in KINDS if kind.group == name}, reverse=True)
    entries = [{"groupVersion": f"{name}/{version}", "version": version} for version in versions]
    return {"name": name, "versions": entries, "preferredVersion": entries[0]}


def _resources(group_version: str, kinds: list[Kind]) -> Object:
    entries = []
    for kind in kinds:
        entry = {
            "name": kind.plural,
            "singularName": kind.kind.lower(),
            "namespaced": True,
            "kind": kind.kind,
        }
        entries.append(entry | {"verbs": VERBS})
        if kind.status:
            verbs = ["get", "patch", "update"]
            entries.append(entry | {"name": f"{kind.plural}/status", "verbs": verbs})
    return {
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": group_version,
        "resources": entries,
    }
