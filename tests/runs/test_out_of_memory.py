"""No more memory: recognised whoever says it, told in one line, exit code 1."""

import errno

import numpy as np
import pytest
import torch

from imagedream.runs.out_of_memory import is_out_of_memory
from imagedream.runs.user_errors import is_user_error, one_line, report_error


def said_by_torch():
    try:
        torch.empty(2**55)
    except RuntimeError as error:
        return error


def said_by_numpy():
    try:
        np.empty(2**55)
    except MemoryError as error:
        return error


def raised_from(cause):
    error = ValueError("the guidance failed")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    "error",
    [
        said_by_torch(),
        said_by_numpy(),
        MemoryError(),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has ..."),
        RuntimeError("CUDA error: out of memory\nCompile with `TORCH_USE_CUDA_DSA`"),
        RuntimeError("/tiny-cuda-nn/gpu_memory.h:584 cuMemCreate(...) failed: CUDA_ERROR_OUT_OF_MEMORY"),
        RuntimeError("Could not allocate memory: cudaMalloc(&rawptr, n_bytes) failed: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("Storage size calculation overflowed with sizes=[4611686018427387904]"),
        RuntimeError("std::bad_alloc"),
        raised_from(MemoryError()),
    ],
)
def test_recognised_and_told(error, capsys):
    assert is_out_of_memory(error)
    assert is_user_error(error)
    assert report_error(error, "imagedream", verbose=False) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "out of memory: " in said


def test_other_errors_are_not():
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not is_out_of_memory(ValueError("must be smaller, or it runs out of memory"))
    assert report_error(ValueError("no"), "imagedream", verbose=False) == 2
    assert one_line(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. x")) == (
        "out of memory: tried to allocate 2.00 gib"
    )
