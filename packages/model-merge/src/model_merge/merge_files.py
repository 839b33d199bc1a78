"""Files that say what to merge: mergekit's, and expressions."""

import os
from pathlib import Path
from typing import Any

import yaml

from model_merge.algebra import plan_expression
from model_merge.averaging import Compat
from model_merge.expression import Expression, Leaf, Linear, Nonlinear, from_json
from model_merge.header import FormatError
from model_merge.mergekit import plan_from_yaml
from model_merge.plan import MergePlan


def plan_from_file(
    path: Path, root: Path, *, seed: int | None = None, compat: Compat | None = None
) -> MergePlan:
    """The plan of a mergekit file, or of a file that holds an expression; relative paths begin at `root`.

    Raises:
        FileNotFoundError: there is no such file, or no such checkpoint.
        ValueError: listing what is wrong with the file, or with the checkpoints.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no merge file {str(path)!r}")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise FormatError(f"{str(path)!r} is no YAML: {' '.join(str(error).split())}") from error
    if not _is_expression(content):
        return plan_from_yaml(path, root, seed=seed, compat=compat)
    expression = _below(root, from_json(content))
    return plan_expression(expression, compat=compat, seed=0 if seed is None else seed)


def _is_expression(content: Any) -> bool:
    return isinstance(content, dict) and any(key in content for key in ("sum", "method", "of"))


def _below(root: Path, expression: Expression) -> Expression:
    """The expression with its relative local paths below `root`."""
    if isinstance(expression, Leaf):
        local = root / expression.reference
        return Leaf(os.path.normpath(local)) if local.exists() else expression
    if isinstance(expression, Linear):
        terms = tuple((weight, _below(root, operand)) for weight, operand in expression.terms)
        return Linear(terms, expression.normalise)
    base = None if expression.base is None else _below(root, expression.base)
    operands = tuple(_below(root, operand) for operand in expression.operands)
    return Nonlinear(expression.method, operands, base, expression.parameters)
