"""Finished records, sent to where people look at runs."""

from nowag_exp.tracking.base import NoTracking, Tracker
from nowag_exp.tracking.outbox import deliver, is_sent, send_saved
from nowag_exp.tracking.tensorboard import TensorBoardTracking
from nowag_exp.tracking.wandb import WandbTracking

__all__ = ["NoTracking", "TensorBoardTracking", "Tracker", "WandbTracking", "deliver", "is_sent", "send_saved"]
