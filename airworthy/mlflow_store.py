"""Where MLflow keeps runs and models: SQLite and a folder, or any server (`MLFLOW_TRACKING_URI`)."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from airworthy import state
from airworthy.errors import RegistryError
from airworthy.files import file_lock

if TYPE_CHECKING:
    from mlflow import MlflowClient

SQLITE = "sqlite:///"


def tracking_uri(home: Path | None = None) -> str:
    """`MLFLOW_TRACKING_URI`, or the SQLite file in the state directory (default `state.home()`)."""
    given = os.environ.get("MLFLOW_TRACKING_URI")
    return given or f"{SQLITE}{(home or state.home()) / 'mlflow.db'}"


def ensure_store(uri: str | None = None) -> str:
    """The URI of a store that is ready for use; a SQLite file gets its tables here, once.

    MLflow migrates on first use, and parallel first users break each other's migration, even the file; so it
    is done under a file lock, and a stamp beside the file says that it was done.

    Args:
        uri: The store; by default `tracking_uri()`.

    Raises:
        RegistryError: The database can't be made ready.
    """
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")  # bars make step logs unreadable
    uri = uri or tracking_uri()
    database = sqlite_file(uri)
    if database is not None:
        _migrate_once(database)
    return uri


def sqlite_file(uri: str) -> Path | None:
    """The database file of a SQLite URI; None for servers and other databases."""
    return Path(uri.removeprefix(SQLITE)).absolute() if uri.startswith(SQLITE) else None


def experiment_id(client: MlflowClient, name: str) -> str:
    """The experiment of that name, made if missing.

    With SQLite its artifacts go to `artifacts/` beside the database (MLflow's own default depends on the
    current directory); a server decides for itself.
    """
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        database = sqlite_file(client.tracking_uri)
        location = None if database is None else (database.parent / "artifacts" / name).as_uri()
        try:
            return str(client.create_experiment(name, artifact_location=location))
        except MlflowException:
            found = client.get_experiment_by_name(name)  # another process may have been faster
            if found is None:
                raise
    return str(found.experiment_id)


@contextmanager
def store_errors(action: str) -> Iterator[None]:
    """MLflow's errors as one sentence of ours.

    Args:
        action: What could not be done, as in "the model registry could not …".
    """
    from mlflow.exceptions import MlflowException

    try:
        yield
    except (MlflowException, OSError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise RegistryError(f"the model registry could not {action}: {first}") from error


def _migrate_once(database: Path) -> None:
    import mlflow.version

    stamp = database.with_name(database.name + ".schema")
    if _stamped(stamp, database, mlflow.version.VERSION):
        return
    with file_lock(database.with_name(database.name + ".lock")):
        if _stamped(stamp, database, mlflow.version.VERSION):
            return
        try:
            if database.exists():
                _migrate(database)
            else:  # made under another name: a process killed half-way leaves no half database
                temporary = database.with_name(database.name + ".incomplete")
                temporary.unlink(missing_ok=True)
                _migrate(temporary)
                temporary.replace(database)
        except Exception as error:
            first = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise RegistryError(f"{database}: the MLflow database can't be prepared: {first}") from error
        stamp.write_text(mlflow.version.VERSION)


def _migrate(database: Path) -> None:
    """What `mlflow db upgrade` does, tables of an empty database included."""
    from mlflow.store.db import utils

    logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)  # tells of its tables at every start
    engine = utils.create_sqlalchemy_engine_with_retry(f"{SQLITE}{database}")
    try:
        if utils._all_tables_exist(engine):
            utils._upgrade_db(engine)
        else:
            utils._initialize_tables(engine)
    finally:
        engine.dispose()


def _stamped(stamp: Path, database: Path, version: str) -> bool:
    return database.exists() and stamp.exists() and stamp.read_text() == version
