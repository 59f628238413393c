"""One Python environment per image: which it is, and how it comes to be.

An image is a dependency group of pyproject.toml, locked with hashes to `requirements/<group>.txt`. The table
`[tool.airworthy.images]` maps image names to groups; without it an image has its group's name.
"""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import airworthy
from airworthy.errors import AirworthyError, ConfigError, EngineError, MissingCapabilityError
from airworthy.files import file_lock
from airworthy.local.state import write_atomically

STAMP = "airworthy-lock"
RECIPE = b"2"
"""Changes when environments are made in another way."""
COMMAND_LINE = "engine"
"""The group whose environment holds the `airworthy` command."""
_PACKAGE = Path(airworthy.__file__).resolve().parent


@dataclass(frozen=True)
class Environments:
    """Interpreters by image.

    Attributes:
        home: State directory; environments lie in `<home>/envs/<group>`.
        overrides: Image name to interpreter, used as it is (tests, or an environment of one's own).
        say: Gets a sentence whenever an environment is made, which takes from seconds to minutes.
    """

    home: Path
    overrides: Mapping[str, Path] = field(default_factory=dict)
    say: Callable[[str], None] = lambda _: None

    def python_for(self, image: str) -> Path:
        """The interpreter of an image; its environment is made first if it is missing or out of date.

        Args:
            image: As in the compiled pipeline: `airworthy/data:dev`, `registry/airworthy-data@sha256:...`.

        Raises:
            ConfigError: No image of that name is known.
            MissingCapabilityError: An environment has to be made and uv is not installed.
            EngineError: Making it failed.
        """
        if image_name(image) in self.overrides or image in self.overrides:
            return Path(self.overrides.get(image) or self.overrides[image_name(image)])
        return self.python_of_group(self.group_of(image))

    def python_of_group(self, group: str) -> Path:
        """The interpreter of a dependency group's environment, made first if it is missing or out of date."""
        folder = self.home / "envs" / group
        with file_lock(self.home / "envs" / f".{group}.lock"):
            if _read(folder / STAMP) != _stamp(group):
                self._create(group, folder)
        return folder / "bin" / "python"

    def group_of(self, image: str) -> str:
        """The dependency group of an image: the one with CUDA where a GPU and such a group exist.

        Raises:
            ConfigError: No image of that name is known.
        """
        known = _images()
        name = image_name(image)
        if name not in known:
            raise ConfigError(f"The image {image!r} is not known here; known are {', '.join(sorted(known))}.")
        cuda = f"{known[name]}-gpu"
        return cuda if _lock_file(cuda).is_file() and gpu_present() else known[name]

    def states(self) -> dict[str, str]:
        """Each image's group: `ready`, `out of date` or `missing`."""
        found = {}
        for group in sorted({self.group_of(image) for image in _images()}):
            stamp = _read(self.home / "envs" / group / STAMP)
            found[group] = "ready" if stamp == _stamp(group) else "out of date" if stamp else "missing"
        return found

    def check(self, image: str) -> None:
        """Raises ConfigError if `python_for` would not know the image; creates nothing."""
        if image not in self.overrides and image_name(image) not in self.overrides:
            self.group_of(image)

    def digest(self, image: str) -> str:
        """Changes when the packages of an image's environment change."""
        override = self.overrides.get(image) or self.overrides.get(image_name(image))
        return f"interpreter {override}" if override else _stamp(self.group_of(image))

    def _create(self, group: str, folder: Path) -> None:
        verb = "Renewing" if folder.exists() else "Creating"
        self.say(
            f"{verb} the environment {group!r} from requirements/{group}.txt (once, this may take a minute)."
        )
        log = self.home / "envs" / f"{group}.log"
        log.unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)
        python = str(folder / "bin" / "python")
        uv = find_uv()
        _run([uv, "venv", "--python", sys.executable, str(folder)], log)
        # Compiled once here: where bytecode can't be written later, every step would compile its libraries anew.
        exact = ["--python", python, "--compile-bytecode", "--require-hashes"]
        _run([uv, "pip", "sync", *exact, str(_lock_file(group))], log)
        _run([uv, "pip", "install", *exact, "--no-deps", "-r", str(_lock_file("executor"))], log)
        packages = next((folder / "lib").glob("python3*/site-packages"))
        # A link, not a path entry: nothing but the package becomes importable.
        (packages / "airworthy").symlink_to(_PACKAGE, target_is_directory=True)
        if group == COMMAND_LINE:
            command = folder / "bin" / "airworthy"
            command.write_text(f"#!{python}\nfrom airworthy.cli import main\n\nmain()\n", encoding="utf-8")
            command.chmod(0o755)
        write_atomically(folder / STAMP, _stamp(group))
        self.say(f"The environment {group!r} is ready.")


def image_name(image: str) -> str:
    """The part of an image reference that counts: no registry, tag, digest or `airworthy-` prefix."""
    last = image.partition("@")[0].rpartition("/")[2].partition(":")[0]
    return last.removeprefix("airworthy-")


@functools.cache
def gpu_present() -> bool:
    """Whether an NVIDIA GPU can be used here."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return False
    try:
        listed = subprocess.run([tool, "-L"], capture_output=True, timeout=20, check=False)
    except subprocess.TimeoutExpired:
        return False
    return listed.returncode == 0 and b"GPU" in listed.stdout


@functools.cache
def library_digest() -> str:
    """SHA-256 over the sources that steps import: the package without the engine and the command line."""
    digest = hashlib.sha256()
    for path in sorted(_PACKAGE.rglob("*")):
        relative = path.relative_to(_PACKAGE)
        skipped = (
            relative.parts[0] in ("local", "cli", "cli.py", "client.py") or "__pycache__" in relative.parts
        )
        if path.is_file() and not skipped:
            digest.update(f"{relative}\0{path.stat().st_size}\0".encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()


def _project() -> Path:
    """Where pyproject.toml and requirements/ lie: the checkout, or a copy inside the installed package."""
    checkout = _PACKAGE.parent
    return checkout if (checkout / "requirements").is_dir() else _PACKAGE / "_project"


def lock_files() -> Path:
    """Folder of the lock files, one per group."""
    return _project() / "requirements"


def _lock_file(group: str) -> Path:
    return lock_files() / f"{group}.txt"


@functools.cache
def _images() -> dict[str, str]:
    pyproject = _project() / "pyproject.toml"
    settings = tomllib.loads(pyproject.read_text(encoding="utf-8")) if pyproject.is_file() else {}
    table = settings.get("tool", {}).get("airworthy", {}).get("images")
    groups = [path.stem for path in (_project() / "requirements").glob("*.txt")]
    return dict(table) if table else {group: group for group in groups}


def _stamp(group: str) -> str:
    """SHA-256 over the recipe and the locks that an environment is made from.

    Raises:
        ConfigError: The group has no lock file.
    """
    digest = hashlib.sha256(RECIPE)
    for name in (group, "executor"):
        try:
            digest.update(_lock_file(name).read_bytes())
        except OSError:
            raise ConfigError(f"requirements/{name}.txt is missing; run `make lock`.") from None
    return digest.hexdigest()


def find_uv() -> str:
    """The uv beside this interpreter, or on the PATH.

    Raises:
        MissingCapabilityError: There is none.
    """
    beside = Path(sys.executable).with_name("uv")
    found = str(beside) if beside.is_file() else shutil.which("uv")
    if not found:
        raise MissingCapabilityError(
            "uv is needed to make a step's environment and is not on the PATH; `pip install uv`."
        )
    return found


def _run(command: list[str], log: Path) -> None:
    with log.open("ab") as file:
        code = subprocess.run(
            command, stdout=file, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, check=False
        )
    if code.returncode != 0:
        raise EngineError(f"`{' '.join(command[:3])}` failed while making an environment; see {log}.")


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def main(groups: Sequence[str]) -> int:
    """Makes environments by name: `python -m airworthy.local.environments engine`; standard library only."""
    home = Path(os.environ.get("AIRWORTHY_HOME", ".airworthy")).absolute()
    environments = Environments(home, say=lambda text: print(text, file=sys.stderr, flush=True))  # noqa: T201
    try:
        for group in groups:
            environments.python_of_group(group)
    except AirworthyError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
