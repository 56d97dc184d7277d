"""Where the sites of a model are compressed: in this process, on all its GPUs, or on a Ray cluster."""

from typing import Literal

import torch

from nowag_exp.engines.base import Engine
from nowag_exp.engines.local import Local
from nowag_exp.engines.ray import Ray
from nowag_exp.engines.site import SiteJob, SiteResult, compress_site, count_not_finite

__all__ = ["Engine", "Local", "Ray", "SiteJob", "SiteResult", "build_engine", "compress_site", "count_not_finite"]


def build_engine(name: Literal["local", "ray"], device: torch.device) -> Engine:
    """The engine of this name for a model on a device: if that is a GPU, all GPUs take part."""
    if name == "ray":
        return Ray(use_gpus=device.type == "cuda")
    n_gpus = torch.cuda.device_count() if device.type == "cuda" else 0
    return Local([torch.device("cuda", number) for number in range(n_gpus)] if n_gpus > 1 else [device])
