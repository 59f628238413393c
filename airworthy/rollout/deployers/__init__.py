"""Deployers: where a service's state lives and how its traffic is moved.

| deployer   | state                             | traffic                                  | evidence      |
| ---------- | --------------------------------- | ---------------------------------------- | ------------- |
| `local`    | `service.json` beside the service | our splitter before KServe model servers | every request |
| `knative`  | ConfigMap `<service>-airworthy`   | `canaryTrafficPercent`                   | `signals`     |
| `standard` | ConfigMap `<service>-airworthy`   | `spec.canary[]`, HTTPRoute weights       | `signals`     |

A deployer is two things. A `Store` reads and changes what should be: which model is stable, which is canary, at
which percent. A `Plane` makes requests meet it while a rollout goes on, and reports what came of them. The
controller, `settle`, `finish` and the rest know only these two.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal, Protocol

from airworthy.errors import RolloutError
from airworthy.serving.observation import Arm, Observation, Pair
from airworthy.serving.state import Deployed, Service

PROBES = 40
"""Requests that each arm is asked directly before it gets any traffic."""

DeployerName = Literal["local", "knative", "standard"]


class Store(Protocol):
    """A service's state, kept with the service it describes."""

    @property
    def service(self) -> str: ...

    def read(self) -> Service | None:
        """The state; None before anything was ever deployed.

        Raises:
            RolloutError: It can't be read or understood.
        """

    def update(self, change: Callable[[Service | None], Service]) -> Service:
        """Apply a change to the present state, alone; returns the new state.

        On KServe the state is written first and the InferenceService right after it, each under the optimistic lock
        of its `resourceVersion` (see `deployers.kserve`); `change` is called again after a conflict, so it must be a
        pure function of its argument (or safe to repeat). An exception raised by `change` leaves everything as it was.

        Raises:
            RolloutError: The state can't be written.
        """

    def keep(self, bundle: Path, version: str) -> Deployed:
        """Make a bundle deployable (a verified copy, or its storage address) and say how the state names it.

        Raises:
            BundleError: The bundle doesn't match its digests.
            RolloutError: It can't be made deployable.
        """

    def settled(self) -> None:
        """Wait until what serves is what the state says, completing changes that take KServe several writes.

        Safe to repeat, also by another process than the one that changed the state.

        Raises:
            RolloutError: It did not come about in time; the message says what was asked for and what was seen.
        """

    def prune(self) -> None:
        """Delete what nothing refers to any more."""


class CanaryLostError(RolloutError):
    """The canary served and does not any more, while the stable model does: that is the canary's failure."""


class GoneError(RolloutError):
    """What serves was deleted by somebody. Only a new model makes it again."""


class Sink(Protocol):
    """Who wants to know what came of requests: the controller."""

    def observe(self, seen: Observation) -> None:
        """One request of a user, or several alike. Report those that arrive while weights settle, too."""

    def polled(self) -> None:
        """All that one poll of a source of sums found was told: a decision may be taken."""

    def compare(self, pair: Pair) -> None:
        """One request that both models were asked in the shadow phase."""

    def outcome(self, value: float, canary: bool, share: float) -> None:
        """The outcome (0..1) of one request of an A/B test, and with which probability its arm was drawn."""


class Plane(Protocol):
    """What answers requests while one rollout goes on. Evidence goes to the sink it was made with."""

    @property
    def settle_seconds(self) -> float:
        """How long after a change of weights what arrives may still follow the old ones."""

    @property
    def shields(self) -> bool:
        """Whether stable answers users where the canary gives no whole answer in time."""

    async def start(self) -> str:
        """Bring the canary up at 0 % and wait until it is ready; returns why it can't be used, or "".

        Raises:
            ServingError: The stable model doesn't serve: nothing can be said about the canary.
        """

    async def probe(self, arm: Arm) -> str:
        """Ask one arm directly; returns what is wrong with its answers, or ""."""

    async def shift(self, percent: int) -> None:
        """Make requests follow the percent that the state already names; returns once that is observed.

        Raises:
            RolloutError: The observed weights don't become the requested ones.
        """

    def withdraw(self) -> None:
        """At once, without waiting: no request that begins from now on meets the canary."""

    async def gather(self, requests: int, until: Callable[[], bool]) -> None:
        """Let about `requests` more requests of users be observed; returns early once `until()` is true.

        It ends when they were observed, however long that takes: the rollout's deadline is the controller's.

        Raises:
            ServingError: The stable model doesn't serve any more.
            CanaryLostError: The canary doesn't.
            RolloutError: Somebody else moves the traffic.
        """

    async def shadow(self, requests: int, until: Callable[[], bool]) -> None:
        """Let about `requests` pairs be observed: users get stable's answer, the canary gets a copy.

        Raises:
            MissingCapabilityError: This deployer can't copy requests.
        """

    async def close(self) -> None:
        """Stop what `start` started. Safe to repeat."""
