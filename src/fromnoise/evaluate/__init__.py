"""Measuring models."""

from fromnoise.evaluate.evaluate import evaluate
from fromnoise.evaluate.report import Report, Row

__all__ = ["Report", "Row", "evaluate"]
