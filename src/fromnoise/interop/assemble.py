"""A module built without memory for its weights, and given those of a file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from fromnoise.types import UserError

M = TypeVar("M", bound=nn.Module)


class Skeleton(TorchFunctionMode):
    """Within, ``torch.empty`` makes tensors that take no memory and whose initialisation costs nothing.

    Layers reserve their weights with it.  What a module computes for itself (frequencies, position tables) is real,
    which it would not be on the meta device as a whole: such buffers are in no file.
    """

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if func is torch.empty and kwargs.get("device") is None:
            kwargs["device"] = "meta"
        return func(*args, **kwargs)


def assemble(make: Callable[[], M], tensors: Mapping[str, Tensor], where: str) -> M:
    """``make()`` with ``tensors`` as its weights, each the tensor itself and no copy.

    where: the file or folder they are from.  UserError naming the tensors that are missing, unknown or of another
    shape.
    """
    with Skeleton():
        module = make()
    faults = list(differences(module.state_dict(), tensors))
    if faults:
        raise UserError(f"{where} does not fit its config: {'; '.join(faults)}.")
    module.load_state_dict(tensors, assign=True)
    empty = [name for name, buffer in module.named_buffers() if buffer.is_meta]
    if empty:
        raise ValueError(f"{type(module).__name__} leaves {empty[0]} to a file that does not hold it")
    return module


def differences(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]):
    """A sentence part for each way in which two sets of tensors differ, naming the first such tensor."""
    missing = [key for key in expected if key not in found]
    unknown = [key for key in found if key not in expected]
    wrong = [key for key in expected if key in found and expected[key].shape != found[key].shape]
    if missing:
        yield f"{count(missing)} missing, the first {missing[0]} {list(expected[missing[0]].shape)}"
    if unknown:
        yield f"{count(unknown)} not of this model, the first {unknown[0]} {list(found[unknown[0]].shape)}"
    if wrong:
        key = wrong[0]
        yield (f"{count(wrong)} of another shape, the first {key}, which is {list(found[key].shape)} and should be "
               f"{list(expected[key].shape)}")


def count(keys: list[str]) -> str:
    return f"{len(keys)} {'tensor is' if len(keys) == 1 else 'tensors are'}"
