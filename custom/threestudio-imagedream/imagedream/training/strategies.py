"""One device, several, or several machines: who holds which weights.

`ddp` keeps all weights on every device. `fsdp` spreads weights, gradients and the optimiser's state over them (FSDP2,
`torch.distributed.fsdp.fully_shard`) and collects a block of the network only while it computes. What is written is the
same either way, so that a model folder or a checkpoint tells nothing of the machines it was made on.
"""

from typing import Literal

import pytorch_lightning as pl
import torch
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.resnet import ResnetBlock2D
from pytorch_lightning.strategies import DDPStrategy, ModelParallelStrategy, Strategy
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

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
        return ModelParallelStrategy(
            data_parallel_size=processes, tensor_parallel_size=1, save_distributed_checkpoint=False
        )
    return DDPStrategy() if processes > 1 or name == "ddp" else "auto"


def shard(model: nn.Module, mesh: DeviceMesh) -> None:
    """Spread a network's weights over the processes of a mesh; a second call changes nothing."""
    if any(isinstance(parameter, DTensor) for parameter in model.parameters()):
        return
    for block in [module for module in model.modules() if isinstance(module, UNITS)]:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor of which this process may hold a shard; then every process must ask."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def like(tensor: Tensor, other: Tensor) -> Tensor:
    """A whole tensor, or of it the shard that `other` is."""
    if isinstance(other, DTensor):
        return distribute_tensor(tensor, other.device_mesh, other.placements)
    return tensor


def whole_model(model: nn.Module) -> nn.Module:
    """The model itself, or a copy on the CPU that holds all of a model's shards; then every process must ask."""
    if not any(isinstance(parameter, DTensor) for parameter in model.parameters()):
        return model
    state = {name: whole(tensor).cpu() for name, tensor in model.state_dict().items()}
    with torch.device("meta"):
        copy = type(model).from_config(model.config)
    copy.load_state_dict(state, assign=True)
    return copy.eval().requires_grad_(False)


def any_process(trainer: pl.Trainer, *flags: bool) -> list[bool]:
    """For each flag whether it is set in any process; every process must ask."""
    if trainer.world_size == 1:
        return list(flags)
    tensor = torch.tensor(flags, dtype=torch.int32, device=trainer.strategy.root_device)
    return trainer.strategy.reduce(tensor, reduce_op="max").bool().tolist()
