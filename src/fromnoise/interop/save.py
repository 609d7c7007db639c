"""Folders in the layout of diffusers, written: what ``DiffusionPipeline.from_pretrained`` opens."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from fromnoise.files import disk_errors, replacing, write_text
from fromnoise.folders import CONFIGS, INDEX, STEMS
from fromnoise.interop.schedules import PREDICTIONS
from fromnoise.process import DDPM, VP, Flow, GaussianPath, Prediction, ScaledLinear, Shifted, ZeroTerminal
from fromnoise.types import UserError

VERSION = "0.42.0"  # of diffusers, whose layout this is
LEVELS = 1000  # of a scheduler for a continuous path, as all networks there are told timesteps up to 1,000


def write_pipeline(folder: Path, kind: str, parts: Mapping[str, tuple[str, str]],
                   settings: Mapping[str, Any] | None = None) -> None:
    """model_index.json of a pipeline of class ``kind``; parts: (library, class) of each folder beside it."""
    index = {"_class_name": kind, "_diffusers_version": VERSION, **(settings or {})}
    _write_json(folder / INDEX, index | {name: list(part) for name, part in parts.items()})


def write_model(folder: Path, kind: str, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """config.json and weights of a model.  Each file is whole or not there."""
    _write_json(folder / CONFIGS[0], {"_class_name": kind, "_diffusers_version": VERSION, **config})
    path = folder / f"{STEMS[0]}.safetensors"
    with disk_errors(path), replacing(path) as temporary:
        save_file(apart(tensors), temporary, {"format": "pt"})


def apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors on the CPU, each with memory of its own: what diffusers holds several times is written as often."""
    found, seen = {}, set()
    for name, tensor in tensors.items():
        value = tensor.detach().cpu().contiguous()
        memory = value.untyped_storage().data_ptr()
        found[name] = value.clone() if memory in seen else value
        seen.add(memory)
    return found


def write_schedule(folder: Path, path: GaussianPath, prediction: Prediction) -> str:
    """scheduler_config.json for a path and a prediction; the class it is of.  UserError where diffusers has none."""
    kind, config = scheduler_of(path, prediction)
    _write_json(folder / CONFIGS[1], {"_class_name": kind, "_diffusers_version": VERSION, **config})
    return kind


def scheduler_of(path: GaussianPath, prediction: Prediction) -> tuple[str, dict[str, Any]]:
    """(class, config) of the scheduler of diffusers that samples such a model, without randomness and step by step.

    UserError for a path or prediction that diffusers has no scheduler for.
    """
    shift, inner = (path.by, path.base) if isinstance(path, Shifted) else (1.0, path)
    if isinstance(inner, Flow) and prediction == "velocity":
        return "FlowMatchEulerDiscreteScheduler", {"num_train_timesteps": 1000, "shift": shift}
    names = {ours: theirs for theirs, ours in PREDICTIONS.items() if ours != "velocity"}
    table = inner.base if isinstance(inner, ZeroTerminal) else inner
    if isinstance(table, DDPM | ScaledLinear | VP) and shift == 1 and prediction in names:
        return "DDIMScheduler", {
            **levels_of(table), "prediction_type": names[prediction],
            "rescale_betas_zero_snr": isinstance(inner, ZeroTerminal), "timestep_spacing": "trailing",
            "clip_sample": False, "set_alpha_to_one": True, "steps_offset": 0}
    raise UserError(f"diffusers has no scheduler for the path {type(path).__name__.lower()} with a network that "
                    f"predicts {prediction}: it has them for the flow path with velocity, and for tables of levels "
                    "and the path vp with eps, v or x0.")


def levels_of(path: DDPM | ScaledLinear | VP) -> dict[str, Any]:
    """The table of levels of a scheduler.

    That of a continuous path has the path's own alpha at every level (i + 1) / N: beta_i = 1 - alpha_i^2 / alpha_i-1^2.
    """
    if isinstance(path, VP):
        integral = path.integral(torch.linspace(0, 1, LEVELS + 1, dtype=torch.float64))  # alpha^2 = exp(-integral)
        return {"num_train_timesteps": LEVELS, "trained_betas": (-torch.expm1(-integral.diff())).tolist()}
    return {"num_train_timesteps": path.levels, "beta_start": path.beta_start, "beta_end": path.beta_end,
            "beta_schedule": "linear" if isinstance(path, DDPM) else "scaled_linear"}


def _write_json(path: Path, data: Mapping[str, Any]) -> None:
    write_text(path, json.dumps(data, indent=2, ensure_ascii=False) + "\n")
