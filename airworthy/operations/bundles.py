"""Operations on signatures."""

from __future__ import annotations

from pathlib import Path

from airworthy.errors import ConfigError
from airworthy.operations.registered import named, say
from airworthy.state import home


def sign(what: str) -> None:
    """Sign a bundle's folder, or the stored bundle of a version and the copy of it that serves here.

    Raises:
        ConfigError: There is no key, or no such version.
        BundleError: The bundle was changed, or the key can't be used.
    """
    import tempfile

    from airworthy.bundle import verify_digests
    from airworthy.registry import Registry
    from airworthy.serving.state import ServiceStore, services
    from airworthy.signing import SIGNING_KEY, sign_bundle, signing_key

    key = signing_key()
    if key is None:
        raise ConfigError(
            f"{SIGNING_KEY} is not set: it names the private key (`airworthy keys new` makes one)"
        )
    if Path(what).is_dir():
        digest = verify_digests(Path(what))
        sign_bundle(Path(what), key)
    else:
        registry = Registry()
        version = named(registry, what)
        registry.sign(version, key)
        digest = version.digest
        with tempfile.TemporaryDirectory() as scratch:
            bundle = registry.fetch_bundle(version, Path(scratch) / "bundle")
            for service in services(home()):
                if digest in {one.digest for one in (service.stable, service.canary) if one}:
                    ServiceStore(home(), service.service).keep(bundle, version.version)
    say(f"{what}: bundle {digest[:12]} is signed with key {key.identity[:12]}")


def verify(what: str, key: str | None) -> None:
    """Check digests and signature of a bundle's folder, or of a version's stored bundle.

    Raises:
        ConfigError: There is no such version.
        BundleError: The bundle was changed; or a key was given, and the signature is missing or wrong.
    """
    import tempfile

    from airworthy.bundle import verify_digests
    from airworthy.registry import Registry
    from airworthy.signing import SIGNATURE, require_signature, verify_keys

    trusted = verify_keys(key)
    with tempfile.TemporaryDirectory() as scratch:
        bundle = Path(what)
        if not bundle.is_dir():
            registry = Registry()
            bundle = registry.fetch_bundle(named(registry, what), Path(scratch) / "bundle")
        digest = verify_digests(bundle)
        if trusted:
            how = f"signed with key {require_signature(bundle, digest, trusted).identity[:12]}"
        elif (bundle / SIGNATURE).is_file():
            how = "it has a signature, which was not checked: give --key"
        else:
            how = "not signed"
    say(f"{what}: bundle {digest[:12]}, all files as they were written; {how}")
