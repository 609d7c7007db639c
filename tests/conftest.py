"""Tests use one torch thread each: tiny operations on a busy machine are many times slower with several."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("COLUMNS", "200")  # of tables printed
os.environ.setdefault("FROMNOISE_DEBUG", "1")  # a bug met through the command line is raised, not reported

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)
