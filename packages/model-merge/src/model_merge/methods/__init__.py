"""The merge methods, with mergekit's names, parameters and defaults.

>>> sorted(METHODS)[:4]
['breadcrumbs', 'breadcrumbs_ties', 'dare_linear', 'dare_ties']
"""

from model_merge.methods.angles import KARCHER, MODEL_STOCK, MULTISLERP, NUSLERP, SLERP
from model_merge.methods.linear import LINEAR, PASSTHROUGH, TASK_ARITHMETIC
from model_merge.methods.sce import SCE
from model_merge.methods.sparse import BREADCRUMBS, BREADCRUMBS_TIES, DARE_LINEAR, DARE_TIES, TIES
from model_merge.methods.spec import Call, Method, Parameter

__all__ = ["METHODS", "Call", "Method", "Parameter"]

METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        LINEAR,
        SLERP,
        NUSLERP,
        MULTISLERP,
        KARCHER,
        TASK_ARITHMETIC,
        TIES,
        DARE_LINEAR,
        DARE_TIES,
        BREADCRUMBS,
        BREADCRUMBS_TIES,
        SCE,
        MODEL_STOCK,
        PASSTHROUGH,
    )
}
