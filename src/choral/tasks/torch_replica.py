"""One PyTorch module of a process, into which models are loaded and from which updates are read.

Building a module costs more than a client's training, so a task builds one and reuses it. Every
tensor of its state is overwritten by `load`; nothing of one client reaches the next.
"""

from __future__ import annotations

import glob
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from choral.core.errors import ConfigError, PlanError
from choral.core.params import Array, Params, Role, Spec, Vector, matching
from choral.core.tensors import DTYPES

Model = Callable[[], nn.Module]
"""Builds a fresh module; called without arguments."""


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed PyTorch's generators inside the block, and put their states back behind it.

    The CPU generator gets what `torch.manual_seed(seed)` would give it. Written out because
    `torch.random.fork_rng` with `torch.manual_seed` takes about forty times as long.
    """
    generator = torch.default_generator
    state = generator.get_state()
    on_gpu = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    generator.manual_seed(seed)
    if on_gpu is not None:
        torch.cuda.manual_seed(seed)
    try:
        yield
    finally:
        generator.set_state(state)
        if on_gpu is not None:
            torch.cuda.set_rng_state(on_gpu, device)


@dataclass(frozen=True, slots=True)
class Slot:
    """One tensor of a module's state, under its first name.

    Attributes:
        name: Name in the module's `state_dict`.
        tensor: The parameter or buffer itself.
        raw: The same memory without gradients.
        view: The same memory as a NumPy array, or None where it is on another device.
        owner: The submodule that holds it.
        attribute: Its name there.
    """

    name: str
    tensor: torch.Tensor
    raw: torch.Tensor
    view: Array | None
    owner: nn.Module
    attribute: str

    @property
    def is_parameter(self) -> bool:
        """True for a parameter, false for a buffer."""
        return isinstance(self.tensor, nn.Parameter)

    def write(self, array: Array) -> None:
        """Overwrite the values; undo a buffer's replacement by another tensor."""
        if not self.is_parameter and getattr(self.owner, self.attribute) is not self.tensor:
            setattr(self.owner, self.attribute, self.tensor)
        if self.view is not None:
            np.copyto(self.view, array)
        else:
            self.raw.copy_(torch.tensor(array))

    def read(self) -> Array:
        """Return the present values; a view where that is possible."""
        if not self.is_parameter:
            now = getattr(self.owner, self.attribute)
            if now is not self.tensor:
                array: Array = now.detach().cpu().numpy()
                return array
        return self.raw.cpu().numpy() if self.view is None else self.view


class Replica:
    """A module with its schema.

    Args:
        model: Builds the module. It is built under seed 0, so that whatever is not in its state,
            such as a fixed random projection, is the same in every process.
        roles: Tensor name or glob pattern to role; a later entry wins. By default a parameter is
            shared, one that requires no gradient is frozen, and a buffer is a buffer.
        device: Where the module computes.
        channels_last: Lay out images and kernels with channels last.

    Raises:
        ConfigError: The model cannot be federated; the message says what about it.
    """

    def __init__(
        self,
        model: Model,
        roles: Mapping[str, Role | str],
        *,
        device: torch.device,
        channels_last: bool = False,
    ) -> None:
        self.module = _place(build(model, 0, device), device, channels_last)
        self.device = device
        self.channels_last = channels_last
        self.slots, aliases = _slots(self.module)
        self.spec = _spec(self.slots, roles, aliases)
        role_of = {t.name: t.role for t in self.spec.tensors}
        self.trained: list[Slot] = []
        for slot in (s for s in self.slots if s.is_parameter):
            trains = role_of[slot.name] in (Role.SHARED, Role.PERSONAL)
            slot.tensor.requires_grad_(trains)
            if trains:
                self.trained.append(slot)
        if not self.trained:
            raise ConfigError("no parameter of the model is trained: all of them are frozen")
        by_name = {s.name: s for s in self.slots}
        self._aggregated = [by_name[t.name] for t in self.spec.aggregated]
        self._personal = [by_name[name] for name in self.spec.names(Role.PERSONAL)]
        self._extra = _extra_buffers(self.module, self.slots)
        self._training: bool | None = None

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the first trained parameter, which floating inputs are cast to."""
        return self.trained[0].tensor.dtype

    def load(self, params: Mapping[str, Array]) -> None:
        """Put a model into the module.

        Raises:
            WrongShape: It has other tensors.
        """
        self.spec.check(params)
        for slot in self.slots:
            slot.write(params[slot.name])
        for owner, attribute, kept, tensor in self._extra:
            tensor.copy_(kept)
            setattr(owner, attribute, tensor)

    def mode(self, *, training: bool) -> nn.Module:
        """Return the module in training or evaluation mode."""
        if self._training is not training:
            self.module.train(training)
            self._training = training
        return self.module

    def delta(self, params: Mapping[str, Array]) -> Vector:
        """Return present minus received values over the aggregated tensors.

        Equals the delta of `Update.between`, without its intermediate arrays.
        """
        vector = np.empty(self.spec.vector_size, np.float32)
        at = 0
        for slot in self._aggregated:
            new, old = slot.read(), params[slot.name]
            part = vector[at : at + old.size].reshape(old.shape)
            if old.dtype == np.float32:
                np.subtract(new, old, out=part)
            else:
                part[...] = new.astype(np.float64) - old.astype(np.float64)
            at += old.size
        return vector

    def check_buffers(self, params: Mapping[str, Array]) -> None:
        """Refuse buffers that would travel and that training has changed: no noise covers them.

        Raises:
            PlanError: A buffer is not what was received.
        """
        for slot in self._aggregated:
            if not slot.is_parameter and not np.array_equal(slot.read(), params[slot.name]):
                raise PlanError(
                    f"buffer `{slot.name}` changes with the data, and no noise covers it",
                    hint=f"give it the role `frozen`: `roles={{'{slot.name}': 'frozen'}}`, or "
                    "leave the layer out",
                )

    def kept(self) -> Params | None:
        """Return copies of the personal tensors, or None where the model has none."""
        return _copies(self._personal) if self._personal else None

    def shared_parts(self, vector: Vector) -> dict[str, torch.Tensor]:
        """Return a flat vector over the shared tensors as copies, by name."""
        parts = {}
        at = 0
        for slot, tensor in zip(self._aggregated, self.spec.aggregated, strict=True):
            if tensor.role is Role.SHARED:
                part = torch.tensor(vector[at : at + tensor.size]).reshape(tensor.shape)
                parts[slot.name] = part.to(slot.raw)
                at += tensor.size
        return parts


def build(model: Model, seed: int, device: torch.device) -> nn.Module:
    """Return a fresh module, built right after seeding PyTorch's generators with `seed`."""
    with seeded(seed, device):
        module = model()
    if not isinstance(module, nn.Module):
        raise ConfigError(
            f"model() returned {type(module).__name__}, expected a torch.nn.Module",
            hint="give a function or class that builds the module: `model=Net`, not `model=Net()`"
            if isinstance(model, nn.Module)
            else "",
        )
    return module


def first_params(model: Model, seed: int, device: torch.device) -> Params:
    """Return the state of a fresh module built under `seed`."""
    return _copies(_slots(build(model, seed, device))[0])


def _copies(slots: list[Slot]) -> Params:
    arrays = {s.name: np.array(s.read(), order="C") for s in slots}
    for array in arrays.values():
        array.flags.writeable = False
    return Params(arrays)


def _place(module: nn.Module, device: torch.device, channels_last: bool) -> nn.Module:
    module = module.to(device)
    if channels_last:
        for parameter in module.parameters():
            if parameter.ndim == 4:
                parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    return module


def _slots(module: nn.Module) -> tuple[list[Slot], dict[str, str]]:
    """Return the distinct tensors of a module's state, and further name to first name."""
    slots: dict[int, Slot] = {}
    aliases = {}
    for name, tensor in module.state_dict(keep_vars=True).items():
        if not isinstance(tensor, torch.Tensor):
            raise ConfigError(
                f"the model's state `{name}` is {type(tensor).__name__}, expected a tensor",
                hint="keep numbers in a registered buffer",
            )
        if id(tensor) in slots:
            aliases[name] = slots[id(tensor)].name
        else:
            slots[id(tensor)] = _slot(module, name, tensor)
    return list(slots.values()), aliases


def _slot(module: nn.Module, name: str, tensor: torch.Tensor) -> Slot:
    if nn.parameter.is_lazy(tensor):
        raise ConfigError(
            f"parameter `{name}` has no shape yet",
            hint="lazy layers see data first; give their sizes in the model",
        )
    dtype = str(tensor.dtype).removeprefix("torch.")
    if dtype not in DTYPES:
        raise ConfigError(
            f"tensor `{name}` has dtype {dtype}, which cannot be sent",
            hint="use float32 for parameters; allowed: " + ", ".join(DTYPES),
        )
    raw = tensor.detach()
    path, _, attribute = name.rpartition(".")
    view = raw.numpy() if raw.device.type == "cpu" else None
    return Slot(name, tensor, raw, view, module.get_submodule(path), attribute)


def _spec(slots: list[Slot], roles: Mapping[str, Role | str], aliases: Mapping[str, str]) -> Spec:
    """Return the schema: roles by what each tensor is, then what the user says of them."""
    params = {s.name: s.raw.cpu().numpy() for s in slots}
    for pattern in roles:
        tied = matching(pattern, aliases)
        if tied and not matching(pattern, params):
            raise ConfigError(
                f"role pattern `{pattern}` matches `{tied[0]}` alone, a second name of a tensor",
                hint=f"name the tensor it is tied to: `{aliases[tied[0]]}`",
            )
    Spec.of(params, roles)  # reports unknown roles, and patterns without a tensor
    chosen: dict[str, Role | str] = {s.name: _role(s) for s in slots}
    for pattern, role in roles.items():
        chosen.update(dict.fromkeys(matching(pattern, params), role))
    return Spec.of(params, exact(chosen))


def exact(roles: Mapping[str, Role | str]) -> dict[str, Role | str]:
    """Return roles by name as patterns that match these names alone."""
    return {glob.escape(name): role for name, role in roles.items()}


def _role(slot: Slot) -> Role:
    if not slot.is_parameter:
        return Role.BUFFER
    return Role.SHARED if slot.tensor.requires_grad else Role.FROZEN


def _extra_buffers(
    module: nn.Module, slots: list[Slot]
) -> list[tuple[nn.Module, str, torch.Tensor, torch.Tensor]]:
    """Return owner, name, first value and tensor of each buffer outside the module's state."""
    known = {id(s.tensor) for s in slots}
    found = []
    for name, tensor in module.named_buffers():
        if id(tensor) not in known:
            path, _, attribute = name.rpartition(".")
            found.append((module.get_submodule(path), attribute, tensor.clone(), tensor))
    return found
