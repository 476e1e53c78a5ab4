"""What a computation needs, counted from its tensors instead of asked of a device: peak bytes and matrix operations.

Both counts also work on fake tensors, so the full-size model can be planned for on any machine, without its gigabytes:
shapes and precisions flow through the real code, numbers do not.
"""

import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from imagedream.workshop.training.architectures import fill


class MemoryUse(NamedTuple):
    """What a call needed besides what was there before it."""

    peak_bytes: int
    """Most bytes of tensors that were alive at once; a device's allocator and its kernels' workspaces come on top."""
    kept_bytes: int
    """Bytes still alive at the end: what the call returned, and what it saved for a backward pass."""


class _LiveBytes(TorchDispatchMode):
    """Counts the bytes of storages made inside, for as long as they live."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        output = func(*args, **(kwargs or {}))
        given = {storage._cdata for storage in _storages((args, kwargs))}
        for storage in _storages(output):
            if storage._cdata not in self._known | given:
                self._known.add(storage._cdata)
                self.now += storage.nbytes()
                self.peak = max(self.peak, self.now)
                weakref.finalize(storage, self._forget, storage._cdata, storage.nbytes())
        return output

    def _forget(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size


def _storages(tree: Any) -> list[torch.UntypedStorage]:
    return [leaf.untyped_storage() for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


def memory_use(function: Callable[[], Any]) -> MemoryUse:
    """Run `function` and count; gradients are recorded or not as the caller has it."""
    with _LiveBytes() as live:
        result = function()
        kept = live.now
    del result
    return MemoryUse(live.peak, kept)


def operations(function: Callable[[], Any]) -> int:
    """Floating point operations of a call's matrix products, convolutions and attention; a multiply-add is two."""
    # apart from the memory in use, because this count keeps tensors alive
    with FlopCounterMode(display=False) as count:
        function()
    return count.get_total_flops()


@contextmanager
def fake_tensors(models: Iterable[nn.Module]) -> Iterator[None]:
    """Inside, the models' and all new tensors have everything but numbers."""
    with FakeTensorMode(allow_non_fake_inputs=True):  # such as the mask of the captions' encoder
        for model in models:
            fill(model, lambda name, parameter: torch.empty(parameter.shape, dtype=parameter.dtype), "cpu")
        yield
