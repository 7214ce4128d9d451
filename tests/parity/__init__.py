"""The parity gate: ours against other implementations, of imported weights above all. See run.py."""

import torch
import transformers

# torchvision, which timm imports, goes with one build of torch. With another, the two operators that it describes at
# import are missing and are declared here; nothing that is compared uses them.
try:
    import torchvision  # noqa: F401
except RuntimeError:
    _OPERATORS = torch.library.Library("torchvision", "DEF")
    for _name in ("nms", "qnms"):
        _OPERATORS.define(f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

transformers.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()
