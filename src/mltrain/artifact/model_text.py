"""The structure of LightGBM's model text, checked before LightGBM sees it.

LightGBM 4.7 crashes the process on most damaged texts (a child index out of range is a write out of bounds), which no
`try` can catch. So every line is checked here first, in Python. Only texts as mltrain writes them pass: a binary
objective, numerical splits, finite numbers, and child indices that form trees. A text that passes may still hold wrong
numbers; its SHA-256 detects those.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Final

from mltrain.errors import InputError
from mltrain.names import FEATURE, show

MAX_TREES: Final = 100_000
# Leaves of one tree: LightGBM's limit.
MAX_LEAVES: Final = 131_072
MAX_FEATURES: Final = 100_000
# LightGBM reads indices and counts into 32 bits, unchecked.
_MAX_INT: Final = 2**31 - 1

# The keys of the lines before the trees and of each tree, in LightGBM's order.
_HEAD: Final = (
    *("version", "num_class", "num_tree_per_iteration", "label_index", "max_feature_idx", "objective"),
    *("feature_names", "feature_infos", "tree_sizes"),
)
_TREE: Final = (
    *("num_leaves", "num_cat", "split_feature", "split_gain", "threshold", "decision_type", "left_child"),
    *("right_child", "leaf_value", "leaf_weight", "leaf_count", "internal_value", "internal_weight", "internal_count"),
    *("is_linear", "shrinkage"),
)
# A line that only models with such constraints have, and its place in the head.
_MONOTONE: Final = "monotone_constraints"
_MONOTONE_AT: Final = _HEAD.index("feature_infos")
_FIXED_HEAD: Final = {
    "version": "v4",
    "num_class": "1",
    "num_tree_per_iteration": "1",
    "label_index": "0",
    "objective": "binary sigmoid:1",
}
_FIXED_TREE: Final = {"num_cat": "0", "is_linear": "0"}
# Bit 0 (categorical) is clear; bit 1 is the default side, bits 2 and 3 the missing type.
_DECISIONS: Final = frozenset({0, 2, 4, 6, 8, 10})

_INT: Final = r"-?[0-9]{1,10}"
_FLOAT: Final = r"-?[0-9]{1,20}(?:\.[0-9]{1,20})?(?:e[+-]?[0-9]{1,3})?"
_INTS: Final = re.compile(rf"{_INT}(?: {_INT})*")
_FLOATS: Final = re.compile(rf"{_FLOAT}(?: {_FLOAT})*")
_FEATURE_INFO: Final = re.compile(rf"none|\[{_FLOAT}:{_FLOAT}\]")
_TAIL: Final = re.compile(
    r"end of trees\n"
    rf"\nfeature_importances:\n(?:{FEATURE.pattern}=[0-9]{{1,10}}\n)*"
    # The interaction constraints are lists of columns: [0,1],[2].
    r"\nparameters:\n(?:\[[a-z0-9_]{1,64}: (?:[A-Za-z0-9_.,+-]*|\[[0-9,]+\](?:,\[[0-9,]+\])*)\]\n)*"
    r"\nend of parameters\n"
    r"\npandas_categorical:null\n"
)


def check_model_text(text: str, *, where: str) -> tuple[str, ...]:
    """Check every line of a model text and return the names of its features, in the order in which it reads them.

    Args:
        text: As `Booster.model_to_string` writes it for a binary objective.
        where: The name of its file in messages.

    Raises:
        InputError: A line differs from the format that LightGBM writes; the message names the tree and the line.
    """
    if not text.isascii():
        raise _damage_error(where, "holds characters outside ASCII")
    head, _, rest = text.partition("\n\n")
    names, sizes = _check_head(head, f"{where}: head")
    start = 0
    for number, size in enumerate(sizes):
        block = rest[start : start + size]
        _check_tree(block, number=number, size=size, features=len(names), where=f"{where}: tree {number}")
        start += size
    if _TAIL.fullmatch(rest, start) is None:
        raise _damage_error(where, "the part after the trees is not LightGBM's importances and parameters")
    return names


def _damage_error(where: str, what: str) -> InputError:
    """Return the error for a damaged model text: what is wrong, and where in which file."""
    return InputError(f"{where}: {what}", hint="the model text is damaged: run `mltrain verify model REF`")


def _check_head(head: str, where: str) -> tuple[tuple[str, ...], list[int]]:
    """Check the lines before the trees; return the features' names and each tree's length in characters."""
    magic, _, body = head.partition("\n")
    if magic != "tree":
        raise _damage_error(where, f"begins with {show(magic)}, not with 'tree'")
    is_constrained = f"\n{_MONOTONE}=" in body
    keys = (*_HEAD[:_MONOTONE_AT], _MONOTONE, *_HEAD[_MONOTONE_AT:]) if is_constrained else _HEAD
    lines = _Lines.read(body, keys, fixed=_FIXED_HEAD, where=where)
    (last_feature,) = lines.read_ints("max_feature_idx", 1)
    names = tuple(lines.fields["feature_names"].split(" "))
    infos = lines.fields["feature_infos"].split(" ")
    if not 0 <= last_feature < MAX_FEATURES or len(names) != last_feature + 1 or len(set(names)) != len(names):
        raise _damage_error(where, f"feature_names are not {last_feature + 1} different names")
    if not all(FEATURE.fullmatch(name) for name in names):
        raise _damage_error(where, "feature_names are not all names of features")
    if len(infos) != len(names) or not all(_FEATURE_INFO.fullmatch(info) for info in infos):
        raise _damage_error(where, "feature_infos are not one range for each feature")
    if is_constrained and not {-1, 0, 1}.issuperset(lines.read_ints(_MONOTONE, len(names))):
        raise _damage_error(where, f"{_MONOTONE} are not all -1, 0 or 1")
    sizes = lines.read_ints("tree_sizes", min(lines.fields["tree_sizes"].count(" ") + 1, MAX_TREES))
    if min(sizes) < 1:
        raise _damage_error(where, "tree_sizes are not all positive")
    return names, sizes


def _check_tree(block: str, *, number: int, size: int, features: int, where: str) -> None:
    """Check the text of one tree; the head says that it has `size` characters."""
    title, _, body = block.partition("\n")
    if len(block) != size or title != f"Tree={number}" or not body.endswith("\n\n\n"):
        raise _damage_error(where, "is not where tree_sizes says")
    lines = _Lines.read(body[:-3], _TREE, fixed=_FIXED_TREE, where=where)
    (leaves,) = lines.read_ints("num_leaves", 1)
    if not 1 <= leaves <= MAX_LEAVES:
        raise _damage_error(where, f"num_leaves is {leaves}")
    nodes = leaves - 1
    lines.check_floats("leaf_value", leaves)
    # A tree of one leaf has a weight if LightGBM grew it, and none if it was loaded and written again.
    lines.check_floats("leaf_weight", leaves if nodes or lines.fields["leaf_weight"] else 0)
    lines.check_floats("shrinkage", 1)
    for key in ("split_gain", "threshold", "internal_value", "internal_weight"):
        lines.check_floats(key, nodes)
    if min(lines.read_ints("leaf_count", leaves) + lines.read_ints("internal_count", nodes)) < 0:
        raise _damage_error(where, "leaf_count or internal_count is negative")
    if not _DECISIONS.issuperset(lines.read_ints("decision_type", nodes)):
        raise _damage_error(where, "decision_type is not a numerical split")
    split_features = lines.read_ints("split_feature", nodes)
    if nodes and not 0 <= min(split_features) <= max(split_features) < features:
        raise _damage_error(where, f"split_feature is not one of {features} features")
    left, right = lines.read_ints("left_child", nodes), lines.read_ints("right_child", nodes)
    if nodes and not _is_tree(left, right):
        raise _damage_error(where, "left_child and right_child do not make a tree")


def _is_tree(left: list[int], right: list[int]) -> bool:
    """Return whether every node but the root, and every leaf, is the child of exactly one earlier node.

    Args:
        left: Left child of each of n >= 1 inner nodes: the index of a node, or -1 - the index of a leaf.
        right: Right child of each inner node, in the same form; there are n + 1 leaves.
    """
    nodes = len(left)
    forward = all(child < 0 or child > node for side in (left, right) for node, child in enumerate(side))
    return forward and sorted(left + right) == [*range(-nodes - 1, 0), *range(1, nodes)]


@dataclass(frozen=True, slots=True)
class _Lines:
    """The `key=value` lines of the head or of one tree of a model text; `where` names them in messages."""

    where: str
    fields: dict[str, str]

    @classmethod
    def read(cls, body: str, keys: tuple[str, ...], *, fixed: dict[str, str], where: str) -> _Lines:
        """Read lines that must have exactly these keys in this order, and the values that `fixed` gives for some."""
        lines = body.split("\n")
        if len(lines) != len(keys):
            raise _damage_error(where, f"has {len(lines)} lines, not {len(keys)}")
        fields = {}
        for line, key in zip(lines, keys, strict=True):
            found, equals, value = line.partition("=")
            if found != key or not equals:
                raise _damage_error(where, f"has {show(found)} instead of {key}")
            if value != fixed.get(key, value):
                raise _damage_error(where, f"{key} is {show(value)}, not {show(fixed[key])}")
            fields[key] = value
        return cls(where, fields)

    def read_ints(self, key: str, count: int) -> list[int]:
        """Return the integers in the line of a key: exactly `count`, each of 32 bits."""
        numbers = [int(number) for number in self._split_numbers(key, count, _INTS)]
        if numbers and max(map(abs, numbers)) > _MAX_INT:
            raise _damage_error(self.where, f"{key} does not fit 32 bits")
        return numbers

    def check_floats(self, key: str, count: int) -> None:
        """Check that the line of a key holds exactly `count` finite numbers."""
        if not all(map(math.isfinite, map(float, self._split_numbers(key, count, _FLOATS)))):
            raise _damage_error(self.where, f"{key} is not finite")

    def _split_numbers(self, key: str, count: int, pattern: re.Pattern[str]) -> list[str]:
        """Return the numbers in the line of a key as text: exactly `count`, all together matching the pattern."""
        value = self.fields[key]
        numbers = value.split(" ") if value else []
        if len(numbers) != count or (value and pattern.fullmatch(value) is None):
            raise _damage_error(self.where, f"{key} is not {count} numbers")
        return numbers
