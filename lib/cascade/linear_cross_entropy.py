"""The chunked head loss lies in ``lib.base.head``; this name stays until its readers have moved."""

from lib.base.head import CHUNK, head_statistics, summed_loss

__all__ = ["CHUNK", "head_statistics", "summed_loss"]
