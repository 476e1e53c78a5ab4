"""One device, several, or several machines: who holds which weights.

`ddp` keeps all weights on every device. `fsdp` spreads weights, gradients and the optimiser's state over them (FSDP2,
`torch.distributed.fsdp.fully_shard`) and collects a block of the network only while it computes. What is written is the
same either way, so that a model folder or a checkpoint tells nothing of the machines it was made on.
"""

from pathlib import Path
from typing import Any, Literal

import torch
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.resnet import ResnetBlock2D
from pytorch_lightning.strategies import DDPStrategy, ModelParallelStrategy, Strategy
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.utils._pytree import tree_map

STRATEGIES = ("auto", "ddp", "fsdp")

UNITS = (ResnetBlock2D, BasicTransformerBlock)
"""Blocks of the network whose weights are collected and given back together."""


def make_strategy(name: str, processes: int) -> Strategy | Literal["auto"]:
    """Lightning's strategy.

    Args:
        name: `auto` (one device, or ddp), `ddp` or `fsdp`.
        processes: devices of all machines together.
    """
    if name == "fsdp":
        return Sharded(processes)
    return DDPStrategy() if processes > 1 or name == "ddp" else "auto"


class Sharded(ModelParallelStrategy):
    """FSDP2 whose checkpoints are those of a single device, optimiser included.

    (Lightning's own numbers the optimiser's state by the model's parameters instead of by the optimiser's groups.)
    """

    def __init__(self, processes: int) -> None:
        super().__init__(
            data_parallel_size=processes, tensor_parallel_size=1, save_distributed_checkpoint=False
        )

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """All weights in the first process, nothing in the others; every process must ask."""
        return collect(self.model.state_dict())

    def optimizer_state(self, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        """Likewise of the optimiser."""
        return collect(getattr(optimizer, "_optimizer", optimizer).state_dict())

    def load_checkpoint(
        self, checkpoint_path: str | Path, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Each process reads the file and takes its shards."""
        checkpoint = torch.load(checkpoint_path, map_location="cpu", mmap=True, weights_only=True)
        own = self.model.state_dict()
        state = {name: like(tensor, own[name]) for name, tensor in checkpoint["state_dict"].items()}
        self.model.load_state_dict(state)
        for optimizer, saved in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
            moments = {
                number: {
                    name: like(value, parameters[number]) if value.ndim else value
                    for name, value in values.items()
                }
                for number, values in saved["state"].items()
            }
            optimizer.load_state_dict({**saved, "state": moments})
        return checkpoint


def shard(model: nn.Module, mesh: DeviceMesh) -> None:
    """Spread a network's weights over the processes of a mesh; a second call changes nothing."""
    if any(isinstance(parameter, DTensor) for parameter in model.parameters()):
        return
    nn.Module.to(model, memory_format=torch.contiguous_format)  # the only one that can be cut
    for block in [module for module in model.modules() if isinstance(module, UNITS)]:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)


def reshard(model: nn.Module) -> None:
    """Give back what was collected for the last computation: without a backward pass some of it stays."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def collect(tree: Any) -> Any:
    """Nested dicts and lists of tensors, with all of those that are spread over processes; every process must ask.

    What had to be collected comes to the CPU of the first process; the others get None in its place.
    """

    def whole(leaf: Any) -> Any:
        if not isinstance(leaf, DTensor):
            return leaf
        tensor = leaf.full_tensor()
        return tensor.cpu() if leaf.device_mesh.get_rank() == 0 else None

    return tree_map(whole, tree)


def like(tensor: Tensor, other: Tensor) -> Tensor:
    """A whole tensor, or of it the shard that `other` is; on the device of `other`."""
    if isinstance(other, DTensor):
        return distribute_tensor(tensor.to(other.device), other.device_mesh, other.placements)
    return tensor.to(other.device)


def whole_model(model: nn.Module) -> nn.Module | None:
    """The model itself; of one that is spread over processes, a copy on the CPU in the first and None in the others."""
    if not any(isinstance(parameter, DTensor) for parameter in model.parameters()):
        return model
    state = collect(model.state_dict())
    if any(tensor is None for tensor in state.values()):
        return None
    with torch.device("meta"):
        copy = type(model).from_config(model.config)
    copy.load_state_dict(state, assign=True)
    return copy.eval().requires_grad_(False)
