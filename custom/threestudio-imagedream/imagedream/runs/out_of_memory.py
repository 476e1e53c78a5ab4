"""How devices, drivers, allocators, libraries and Python say that there is no more memory. Imports no torch."""

import errno
import re

_OUT_OF_MEMORY = re.compile(
    r"out of memory|out_of_memory|alloc_failed|cudaErrorMemoryAllocation|bad_alloc|not enough memory"
    r"|insufficient memory|can't allocate memory|could not allocate memory|storage size calculation overflowed",
    re.IGNORECASE,
)
"""Of torch's allocators, the CUDA driver (CUDA_ERROR_OUT_OF_MEMORY), tiny-cuda-nn, cuBLAS and its kin, OpenCV."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error, or the one it was raised from, says that there is no more memory."""
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return True
    library = isinstance(error, RuntimeError) or type(error).__module__.split(".")[0] == "cv2"
    if library and _OUT_OF_MEMORY.search(str(error)):
        return True
    return error.__cause__ is not None and is_out_of_memory(error.__cause__)


def requested(error: BaseException) -> str:
    """The part of an allocator's message that says how much was asked for, or its first line."""
    found = re.search(r"tried to allocate [\d.]+ \w+", str(error), re.IGNORECASE)
    return found[0].lower() if found else (str(error).strip().splitlines() or [type(error).__name__])[0]
