"""What goes wrong, and when: the faults that a test asks the API double and the scripted controller for."""

from __future__ import annotations

import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Literal

Failing = Literal["never", "crash_loop"]


@dataclass
class Behaviour:
    """How the models behind one storage URI answer; changes take effect at once.

    `error_rate`, `nan_rate`, `garbage_rate` are shares of predictions (0..1); `seconds` and `jitter` (mean of an
    exponential) are added to each; `shift` is added to scores; `dead` breaks every connection off.
    """

    error_rate: float = 0.0
    nan_rate: float = 0.0
    garbage_rate: float = 0.0
    seconds: float = 0.0
    jitter: float = 0.0
    shift: float = 0.0
    dead: bool = False


@dataclass
class Script:
    """Faults of the API, of the controller and of the models. Thread-safe; the fault-free script does nothing.

    API: `conflicts(k)`, `fail(k, 429, retry_after=1)`, `lose_answers(k)`, `down(seconds)`, `drop_watches()`.
    Controller: `unready(uri)`, `crash(uri)`, `flap(uri)`, `weights_never`, `weights_late`,
    `weights_wrong`, `gateway_api`, `gated`, `paused`. Models: `behave(uri, error_rate=0.3)`.
    """

    weights_never: bool = False
    """KServe 0.20.0: canaries become ready, HTTPRoutes never get their weights."""
    weights_late: float = 0.0
    """Seconds that weights take beyond the usual."""
    weights_wrong: int | None = None
    """The canary's weight that is written instead of the asked one (percent)."""
    gateway_api: bool = True
    """False: `enableGatewayApi` is off; there are no HTTPRoutes and all traffic goes to the stable."""
    gated: bool = True
    """False: before PR 5984; unready canaries get weights too, and the stable shrinks early."""
    paused: bool = False
    """The KServe controller is away: specs are accepted, nothing happens."""

    _lock: threading.Lock = field(default_factory=threading.Lock)
    _behaviours: dict[str, Behaviour] = field(default_factory=dict)
    _unready: dict[str, Failing] = field(default_factory=dict)
    _flapping: dict[str, float] = field(default_factory=dict)
    _crash_after: dict[str, int] = field(default_factory=dict)
    _served: Counter[str] = field(default_factory=Counter)
    _conflicts: int = 0
    _lost: int = 0
    _failures: list[tuple[int, int | None, str]] = field(default_factory=list)
    _down_until: float = 0.0
    _watch_epoch: int = 0
    _watch_limit: int | None = None

    # -- models ------------------------------------------------------------------------------------------------

    def behave(self, uri: str, **changes: float | bool) -> Behaviour:
        """Change how the models of a storage URI answer; see `Behaviour`."""
        behaviour = self.behaviour(uri)
        for key, value in changes.items():
            assert hasattr(behaviour, key), f"no such behaviour: {key}"
            setattr(behaviour, key, value)
        return behaviour

    def behaviour(self, uri: str) -> Behaviour:
        return self._behaviours.setdefault(uri, Behaviour())

    def served(self, uri: str) -> None:
        """Called for each prediction of a model: crashes it when its time has come."""
        with self._lock:
            self._served[uri] += 1
            if self._served[uri] >= self._crash_after.get(uri, 1 << 60):
                self._unready[uri] = "crash_loop"
                self.behaviour(uri).dead = True

    # -- readiness ---------------------------------------------------------------------------------------------

    def unready(self, uri: str, how: Failing = "never") -> None:
        """Pods of this model never get ready: `never` (probe fails) or `crash_loop` (CrashLoopBackOff)."""
        self._unready[uri] = how

    def crash(self, uri: str, after: int = 0) -> None:
        """Pods of this model crash for good, after so many more predictions."""
        with self._lock:
            self._crash_after[uri] = self._served[uri] + after
        if after == 0:
            self.served(uri)

    def flap(self, uri: str, period: float = 0.1) -> None:
        """Readiness of this model's pods comes and goes, each half a period long; they go on answering."""
        self._flapping[uri] = period

    def heal(self, uri: str) -> None:
        """Undo `unready`, `crash` and `flap`."""
        with self._lock:
            self._unready.pop(uri, None)
            self._flapping.pop(uri, None)
            self._crash_after.pop(uri, None)
            self.behaviour(uri).dead = False

    def failing(self, uri: str) -> Failing | None:
        """How pods of this model fail at the moment, if they do."""
        period = self._flapping.get(uri)
        if period and (time.monotonic() / period) % 1 >= 0.5:
            return "never"
        return self._unready.get(uri)

    @property
    def restless(self) -> bool:
        """Whether something changes by itself, so that the controller has to look often."""
        return bool(self._flapping)

    # -- the API -----------------------------------------------------------------------------------------------

    def conflicts(self, count: int) -> None:
        """Before each of the next so many writes of InferenceServices, somebody else changes the object."""
        with self._lock:
            self._conflicts = count

    def take_conflict(self) -> bool:
        with self._lock:
            if not self._conflicts:
                return False
            self._conflicts -= 1
            return True

    def lose_answers(self, count: int) -> None:
        """The next so many writes are carried out, but the connection breaks before the answer."""
        with self._lock:
            self._lost = count

    def take_lost(self) -> bool:
        with self._lock:
            if not self._lost:
                return False
            self._lost -= 1
            return True

    def fail(self, count: int, code: int = 500, *, retry_after: int | None = None, verb: str = "") -> None:
        """The next so many requests (of one verb: get, list, patch, …) fail with an HTTP status."""
        with self._lock:
            self._failures += [(code, retry_after, verb)] * count

    def take_failure(self, verb: str) -> tuple[int, int | None] | None:
        with self._lock:
            for at, (code, retry_after, only) in enumerate(self._failures):
                if only in ("", verb):
                    del self._failures[at]
                    return code, retry_after
        return None

    def down(self, seconds: float = 1e9) -> None:
        """The API server is away: connections break off; `up()` ends it early."""
        self._down_until = time.monotonic() + seconds
        self.drop_watches()

    def up(self) -> None:
        self._down_until = 0.0

    @property
    def is_down(self) -> bool:
        return time.monotonic() < self._down_until

    def drop_watches(self, after: int | None = None) -> None:
        """Break all open watches off now, or every watch after so many events."""
        if after is None:
            self._watch_epoch += 1
        self._watch_limit = after

    @property
    def watch_epoch(self) -> int:
        return self._watch_epoch

    @property
    def watch_limit(self) -> int | None:
        return self._watch_limit
