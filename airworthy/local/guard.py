"""Runs one command and never lets any process of it outlive the engine.

Started as a script (`python -I -S guard.py RESULT TMPDIR GRACE COMMAND...`) with as few imports as can be,
because it starts once per task. Its standard input is a pipe from the engine: when that closes, because the
engine asks for it or because it is gone, the command and everything that it started is killed. The same
happens to whatever the command leaves behind when it ends, as in a container.

On Linux orphans are re-parented to the guard (PR_SET_CHILD_SUBREAPER), so that a process that made a session
of its own is found as well; elsewhere the command's process group is killed.
"""

# pathlib alone would double the time to start; no shell is wanted.
# ruff: noqa: PTH105, PTH106, PTH108, PTH112, PTH114, PTH118, PTH123, PTH208

import os
import select
import signal
import sys
import time

_SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER of linux/prctl.h


def main(result: str, temporary: str, grace: float, command: list[str]) -> int:
    """Runs the command to its end or to the engine's.

    Args:
        result: File that gets `returncode`, `peak_memory_bytes` and `stopped` as JSON.
        temporary: Directory removed at the end.
        grace: Seconds between SIGTERM and SIGKILL.
        command: Program and arguments.

    Returns:
        The command's exit code, 128 + signal number if it was killed.
    """
    subreaper = _become_subreaper()
    wake, alarm = os.pipe()
    os.set_blocking(alarm, False)
    signal.set_wakeup_fd(alarm)
    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, _remember)
    child = _start(command, (wake, alarm))
    state = _State(child)
    while state.code is None and not state.stopped:
        ready, _, _ = select.select([0, wake], [], [])
        state.stopped = 0 in ready or bool(_signals & {signal.SIGTERM, signal.SIGINT, signal.SIGHUP})
        if wake in ready:
            os.read(wake, 512)
        state.reap()
    state.kill_all(grace, subreaper)
    _remove_tree(temporary)
    _write(result, state)
    return 1 if state.code is None else state.code


class _State:
    """What is known about the command."""

    def __init__(self, child: int) -> None:
        self.child, self.peak, self.stopped, self.empty = child, 0, False, False
        self.code: int | None = None

    def reap(self) -> None:
        """Collects ended processes, without waiting."""
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                self.empty = True
                return
            if pid == 0:
                return
            self.peak = max(self.peak, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024))
            if pid == self.child:
                code = os.waitstatus_to_exitcode(status)
                self.code = 128 - code if code < 0 else code

    def kill_all(self, grace: float, subreaper: bool) -> None:
        """Ends every process of the command, politely first."""
        self.reap()
        number, deadline = signal.SIGTERM, time.monotonic() + grace
        sent: set[int] = set()
        while not self.empty or (not subreaper and _group_alive(self.child)):
            targets = _descendants() if subreaper else [-self.child]
            for pid in targets if number == signal.SIGKILL else [p for p in targets if p not in sent]:
                _kill(pid, number)
            sent.update(targets)
            time.sleep(0.005)
            self.reap()
            if time.monotonic() > deadline:
                number = signal.SIGKILL


_signals: set[int] = set()


def _remember(number: int, _frame: object) -> None:
    _signals.add(number)


def _become_subreaper() -> bool:
    if not sys.platform.startswith("linux"):
        return False
    import ctypes

    return ctypes.CDLL(None).prctl(_SUBREAPER, 1, 0, 0, 0) == 0


def _start(command: list[str], private: tuple[int, int]) -> int:
    child = os.fork()
    if child:
        return child
    try:
        os.setpgid(0, 0)
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        for descriptor in private:
            os.close(descriptor)
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.close(nothing)
        os.execvp(command[0], command)
    except OSError as error:
        os.write(2, f"{command[0]}: {error.strerror}\n".encode())
    os._exit(127)


def _descendants() -> list[int]:
    """All processes below this one, from /proc."""
    parents: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                with open(f"/proc/{entry}/stat", "rb") as file:
                    # The name in parentheses may hold anything; the parent is the second field after it.
                    parent = int(file.read().rpartition(b")")[2].split()[1])
            except OSError:  # ended meanwhile
                continue
            parents.setdefault(parent, []).append(int(entry))
    found, queue = [], [os.getpid()]
    while queue:
        children = parents.get(queue.pop(), [])
        found += children
        queue += children
    return found


def _group_alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def _kill(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except (ProcessLookupError, PermissionError):  # ended meanwhile
        return


def _remove_tree(path: str) -> None:
    for folder, folders, files in os.walk(path, topdown=False):
        for name in files + folders:
            full = os.path.join(folder, name)
            try:
                os.rmdir(full) if name in folders and not os.path.islink(full) else os.unlink(full)
            except OSError:  # a leftover in a temporary directory is no reason to fail the task
                continue
    if os.path.isdir(path):
        try:
            os.rmdir(path)
        except OSError:
            return


def _write(result: str, state: _State) -> None:
    code = "null" if state.code is None else state.code
    stopped = "true" if state.stopped else "false"
    with open(result + ".tmp", "w") as file:
        file.write(f'{{"returncode": {code}, "peak_memory_bytes": {state.peak}, "stopped": {stopped}}}\n')
    os.replace(result + ".tmp", result)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], float(sys.argv[3]), sys.argv[4:]))
