"""The memory of a version that was unloaded, given back to the system.

Behind lifecycle.py in the server. What TensorFlow frees, the C library keeps for the next allocation. (TensorFlow's own
pool, which is on where the processor is x86, would keep more: model_server.py turns it off by
TF_ONEDNN_USE_SYSTEM_ALLOCATOR.)
"""

import ctypes


def give_back() -> bool:
    """Returns the C library's free pages to the system; False where it is not glibc, which alone can be told to."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is None:
        return False
    trim(0)
    return True
