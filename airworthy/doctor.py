"""`airworthy doctor`: what this machine and this checkout have, and what to do about what they lack."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from airworthy.errors import AirworthyError
from airworthy.state import home


@dataclass(frozen=True)
class Finding:
    """One thing looked at. `problem` stands in the way of a release; `note` only limits it."""

    name: str
    state: Literal["ok", "note", "problem"]
    found: str


def examine() -> list[Finding]:
    """Look at everything; never raises for what it finds."""
    return [
        _python(),
        _uv(),
        _environments(),
        _gpu(),
        _disk(),
        _loopback(),
        _registry(),
        _signatures(),
        *_specs(),
    ]


def _python() -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    fits = sys.version_info[:2] == (3, 11)
    return Finding("Python", "ok" if fits else "problem", version if fits else f"{version}: 3.11 is needed")


def _uv() -> Finding:
    from airworthy.local.environments import find_uv

    try:
        return Finding("uv", "ok", find_uv())
    except AirworthyError as error:
        return Finding("uv", "problem", str(error))


def _environments() -> Finding:
    from airworthy.local.environments import Environments

    try:
        states = Environments(home()).states()
    except AirworthyError as error:
        return Finding("environments", "problem", str(error))
    ready = [group for group, state in states.items() if state == "ready"]
    waiting = [f"{group} ({state})" for group, state in states.items() if state != "ready"]
    text = f"ready: {', '.join(ready) or 'none'}"
    if waiting:
        text += f"; made on first use: {', '.join(waiting)}"
    return Finding("environments", "ok", text)


def _gpu() -> Finding:
    program = shutil.which("nvidia-smi")
    if program is None:
        return Finding(
            "GPU", "note", "none visible: training runs on the CPU (trainer.gpu: required would refuse)"
        )
    listing = subprocess.run([program, "-L"], capture_output=True, text=True, check=False)
    working = listing.returncode == 0 and listing.stdout.strip()
    return Finding("GPU", "ok" if working else "note", listing.stdout.strip() or "nvidia-smi fails: CPU only")


def _disk() -> Finding:
    free = shutil.disk_usage(home()).free / 2**30
    return Finding(
        "disk", "ok" if free > 8 else "note", f"{free:.0f} GiB free (all environments take about 5)"
    )


def _loopback() -> Finding:
    try:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
    except OSError as error:
        return Finding("loopback", "problem", f"no port can be opened on 127.0.0.1: {error}")
    return Finding("loopback", "ok", "ports can be opened on 127.0.0.1")


def _registry() -> Finding:
    from airworthy.registry import Registry

    try:
        registry = Registry()
        names = registry.models()
    except AirworthyError as error:
        return Finding("registry", "problem", str(error))
    where = urlsplit(registry.uri)
    shown = registry.uri.replace(f"{where.username}:{where.password}@", "…@")
    return Finding("registry", "ok", f"{shown}: {len(names)} model(s)")


def _signatures() -> Finding:
    from airworthy.signing import signing_key, verify_keys

    try:
        key, trusted = signing_key(), verify_keys()
    except AirworthyError as error:
        return Finding("signatures", "problem", str(error))
    made = f"bundles are signed with key {key.identity[:12]}" if key else "bundles are not signed"
    asked = ", ".join(one.identity[:12] for one in trusted)
    return Finding("signatures", "ok", f"{made}; {f'asked for: {asked}' if asked else 'none is asked for'}")


def _specs() -> list[Finding]:
    from airworthy.model_spec import read_spec

    findings = []
    for path in sorted(Path("models").glob("*.yaml")):
        try:
            read_spec(path)
        except AirworthyError as error:
            findings.append(Finding(str(path), "problem", str(error)))
        else:
            findings.append(Finding(str(path), "ok", "valid"))
    return findings or [Finding("models/", "note", "no model spec here: run this in a project's folder")]
