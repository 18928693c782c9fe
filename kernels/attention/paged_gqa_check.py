"""What paged GQA decode takes, said before anything is launched: argument, value, and what is supported."""

from __future__ import annotations

import torch
from torch import Tensor

HEAD_SIZES = (64, 128, 256)
PAGE_SIZES = (16, 32, 64)
MOST_GROUP = 16
MOST_BATCH = 4096  # every program cumulates the lengths of the batch in one block
QUERY_DTYPES = (torch.bfloat16, torch.float16)
CACHE_DTYPES = (torch.bfloat16, torch.float16, torch.float8_e4m3fn)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _names(dtypes: tuple[torch.dtype, ...]) -> str:
    return ", ".join(_name(dtype) for dtype in dtypes)


def one_of(argument: str, value: object, supported: tuple[object, ...]) -> None:
    """Raise ValueError unless a value is among the supported ones."""
    if value not in supported:
        raise ValueError(f"{argument} is {value}; supported: {', '.join(map(str, supported))}")


def within(argument: str, value: int, least: int, most: int) -> None:
    """Raise ValueError unless a whole number is in a range."""
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise ValueError(f"{argument} is {value}; supported: whole numbers from {least} to {most}")


def check_heads(heads: int, kv_heads: int) -> None:
    """Query heads are a multiple of KV heads, 1 to 16 times. Raises ValueError."""
    within("kv_heads", kv_heads, 1, 1 << 15)
    within("heads", heads, 1, kv_heads * MOST_GROUP)
    if heads % kv_heads:
        raise ValueError(f"heads is {heads}; supported: multiples of kv_heads = {kv_heads}")


def check_dtypes(dtype: torch.dtype, kv_dtype: torch.dtype) -> None:
    """bf16 or fp16 queries over a cache of the same type or of fp8. Raises ValueError."""
    if dtype not in QUERY_DTYPES:
        raise ValueError(f"dtype is {_name(dtype)}; supported: {_names(QUERY_DTYPES)}")
    if kv_dtype not in CACHE_DTYPES or (kv_dtype.itemsize == 2 and kv_dtype != dtype):
        raise ValueError(
            f"kv_dtype is {_name(kv_dtype)}; supported with queries in {_name(dtype)}: "
            f"{_name(dtype)}, float8_e4m3fn"
        )


def check_arch(device: torch.device, kv_dtype: torch.dtype, pdl: bool) -> None:
    """The kernels need sm_80, sm_89 to read fp8, and sm_90 for dependent launch. Raises ValueError.

    A CPU device is for Triton's interpreter, which has no dependent launch.
    """
    if device.type != "cuda":
        if pdl:
            raise ValueError("tuning.pdl is True; supported on a CPU: False")
        return
    found = torch.cuda.get_device_capability(device)
    least = (9, 0) if pdl else (8, 9) if kv_dtype.itemsize == 1 else (8, 0)
    if found < least:
        raise ValueError(
            f"device is sm_{found[0]}{found[1]}; supported with kv_dtype {_name(kv_dtype)}"
            f"{' and tuning.pdl' if pdl else ''}: sm_{least[0]}{least[1]} and later"
        )


def check_tensor(
    argument: str, tensor: Tensor, shape: tuple[int | None, ...], dtype: torch.dtype, device: torch.device
) -> None:
    """Raise ValueError unless a tensor has a shape (None: any size), a type, a device, and is contiguous."""
    if len(tensor.shape) != len(shape) or any(
        want is not None and want != size for want, size in zip(shape, tensor.shape, strict=True)
    ):
        want = ", ".join("any" if size is None else str(size) for size in shape)
        raise ValueError(f"{argument} has shape {list(tensor.shape)}; supported here: [{want}]")
    if tensor.dtype != dtype:
        raise ValueError(f"{argument} is {_name(tensor.dtype)}; supported here: {_name(dtype)}")
    if tensor.device != device:
        raise ValueError(f"{argument} is on {tensor.device}; supported here: {device}")
    if not tensor.is_contiguous():
        raise ValueError(f"{argument} has strides {list(tensor.stride())}; supported: contiguous tensors")


def check_scale(
    argument: str, scale: Tensor | None, kv_heads: int, kv_dtype: torch.dtype, device: torch.device
) -> None:
    """A float32 scale for the tensor, [1], or for each KV head, [Hk]; only with fp8. Raises ValueError."""
    if scale is None:
        return
    if kv_dtype.itemsize != 1:
        raise ValueError(f"{argument} is given with a cache in {_name(kv_dtype)}; supported: float8_e4m3fn")
    if tuple(scale.shape) not in ((1,), (kv_heads,)):
        raise ValueError(f"{argument} has shape {list(scale.shape)}; supported: [1] or [{kv_heads}]")
    check_tensor(argument, scale, tuple(scale.shape), torch.float32, device)
