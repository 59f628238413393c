"""Small components that the engine's contract tests wire together."""

# Sources that kfp carries to the steps, in the spellings that it reads.
# ruff: noqa: UP006, UP035, UP045, PTH103, PTH123, SIM115

from typing import Dict, List, NamedTuple, Optional

from kfp import dsl
from kfp.dsl import Dataset, Input, Output, OutputPath, PipelineTaskFinalStatus

step = dsl.component(base_image="test", install_kfp_package=False)


@step
def number(value: int = 3) -> int:
    return value


@step
def real(value: float) -> float:
    return value


@step
def text(value: str = "default") -> str:
    return value


@step
def truth(value: bool) -> bool:
    return value


@step
def join(parts: list) -> str:
    return "+".join(str(part) for part in parts)


@step
def shape_of(value: dict) -> str:
    import json

    return json.dumps(value, sort_keys=True)


@step
def numbers(count: int) -> List[int]:
    return list(range(count))


@step
def pairs() -> List[Dict[str, int]]:
    return [{"a": 1, "b": 10}, {"a": 2, "b": 20}]


@step
def gate(score: float) -> NamedTuple("Gate", [("passed", bool), ("reason", str)]):
    from collections import namedtuple

    return namedtuple("Gate", ["passed", "reason"])(score > 0.5, f"score {score}")


@step
def write(out: Output[Dataset], content: str = "content"):
    with open(out.path, "w") as file:
        file.write(content)
    out.metadata["length"] = len(content)


@step
def write_folder(out: Output[Dataset], content: str):
    import os

    os.makedirs(out.path + "/nested")
    with open(out.path + "/nested/part", "w") as file:
        file.write(content)


@step
def read(data: Input[Dataset]) -> str:
    with open(data.path) as file:
        return file.read()


@step
def read_folder(data: Input[Dataset]) -> str:
    with open(data.path + "/nested/part") as file:
        return file.read()


@step
def read_all(data: Input[List[Dataset]]) -> str:
    return "+".join(open(item.path).read() for item in data)


@step
def read_maybe(data: Optional[Input[Dataset]] = None) -> str:
    return "nothing" if data is None else open(data.path).read()


@step
def describe(data: Input[Dataset]) -> str:
    return f"{data.uri} {data.metadata.get('origin')}"


@step
def maybe(value: Optional[int] = None, word: Optional[str] = None) -> str:
    return f"{value} {word}"


@step
def fail(message: str = "broken on purpose") -> int:
    raise RuntimeError(message)


@step
def refuse() -> int:
    from airworthy.errors import GateError

    raise GateError("The challenger is not good enough.")


@step
def final(status: PipelineTaskFinalStatus, path: str):
    import json

    with open(path, "a") as file:
        file.write(json.dumps([status.state, status.error_message, status.pipeline_task_name]) + "\n")


@step
def touch(path: str, line: str = "x"):
    with open(path, "a") as file:
        file.write(line + "\n")


@step
def flaky(counter: str, failures: int) -> int:
    with open(counter, "a") as file:
        file.write("x")
    tries = len(open(counter).read())
    if tries <= failures:
        raise RuntimeError(f"try {tries}")
    return tries


@step
def span(path: str, seconds: float = 0.3) -> int:
    import time

    begin = time.time()
    time.sleep(seconds)
    with open(path, "a") as file:
        file.write(f"{begin} {time.time()}\n")
    return 0


@step
def hang(path: str) -> int:
    import os
    import subprocess
    import time

    # A process of its own session, as a model server would be.
    other = subprocess.Popen(["sleep", "600"], start_new_session=True)
    with open(path, "w") as file:
        file.write(f"{os.getpid()} {other.pid}")
    time.sleep(600)
    return 0


@step
def variable(name: str) -> str:
    import os

    return os.environ.get(name, "unset")


@step
def by_path(out: OutputPath(str), count: OutputPath(int), parts: OutputPath(list)):
    for path, value in ((out, "line\n"), (count, "7"), (parts, "[1, 2]")):
        with open(path, "w") as file:
            file.write(value)
