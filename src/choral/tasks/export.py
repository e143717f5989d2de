"""A model as one file that other programs run: TorchScript, or ONNX."""

from __future__ import annotations

import copy
import io
import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from choral.core.errors import ConfigError, MissingExtra
from choral.core.params import Params
from choral.core.task import Task
from choral.tasks.numpy import LinearTask

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn

FORMATS: Final = ("safetensors", "onnx", "torchscript")
OPSET: Final = 17
INPUT: Final = "x"
OUTPUT: Final = "y"
EXTRA: Final = "choral.json"
"""Name of the lineage inside a TorchScript file."""


def module_of(task: Task, params: Params) -> nn.Module:
    """Return a module of its own with a model in it, on the CPU, in evaluation mode.

    Args:
        task: A `TorchTask`, a `LinearTask`, or any task with a method `module(params)`.
        params: The model.

    Raises:
        ConfigError: The task has no module.
        WrongShape: The model is another task's.
        MissingExtra: PyTorch is not installed.
    """
    torch = _torch()
    if isinstance(task, LinearTask):
        weight = params["weight"]
        linear: nn.Module = torch.nn.Linear(weight.shape[1], weight.shape[0])
        linear.load_state_dict({n: torch.tensor(params[n]) for n in ("weight", "bias")})
        return linear.eval()
    make: Callable[[Params], nn.Module] | None = getattr(task, "module", None)
    if make is None:
        raise ConfigError(
            f"a {type(task).__name__} has no PyTorch module",
            hint="`--format safetensors`, or give the task a method `module(params)`",
        )
    return copy.deepcopy(make(params)).to("cpu").eval()


def input_shape_of(module: nn.Module) -> tuple[int, ...] | None:
    """Return the shape of one example, where the module's first layer says it; else None."""
    torch = _torch()
    from choral.tasks.nets import Shaped

    for layer in module.modules():
        if isinstance(layer, Shaped):
            return layer.shape
        if next(layer.children(), None) is not None or not list(layer.parameters()):
            continue
        return (layer.in_features,) if isinstance(layer, torch.nn.Linear) else None
    return None


def torchscript(
    module: nn.Module, *, shape: Sequence[int] | None, origin: Mapping[str, Any]
) -> bytes:
    """Return a TorchScript file.

    The module is compiled; where PyTorch cannot compile it, it is traced with an example, and the
    trace must give the same for another number of examples.

    Args:
        module: In evaluation mode.
        shape: Shape of one example; needed for a trace alone.
        origin: JSON that goes into the file as `choral.json`.

    Raises:
        ConfigError: It can be neither compiled nor traced.
    """
    with _quiet():
        scripted = _scripted(module, shape)
        file = io.BytesIO()
        extra = {EXTRA: json.dumps(origin)}
        _torch().jit.save(scripted, file, _extra_files=extra)
    return file.getvalue()


def onnx(module: nn.Module, *, shape: Sequence[int], origin: Mapping[str, Any]) -> bytes:
    """Return an ONNX file with input `x` and output `y`, both for any number of examples.

    Args:
        module: In evaluation mode.
        shape: Shape of one example.
        origin: JSON that goes into the file's metadata as `choral`.

    Raises:
        MissingExtra: The package onnx is not installed.
        ConfigError: The module cannot be exported.
    """
    try:
        import onnx as package
    except ModuleNotFoundError as error:
        raise MissingExtra(
            f"export to ONNX needs `{error.name}`, which is not installed",
            hint="pip install 'choral[onnx]'",
        ) from None
    torch = _torch()
    file = io.BytesIO()
    with _quiet():
        compiled = _scripted(module, shape)
        try:
            # The classic exporter: the newer one needs two packages more.
            torch.onnx.export(
                compiled,
                (_example(shape, 2),),
                file,
                dynamo=False,
                opset_version=OPSET,
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_axes={INPUT: {0: "n"}, OUTPUT: {0: "n"}},
            )
        except Exception as error:
            raise ConfigError(
                f"the module cannot be exported to ONNX with examples of shape {list(shape)}: "
                f"{_first_line(error)}",
                hint="look at `--input-shape`; `--format safetensors` takes any model",
            ) from error
    made = package.load_model_from_string(file.getvalue())
    package.helper.set_model_props(made, {"choral": json.dumps(origin)})
    package.checker.check_model(made, full_check=True)
    data: bytes = made.SerializeToString()
    return data


def _scripted(module: nn.Module, shape: Sequence[int] | None) -> Any:
    """Return a compiled module, or a trace that was tried out."""
    jit: Any = _torch().jit
    try:
        return jit.script(module)
    except Exception as error:
        if shape is None:
            raise ConfigError(
                f"PyTorch cannot compile the module: {_first_line(error)}",
                hint="`--input-shape 3,32,32`, the shape of one example, lets it be traced",
            ) from error
    torch, example = _torch(), _example(shape, 3)
    try:
        traced = jit.trace(module, _example(shape, 2))
        with torch.no_grad():
            same = torch.allclose(traced(example), module(example), rtol=1e-4, atol=1e-5)
    except Exception as error:
        raise ConfigError(
            f"the module cannot be traced with examples of shape {list(shape)}: "
            f"{_first_line(error)}",
            hint="look at `--input-shape`; `--format safetensors` takes any model",
        ) from error
    if not same:
        raise ConfigError(
            "the module's trace gives other outputs than the module",
            hint="it has branches that hang on its data; `--format safetensors` takes any model",
        )
    return traced


def _example(shape: Sequence[int], count: int) -> Any:
    torch = _torch()
    size = count
    for part in shape:
        size *= part
    return torch.linspace(-1, 1, size).reshape(count, *shape)


@contextmanager
def _quiet() -> Iterator[None]:
    """Leave out what PyTorch says about TorchScript's age: nothing else is in every version."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def _torch() -> Any:
    try:
        import torch
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise MissingExtra(
            "this export needs PyTorch, which is not installed", hint="pip install 'choral[torch]'"
        ) from None
    return torch
