"""What a backward pass needs of a loaded ComfyUI model: whole weights, ordinary tensors, and enough memory."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, TypeGuard, TypeVar

import comfy.model_management
import comfy.utils
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

from ....errors import InputError, NoGradientError
from ....model import Memory
from ..notices import log
from ..other_packs import EVERYWHERE, named
from ..protocols import Cond, Conditioning, ControlNet, Network, Options, Patcher, StreamedPatcher

T = TypeVar("T")
INFERENCE = "nference tensor"
"""What PyTorch's message says where autograd meets a tensor of inference mode."""


def streams_weights(model: Patcher) -> TypeGuard[StreamedPatcher]:
    """Whether a MODEL is under dynamic offloading, where this ComfyUI knows it."""
    return hasattr(model, "is_dynamic") and bool(model.is_dynamic())


def resident(model: Patcher) -> Patcher:
    """A clone of the MODEL whose weights can be differentiated through once they are loaded as a whole.

    Dynamic offloading streams weights into buffers that autograd must not keep, so it is left for a plain clone. Where
    this ComfyUI can, the MODEL keeps that clone's weights, and the checkpoint is read once more, not at every run.
    """
    if not streams_weights(model):
        return model.clone()
    if getattr(model, "cached_patcher_init", None) is None:
        raise InputError(
            "this MODEL cannot be loaded as a whole, which optimizing needs; start ComfyUI with --disable-dynamic-vram"
        )
    if hasattr(model, "get_non_dynamic_delegate"):
        return model.get_non_dynamic_delegate()
    return model.clone(disable_dynamic=True)


def with_constant_controls(conds: tuple[Conditioning, ...]) -> None:
    """Put a copy of every ControlNet under dynamic offloading in its place, to whose residuals a backward pass does not
    look: they are what they were, and constants.

    A ControlNet cannot be made ``resident``. The optimized text reaches the network itself, and the ControlNet besides;
    the second way is left out of the gradient, not of the predictions and their loss.
    """
    made: dict[int, ControlNet] = {}
    for conditioning in conds:
        for _, extras in conditioning:
            control = extras.get("control")
            if control is not None and any(map(streams_weights, control.get_models())):
                if id(control) not in made:
                    # both conditionings keep one ControlNet, as ComfyUI runs them in one call then
                    twin = made[id(control)] = control.copy()
                    twin.get_control = torch.no_grad()(twin.get_control)
                extras["control"] = made[id(control)]


def is_constant(model: Patcher, conds: dict[str, list[Cond]]) -> bool:
    """Whether a model is a part of a ControlNet under dynamic offloading, which no backward pass looks into."""
    controls = [entry.get("control") for entries in conds.values() for entry in entries]
    return streams_weights(model) and any(model in control.get_models() for control in controls if control is not None)


def check_streams_no_weights(extra: Patcher) -> None:
    """Raise InputError for another model under dynamic offloading, which cannot be made ``resident``."""
    if streams_weights(extra):
        raise InputError(
            "the weights of a model beside this MODEL are streamed to the device, which optimizing cannot follow; "
            "start ComfyUI with --disable-dynamic-vram"
        )


def forget_streams() -> None:
    """Drop ComfyUI's buffers for streamed weights: a sampler made them in inference mode, outside of which they could
    not be written."""
    if hasattr(comfy.model_management, "reset_cast_buffers"):
        comfy.model_management.reset_cast_buffers()


def check_whole(model: Network) -> None:
    """Raise InputError where a part of the weights stays off the device: such parts share buffers, which autograd
    would read after they have been written again."""
    if getattr(model, "model_lowvram", False):
        raise InputError(
            "optimizing needs the whole model on the device, which has too little memory; close other programs that "
            "use it, leave out --novram, or load the model in half precision (--fp16-unet)"
        )


def make_ordinary(network: torch.nn.Module) -> None:
    """Replace weights that autograd may not save by equal ones that it may, one at a time; none asks for a gradient.

    Those were made in inference mode. Moved to a device since, they do not even say so; what they lack is a version.
    """
    for name in [name for name, _ in network.named_parameters()]:
        parameter = network.get_parameter(name)
        if not has_version(parameter):
            comfy.utils.set_attr_param(network, name, parameter.detach().clone())
        elif parameter.requires_grad:
            parameter.requires_grad_(False)


def has_version(tensor: Tensor) -> bool:
    """Whether autograd may save a tensor: one of inference mode has no version counter."""
    try:
        return tensor._version >= 0
    except RuntimeError:
        return False


def ordinary(value: Any) -> Any:
    """A tensor that autograd may save; all else as it is."""
    return value.clone() if isinstance(value, Tensor) and not has_version(value) else value


class _OrdinaryTensors(TorchFunctionMode):
    """Every tensor of inference mode that PyTorch is called with becomes an equal one that autograd may save.

    Patches of other nodes keep such: a hypernetwork's layers, a LoRA beside its layer. Raises NoGradientError where
    something differentiated goes into inference mode, out of which no gradient comes.
    """

    def __init__(self) -> None:
        super().__init__()
        self.made = WeakTensorKeyDictionary()

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """PyTorch's hook around each of its functions."""
        return function(*self.ordinary(args), **self.ordinary(kwargs or {}))

    def ordinary(self, value: Any) -> Any:
        """The same with ordinary tensors, in tuples, lists and dicts too."""
        if isinstance(value, tuple | list):
            changed = [self.ordinary(each) for each in value]
            return value if all(map(operator.is_, changed, value)) else type(value)(changed)
        if isinstance(value, dict):
            return {key: self.ordinary(each) for key, each in value.items()}
        if not isinstance(value, Tensor):
            return value
        if torch.is_inference_mode_enabled():
            if value.requires_grad:
                raise NoGradientError("a part of the network runs in inference mode")
            return value
        if has_version(value):
            return value
        if value not in self.made:
            self.made[value] = value.detach().clone()
        return self.made[value]


def differentiating(job: Callable[[], T], options: Options) -> T:
    """What ``job`` returns, tried once more with copies of what others keep from inference mode, which autograd may not
    save.

    Raises InputError, with names from a MODEL's ``options``, where no gradient comes back.
    """
    try:
        return job()
    except RuntimeError as error:
        if INFERENCE not in str(error):
            raise
        cause: Exception | None = None
    except NoGradientError as error:
        cause = error
    try:
        if cause is None:
            with _OrdinaryTensors():
                return job()
    except RuntimeError as error:
        if INFERENCE not in str(error):
            raise
        cause = error
    except NoGradientError as error:
        cause = error
    raise InputError(
        f"a patch of another node on this MODEL{named(options)} cannot be differentiated through; "
        f"{EVERYWHERE}, or choose a preset that optimizes nothing (direct, negative-prompt)"
    ) from cause


def memory_of_host() -> Memory:
    """ComfyUI's memory for models, and what it advises where that is too little."""

    def free(wholly: bool) -> None:
        if wholly:
            comfy.model_management.unload_all_models()
        else:
            comfy.model_management.soft_empty_cache()

    return Memory(free, log, "a model in half precision (--fp16-unet)")
