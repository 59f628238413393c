"""KFP face of `airworthy.dossier`."""

from kfp import dsl

from components.metadata import image


@dsl.component(base_image=image("write_dossier"), install_kfp_package=False)
def write_dossier(
    spec: str,
    version: str,
    dossier: dsl.Output[dsl.HTML],
    document: dsl.Output[dsl.Markdown],
    facts: dsl.Output[dsl.Artifact],
) -> None:
    """Write the dossier of a registered version from its records, and keep it with the version.

    Args:
        spec: Text of the model spec; only the model's name is taken from it, the rest is read from the records.
        version: Registry version.
        dossier: The dossier as a page.
        document: The dossier as Markdown.
        facts: The dossier for machines (JSON).
    """
    import shutil
    import tempfile
    from pathlib import Path

    from airworthy import dossier as room
    from airworthy.model_spec import load_spec
    from airworthy.registry import Registry

    outputs = {room.PAGE: dossier, room.MARKDOWN: document, room.FILE: facts}
    with tempfile.TemporaryDirectory() as folder:
        try:
            written = room.record(Registry(), load_spec(spec).name, version, Path(folder))
        finally:
            for name, artifact in outputs.items():
                if (Path(folder) / name).exists():
                    shutil.copyfile(Path(folder) / name, artifact.path)
    facts.metadata["missing"] = len(written.missing)
