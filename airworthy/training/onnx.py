"""XGBoost trees as ONNX, categorical splits included, for servers that score single rows.

Written directly for the `TreeEnsemble` operator (ai.onnx.ml 5), whose MEMBER nodes hold category sets.
General converters unfold a set into a chain of comparisons: minutes of work with a hundred categories.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

LESS, MEMBER = 1, 6
"""Node modes of the operator."""
_SUM = 1
_ML_OPSET, _OPSET, _IR = 5, 17, 10


class NotConvertibleError(Exception):
    """The model uses something that this conversion doesn't know. Its text becomes `BundleInfo.onnx`."""


@dataclass
class _Nodes:
    """The operator's attributes: inner nodes and leaves of all trees, numbered through."""

    features: list[int] = field(default_factory=list)
    modes: list[int] = field(default_factory=list)
    splits: list[float] = field(default_factory=list)
    missing_true: list[int] = field(default_factory=list)
    true: list[tuple[int, int]] = field(default_factory=list)
    """Number of the next node or leaf, and 1 for a leaf."""
    false: list[tuple[int, int]] = field(default_factory=list)
    members: list[float] = field(default_factory=list)
    """Category sets in node order, each ended by NaN."""
    leaves: list[float] = field(default_factory=list)
    roots: list[int] = field(default_factory=list)

    def add(
        self, feature: int, split: float, true: tuple[int, int], false: tuple[int, int], missing: bool
    ) -> None:
        """A node that asks whether the feature is less than `split`."""
        self.features.append(feature)
        self.modes.append(LESS)
        self.splits.append(split)
        self.true.append(true)
        self.false.append(false)
        self.missing_true.append(int(missing))


def to_onnx(booster_json: bytes, features: int) -> bytes:
    """Convert a binary logistic tree model.

    Args:
        booster_json: `Booster.save_raw("json")`.
        features: Width of the input.

    Returns:
        An ONNX model: `input` float32 `[n, features]` (categories as codes, missing as NaN) to `scores`
        float32 `[n, 1]`.

    Raises:
        NotConvertibleError: It is no plain binary logistic tree model.
    """
    learner = json.loads(booster_json)["learner"]
    kind, objective = learner["gradient_booster"]["name"], learner["objective"]["name"]
    if kind != "gbtree" or objective != "binary:logistic":
        raise NotConvertibleError(f"no conversion for {kind} with {objective}")
    base = json.loads(learner["learner_model_param"]["base_score"])
    base = base[0] if isinstance(base, list) else base
    nodes = _Nodes()
    for tree in learner["gradient_booster"]["model"]["trees"]:
        _add_tree(nodes, tree)
    return _model(nodes, features, math.log(base / (1 - base)))


def _add_tree(nodes: _Nodes, tree: Mapping[str, Sequence[Any]]) -> None:
    left, right, splits = tree["left_children"], tree["right_children"], tree["split_conditions"]
    segments = zip(tree["categories_segments"], tree["categories_sizes"], strict=True)
    sets = {
        node: tree["categories"][first : first + size]
        for node, (first, size) in zip(tree["categories_nodes"], segments, strict=True)
    }
    place: dict[int, tuple[int, int]] = {}
    inner = 0
    for node, child in enumerate(left):
        if child == -1:
            place[node] = (len(nodes.leaves), 1)
            nodes.leaves.append(splits[node])
        else:
            place[node] = (len(nodes.features) + inner, 0)
            inner += 1
    nodes.roots.append(len(nodes.features))
    if not inner:  # a lone leaf: the operator wants a node as root
        nodes.add(0, 0.0, place[0], place[0], missing=True)
    for node, child in enumerate(left):
        if child == -1:
            continue
        less, other = place[child], place[right[node]]
        missing_left = bool(tree["default_left"][node])
        if node in sets:  # XGBoost sends members to the right
            nodes.add(tree["split_indices"][node], 0.0, other, less, missing=not missing_left)
            nodes.modes[-1] = MEMBER
            nodes.members += [*map(float, sets[node]), math.nan]
        else:
            nodes.add(tree["split_indices"][node], splits[node], less, other, missing=missing_left)


def _model(nodes: _Nodes, features: int, base: float) -> bytes:
    from onnx import TensorProto, checker, helper, numpy_helper

    def tensor(values: Sequence[float], dtype: type = np.float32) -> TensorProto:
        return numpy_helper.from_array(np.array(values, dtype=dtype))

    sets = {"membership_values": tensor(nodes.members)} if nodes.members else {}
    trees = helper.make_node(
        "TreeEnsemble",
        ["input"],
        ["sum"],
        domain="ai.onnx.ml",
        n_targets=1,
        aggregate_function=_SUM,
        post_transform=0,
        tree_roots=nodes.roots,
        nodes_featureids=nodes.features,
        nodes_modes=tensor(nodes.modes, np.uint8),
        nodes_splits=tensor(nodes.splits),
        nodes_truenodeids=[target for target, _ in nodes.true],
        nodes_trueleafs=[leaf for _, leaf in nodes.true],
        nodes_falsenodeids=[target for target, _ in nodes.false],
        nodes_falseleafs=[leaf for _, leaf in nodes.false],
        nodes_missing_value_tracks_true=nodes.missing_true,
        leaf_targetids=[0] * len(nodes.leaves),
        leaf_weights=tensor(nodes.leaves),
        **sets,
    )
    graph = helper.make_graph(
        [
            trees,
            helper.make_node("Add", ["sum", "base"], ["margin"]),
            helper.make_node("Sigmoid", ["margin"], ["scores"]),
        ],
        "xgboost",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [None, features])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [None, 1])],
        [numpy_helper.from_array(np.full((1, 1), base, dtype=np.float32), "base")],
    )
    opsets = [helper.make_opsetid("", _OPSET), helper.make_opsetid("ai.onnx.ml", _ML_OPSET)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=_IR)
    checker.check_model(model)
    content: bytes = model.SerializeToString(deterministic=True)
    return content
