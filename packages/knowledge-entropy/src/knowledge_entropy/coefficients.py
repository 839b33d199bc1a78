"""Mean |coefficient| of every unit and layer, in one pass over the base model, with nothing stored.

A hook before each layer's output map adds |its input| to float64 sums on the device and lets it go. There is
no LM head, no cache, and the last output map is not computed at all, so the pass costs a forward of the base
model and a read of each layer's activation; memory is the weights and one layer's activations. Sums are kept
for blocks of rows (32 * layers * width * 8 bytes), which gives standard errors for free.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy import ndarray
from torch import Tensor, nn
from transformers import PreTrainedModel

from knowledge_entropy.families import find_output_maps

CPU_PIECE, CUDA_PIECE = 1 << 20, 1 << 28  # bytes of |activation| at a time: what a core's cache holds
Weighting = str  # "token" or "sequence"


@dataclass(frozen=True)
class Coefficients:
    """Sums of |coefficient| by block of rows, and what to divide them by."""

    block_sums: Float[ndarray, "block layer unit"]
    block_weights: Float[ndarray, " block"]

    @property
    def mean_abs(self) -> Float[ndarray, "layer unit"]:
        """The mean |coefficient| of every unit."""
        mean: ndarray = self.block_sums.sum(0) / self.block_weights.sum()
        return mean


class Finished(Exception):  # noqa: N818 - not an error
    """Raised by the last hook: nothing behind it is needed."""


class CoefficientSums:
    """The running sums of a pass; use `watching` around the forwards."""

    def __init__(self, model: PreTrainedModel, *, num_blocks: int) -> None:
        """Find the output maps; sums are made on the model's device."""
        self.maps = find_output_maps(model)
        self._modules = [model.get_submodule(one.name) for one in self.maps]
        shape = (num_blocks, len(self.maps), self.maps[0].width)
        self.sums = torch.zeros(shape, dtype=torch.float64, device=model.device)
        self._weights: Tensor | None = None
        self._block = 0
        self._fired = [0] * len(self.maps)

    @contextmanager
    def watching(self, *, stop_early: bool) -> Iterator[None]:
        """Hooks on every output map; with `stop_early` the last one raises `Finished`, ending the forward."""
        last = len(self._modules) - 1
        handles = [
            module.register_forward_pre_hook(self._hook(layer, stop_early and layer == last))
            for layer, module in enumerate(self._modules)
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _hook(self, layer: int, stop: bool) -> Callable[[nn.Module, Any], None]:
        def add(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            # returns None: anything else would replace the module's input
            assert self._weights is not None
            activation = inputs[0].reshape(-1, inputs[0].shape[-1])
            self.sums[self._block, layer] += weighted_abs_sum(activation, self._weights)
            self._fired[layer] += 1
            if stop:
                raise Finished

        return add

    def start_batch(self, weights: Float[Tensor, "row seq"], block: int) -> None:
        """Say what each token of the next forward counts, and for which block."""
        self._weights, self._block = weights.reshape(-1), block
        self._fired = [0] * len(self.maps)

    def finish_batch(self) -> None:
        """Check that every layer was seen exactly once.

        Raises:
            ValueError: a fused kernel goes around the modules, or a layer is used twice.
        """
        wrong = [layer for layer, fired in enumerate(self._fired) if fired != 1]
        if wrong:
            raise ValueError(
                f"{self.maps[wrong[0]].name} ran {self._fired[wrong[0]]} times in one forward pass, expected "
                "once: a fused kernel or a shared layer hides the coefficients"
            )


def weighted_abs_sum(activation: Tensor, weights: Tensor) -> Float[Tensor, " unit"]:
    """sum_t weights[t] * |activation[t]| in float64 over float32 pieces that stay in the cache."""
    budget = CPU_PIECE if activation.device.type == "cpu" else CUDA_PIECE
    rows = max(1, budget // (4 * activation.shape[1]))
    total = torch.zeros(activation.shape[1], dtype=torch.float64, device=activation.device)
    for part, weight in zip(torch.split(activation, rows), torch.split(weights, rows), strict=True):
        total += weight @ part.abs().to(weight.dtype)
    return total


def token_weights(mask: Bool[Tensor, "row seq"], weighting: Weighting) -> Float[Tensor, "row seq"]:
    """What every token counts: 1, or 1 / (its row's length); padding 0."""
    weights = mask.to(torch.float32)
    if weighting == "sequence":
        weights = weights / weights.sum(1, keepdim=True)
    return weights


def run_base_model(
    model: PreTrainedModel,
    input_ids: Int[Tensor, "row seq"],
    mask: Bool[Tensor, "row seq"] | None,
) -> Float[Tensor, "row seq d_model"] | None:
    """The last hidden states, or None where a hook said that is enough."""
    attention_mask = None if mask is None or bool(mask.all()) else mask.long()
    with torch.inference_mode(), suppress(Finished):
        output = model.base_model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False)
        hidden: Tensor = output.last_hidden_state
        return hidden
    return None


def as_numpy(tensor: Tensor) -> ndarray:
    """A copy on the CPU, float64."""
    return tensor.detach().to("cpu", torch.float64).numpy().astype(np.float64)
