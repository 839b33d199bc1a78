"""Which layer a tensor belongs to, from its name: `model.layers.3.mlp.down_proj.weight` is of layer 3.

Any architecture whose layers are called layers, layer, h, blocks or block and numbered.
"""

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

LAYER = re.compile(r"(?P<stack>(?:.*?\.)?(?:layers|layer|h|blocks|block))\.(?P<number>\d+)\.(?P<rest>.+)")
EMBEDDING = re.compile(r"embed|wte|wpe")

CONFIG_KEYS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
"""What config.json calls the number of layers."""


@dataclass(frozen=True)
class Place:
    """A tensor of a layer."""

    stack: str
    layer: int
    rest: str

    def moved_to(self, layer: int) -> str:
        """The name of the same tensor of another layer."""
        return f"{self.stack}.{layer}.{self.rest}"


def place_of(name: str) -> Place | None:
    """Where in a stack of layers a tensor is; None outside of the layers.

    >>> place_of("model.layers.3.mlp.down_proj.weight")
    Place(stack='model.layers', layer=3, rest='mlp.down_proj.weight')
    >>> place_of("lm_head.weight")
    """
    match = LAYER.fullmatch(name)  # the outermost stack: a layer may hold numbered parts of its own
    return None if match is None else Place(match["stack"], int(match["number"]), match["rest"])


def count_layers(names: Iterable[str]) -> dict[str, int]:
    """Layers of every stack: the highest number and one.

    >>> count_layers(["encoder.block.0.a", "encoder.block.1.a", "decoder.block.0.a", "norm.weight"])
    {'encoder.block': 2, 'decoder.block': 1}
    """
    counts: defaultdict[str, int] = defaultdict(int)
    for name in names:
        if place := place_of(name):
            counts[place.stack] = max(counts[place.stack], place.layer + 1)
    return dict(counts)


def comes_before(name: str) -> bool:
    """Whether a tensor outside of the layers is an embedding, which comes before them."""
    return bool(EMBEDDING.search(name))
