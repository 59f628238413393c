"""Commands about what a model and its images are made of, and who vouches for it: keys, signatures, SBOMs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from airworthy.cli.terminal import app, in_environment, out

keys_app = typer.Typer(help="Keys that bundles are signed with.", no_args_is_help=True)
app.add_typer(keys_app, name="keys")

WHAT = typer.Argument(help="A bundle's folder, or MODEL@VERSION.", metavar="BUNDLE|MODEL@VERSION")


@keys_app.command("new", epilog="Example:\n\n  airworthy keys new ~/.config/airworthy")
def new_keys(
    folder: Annotated[Path, typer.Argument(help="Where to; made if missing.")],
) -> None:
    """Make a key pair (EC P-256): the private key for training, the public one for whoever verifies."""
    from airworthy.signing import SIGNING_KEY, VERIFY_KEY, write_keys

    private, public = write_keys(folder)
    out.print(f"export {SIGNING_KEY}={private.absolute()}  # where bundles are trained", soft_wrap=True)
    out.print(f"export {VERIFY_KEY}={public.absolute()}  # where they are used", soft_wrap=True)


@app.command(
    epilog="Examples:\n\n  airworthy sign flight_delay@champion\n\n  airworthy sign ./bundle\n\n"
    "The key is AIRWORTHY_SIGNING_KEY. With it set, training signs by itself."
)
def sign(what: Annotated[str, WHAT]) -> None:
    """Sign a bundle that was made before there was a key, or with an older one."""
    in_environment("release", "sign", what)


@app.command(
    epilog="Examples:\n\n  airworthy verify flight_delay@champion\n\n  airworthy verify ./bundle --key our.pub"
)
def verify(
    what: Annotated[str, WHAT],
    key: Annotated[
        str | None, typer.Option(help="Public key that must have signed it. Default: AIRWORTHY_VERIFY_KEY.")
    ] = None,
) -> None:
    """Check that a bundle is as it was written, and who signed it."""
    in_environment("release", "verify", what, *(["--key", key] if key else []))


@app.command(epilog="Example:\n\n  airworthy sbom --out dist/sbom")
def sbom(
    to: Annotated[Path, typer.Option("--out", help="Folder to write to.")] = Path("dist/sbom"),
) -> None:
    """Write what every image contains, from its lock file: CycloneDX JSON."""
    from airworthy.local.environments import lock_files
    from airworthy.sbom import write_bills

    for path in write_bills(lock_files(), to):
        out.print(str(path), soft_wrap=True)
