"""Recipes side by side: the same data, parameters and operations, several seeds each."""

from fromnoise.compare.match import operations, resized, same_operations, same_parameters
from fromnoise.compare.outcome import Comparison, Outcome, Value, gather
from fromnoise.compare.page import write_comparison
from fromnoise.compare.runs import Job, run_jobs

__all__ = ["Comparison", "Job", "Outcome", "Value", "gather", "operations", "resized", "run_jobs", "same_operations",
           "same_parameters", "write_comparison"]
