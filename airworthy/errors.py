"""The error tree. The exit code says who must act.

2: the user's input is wrong. 3: the evidence says no. 1: something else broke, and resuming may help.
"""

from __future__ import annotations


class AirworthyError(Exception):
    """Base of every error that Airworthy raises on purpose. Its text is one sentence for the user."""

    exit_code = 1


class ConfigError(AirworthyError):
    """A model spec, pipeline, parameter or command line that can't be used as it is."""

    exit_code = 2


class DataError(AirworthyError):
    """Data that can't be used: missing columns, an empty window, values of a wrong type."""

    exit_code = 2


class MissingCapabilityError(AirworthyError):
    """Something asked for that this machine or installation doesn't have (a GPU, an environment)."""

    exit_code = 2


class GateError(AirworthyError):
    """Evidence is missing, negative or belongs to another model: the action is refused."""

    exit_code = 3


class BundleError(AirworthyError):
    """A model bundle that is incomplete, changed since it was written, or of an unknown format."""


class RegistryError(AirworthyError):
    """The model registry refused or lost a change, or another promotion holds it."""


class ServingError(AirworthyError):
    """A model server or the traffic splitter did not start, stay up or answer."""


class RolloutError(AirworthyError):
    """A rollout that can't start or continue (for instance, another one holds the service)."""


class EngineError(AirworthyError):
    """The local engine could not carry a run through."""
