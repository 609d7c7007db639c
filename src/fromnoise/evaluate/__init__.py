"""Measuring models."""

from fromnoise.evaluate.defects import DEFECTS
from fromnoise.evaluate.evaluate import evaluate
from fromnoise.evaluate.metrics import METRICS, Metric
from fromnoise.evaluate.panel import Panel, PanelRow, panel
from fromnoise.evaluate.points import Points
from fromnoise.evaluate.report import Report, Row

__all__ = ["DEFECTS", "METRICS", "Metric", "Panel", "PanelRow", "Points", "Report", "Row", "evaluate", "panel"]
