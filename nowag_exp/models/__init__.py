"""Where weights come from, and the blocks and input sites of a model."""

from nowag_exp.models.activations import Activations, Placement
from nowag_exp.models.architecture import Architecture
from nowag_exp.models.batch import Batch
from nowag_exp.models.blocks import CausalLM
from nowag_exp.models.checkpoint import Checkpoint, damage
from nowag_exp.models.packaged import PackagedModel
from nowag_exp.models.sites import SITES, Site, linear_shapes
from nowag_exp.models.sources import HubModel, LocalModel, ModelSource
from nowag_exp.models.tiny import TinyModel

__all__ = [
    "SITES",
    "Activations",
    "Architecture",
    "Batch",
    "CausalLM",
    "Checkpoint",
    "HubModel",
    "LocalModel",
    "ModelSource",
    "PackagedModel",
    "Placement",
    "Site",
    "TinyModel",
    "damage",
    "linear_shapes",
]
