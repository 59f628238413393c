"""Whether a registered version can be made again from what is recorded with it, and if not, what differs.

`airworthy reproduce` goes through four steps, each in the environment that the release used: `recall` reads the
lineage, the windows are retrieved as of the recorded time, the model is trained with the recorded spec, and
`judge` compares bundle, data and scores.
"""

from airworthy.reproduce.comparison import Kind, Line, Reproduction, ScoreComparison, read_reproduction
from airworthy.reproduce.facts import BUNDLE, DATA, MACHINE, RECORDED, SPEC, Recorded, read_recorded, recall
from airworthy.reproduce.judgement import PAGE, RESULT, judge, shown

__all__ = [
    "BUNDLE",
    "DATA",
    "MACHINE",
    "PAGE",
    "RECORDED",
    "RESULT",
    "SPEC",
    "Kind",
    "Line",
    "Recorded",
    "Reproduction",
    "ScoreComparison",
    "judge",
    "read_recorded",
    "read_reproduction",
    "recall",
    "shown",
]
