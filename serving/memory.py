"""The memory of a version that was unloaded, given back to the system.

Behind lifecycle.py in the server. What TensorFlow frees, the C library keeps for the next allocation. (TensorFlow's own
pool, which is on where the processor is x86, would keep more: model_server.py turns it off by
TF_ONEDNN_USE_SYSTEM_ALLOCATOR.)
"""

import ctypes
import gc


def give_back() -> bool:
    """Returns what nobody uses any more to the system; False where the C library is not glibc, which can be told to.

    A version's graph refers to itself: until Python's collector comes by, which may be several versions later, it
    holds what TensorFlow keeps for it.
    """
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is None:
        return False
    trim(0)
    return True
