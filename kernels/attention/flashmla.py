"""MLA decode in CUDA for Hopper: `flashmla_kernel.cu`, built with nvcc on first use, called through ctypes.

`plan` and `run` are those of `mla_triton`, for bfloat16 and pages of 64 tokens; the parts are joined by its
combination. The library is kept in a folder named by the source, the compiler and the flags, so that it is
built once; a change of any of them builds anew.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from monitorgen.kernels.attention.mla_check import VALUE, check_call, check_outputs
from monitorgen.kernels.attention.mla_reference import SCALE
from monitorgen.kernels.attention.mla_triton import LOG2E, Config, Plan, combine
from monitorgen.kernels.attention.mla_triton import plan as make_plan
from monitorgen.kernels.decode.graphs import cuda

SOURCE = Path(__file__).with_name("flashmla_kernel.cu")
HEADER = Path(__file__).with_name("flashmla_ptx.cuh")
PAGE = 64
CONFIG = Config(heads=64, block=PAGE, warps=8, stages=2, tma=False)
"""Heads and tokens as the kernel's: the combination has to cut the contexts in the same places."""

# sm_90a: wgmma and setmaxnreg are not in plain sm_90.
FLAGS = ("-O3", "-std=c++17", "-gencode=arch=compute_90a,code=sm_90a", "-shared", "-Xcompiler", "-fPIC")
BUILD_SECONDS = 300
USUAL_NVCC = Path("/usr/local/cuda/bin/nvcc")


class UnavailableError(RuntimeError):
    """The kernel cannot be built or run here: one line that says why, and what would do."""


def find_nvcc() -> Path:
    """The nvcc of CUDA_HOME, of the path, or of /usr/local/cuda. Raises UnavailableError."""
    homes = [os.environ[name] for name in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(name)]
    on_path = shutil.which("nvcc")
    found = [Path(home, "bin", "nvcc") for home in homes]
    found += [Path(on_path)] if on_path else []
    found.append(USUAL_NVCC)
    for nvcc in found:
        if nvcc.is_file() and os.access(nvcc, os.X_OK):
            return nvcc
    raise UnavailableError(
        "the CUDA kernel of MLA decode is built with nvcc (CUDA 12.3 or later), and there is none in "
        "CUDA_HOME, on the path or in /usr/local/cuda: install the CUDA toolkit, or take the Triton kernel"
    )


def check_device(device: torch.device) -> None:
    """Raise UnavailableError unless the device is a Hopper GPU."""
    if device.type != "cuda" or not torch.cuda.is_available():
        raise UnavailableError(f"the CUDA kernel of MLA decode needs a Hopper GPU, and device is {device}")
    major, minor = torch.cuda.get_device_capability(device)
    if (major, minor) != (9, 0):
        raise UnavailableError(
            f"the CUDA kernel of MLA decode is for compute capability 9.0 (Hopper), "
            f"{cuda.get_device_name(device)} has {major}.{minor}: take the Triton kernel"
        )


def cache_folder() -> Path:
    """Where libraries are kept: MONITORGEN_CACHE, or XDG's cache folder."""
    given = os.environ.get("MONITORGEN_CACHE")
    if given:
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "monitorgen"


def build(nvcc: Path, folder: Path) -> Path:
    """The library, built unless the folder has it for this source and compiler. Raises UnavailableError.

    It is written beside its place and moved there, so that processes that build at a time do no harm.
    """
    try:
        told = subprocess.run([nvcc, "--version"], capture_output=True, check=False, timeout=60).stdout
        parts = (SOURCE.read_bytes(), HEADER.read_bytes(), told, " ".join(FLAGS).encode())
        library = folder / f"flashmla-{hashlib.sha256(bytes(1).join(parts)).hexdigest()[:16]}.so"
        if library.is_file():
            return library
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            made = Path(scratch, library.name)
            command: list[str | Path] = [nvcc, *FLAGS, "-o", made, SOURCE, "-ldl"]
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=BUILD_SECONDS)
            if done.returncode:
                lines = [line for line in (done.stderr + done.stdout).splitlines() if line.strip()]
                wrong = next((line for line in lines if "error" in line or "fatal" in line), "no message")
                raise UnavailableError(
                    f"{nvcc} cannot build {SOURCE.name} (exit code {done.returncode}): {wrong}"
                )
            made.replace(library)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UnavailableError(f"{SOURCE.name} cannot be built with {nvcc} in {folder}: {error}") from None
    return library


@cache
def load() -> ctypes.CDLL:
    """The library, built on first use. Raises UnavailableError."""
    path = build(find_nvcc(), cache_folder())
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:
        raise UnavailableError(f"{path} cannot be loaded: {error}") from None
    pointer, number = ctypes.c_void_p, ctypes.c_int
    library.mla_decode_launch.argtypes = [
        *[pointer] * 8, ctypes.c_float, number, number, ctypes.c_int64, number, number, number, pointer,
    ]  # fmt: skip
    library.mla_decode_launch.restype = number
    library.mla_decode_error.argtypes = [number]
    library.mla_decode_error.restype = ctypes.c_char_p
    return library


def check_kind(page: int, dtype: torch.dtype) -> None:
    """Raise ValueError for pages or numbers that only the Triton kernel takes."""
    if page != PAGE:
        raise ValueError(f"page is {page} tokens: {PAGE} is supported by the CUDA kernel")
    if dtype != torch.bfloat16:
        raise ValueError(f"dtype is {dtype}: torch.bfloat16 is supported by the CUDA kernel")


def plan(
    batch: int,
    heads: int,
    page: int,
    table_width: int,
    *,
    dtype: torch.dtype = torch.bfloat16,
    device: torch.device | str = "cuda",
    programs: int | None = None,
) -> Plan:
    """As `mla_triton.plan`; builds the kernel if need be.

    Raises ValueError for what the kernel does not take, and UnavailableError where it cannot be built or run.
    """
    check_kind(page, dtype)
    device = torch.device(device)
    check_device(device)
    load()
    return make_plan(
        batch, heads, page, table_width, dtype=dtype, device=device, config=CONFIG, programs=programs
    )


def run(
    plan: Plan,
    q: Tensor,
    cache: Tensor,
    table: Tensor,
    lengths: Tensor,
    *,
    scale: float | None = None,
    out: Tensor | None = None,
    lse: Tensor | None = None,
) -> Tensor:
    """As `mla_triton.run`, in CUDA. Raises ValueError before a launch, RuntimeError if the launch fails."""
    shape = check_call(q, cache, table, lengths, scale)
    check_outputs(q, out, lse)
    check_kind(shape.page, q.dtype)
    if (shape, q.dtype, q.device, plan.config) != (plan.shape, plan.dtype, plan.parts.device, CONFIG):
        raise ValueError(
            f"q, cache and table are {shape} {q.dtype} on {q.device}: the plan is for {plan.shape} "
            f"{plan.dtype} on {plan.parts.device}"
        )
    if cache.shape[0] * PAGE >= 2**31:
        raise ValueError(f"cache has {cache.shape[0]} pages: fewer than {2**31 // PAGE} are supported")
    check_device(q.device)
    out = q.new_empty(shape.batch, shape.heads, VALUE) if out is None else out
    library = load()
    with cuda.device(q.device):
        code = library.mla_decode_launch(
            q.data_ptr(), cache.data_ptr(), table.data_ptr(), lengths.data_ptr(), out.data_ptr(),
            None if lse is None else lse.data_ptr(), plan.parts.data_ptr(), plan.part_lse.data_ptr(),
            (SCALE if scale is None else scale) * LOG2E, shape.batch, shape.heads, cache.shape[0],
            shape.table_width, plan.programs, CONFIG.least, cuda.current_stream(q.device).cuda_stream,
        )  # fmt: skip
        if code:
            raise RuntimeError(f"the CUDA kernel of MLA decode: {library.mla_decode_error(code).decode()}")
        combine(plan, lengths, out, lse, CONFIG.block, CONFIG.least)
    return out
