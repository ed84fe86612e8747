"""Test the source of the CUDA kernel, compiled for the host with its threads one after the other."""

from __future__ import annotations

import ast
import ctypes
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import panic_tda
from panic_tda.clustering.tiled import cuda_kernels, device, host, layout
from panic_tda.clustering.tiled.engine import Settings
from panic_tda.devices import cuda
from panic_tda.errors import InvalidParameter
from tests import nvrtc

PACKAGE = Path(panic_tda.__file__).parent

COMPILER = shutil.which("g++") or shutil.which("clang++")
CUDA_IN_CPP = """
#include <cmath>
#define __global__
struct Place { int x, y; };
static Place blockIdx, threadIdx, blockDim, gridDim;
static unsigned long long atomicAdd(unsigned long long* at, unsigned long long more)
{
    const unsigned long long before = *at;
    *at += more;
    return before;
}
"""
LAUNCH = """
extern "C" void launch(const int blocks_x, const int blocks_y, const int threads, const float* products,
                       const float* lower_rows, const float* lower_columns, const int width,
                       const long long limit, int* codes, unsigned long long* found)
{
    gridDim = {blocks_x, blocks_y};
    blockDim = {threads, 1};
    for (blockIdx.y = 0; blockIdx.y < blocks_y; ++blockIdx.y)
        for (blockIdx.x = 0; blockIdx.x < blocks_x; ++blockIdx.x)
            for (threadIdx.x = 0; threadIdx.x < threads; ++threadIdx.x)
                collect(products, lower_rows, lower_columns, width, limit, codes, found);
}
"""


@pytest.fixture(scope="module")
def launch(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., None]:
    if COMPILER is None:
        pytest.skip("no C++ compiler: install g++ to run the kernel's source on the host")
    folder: Path = tmp_path_factory.mktemp("kernel")
    source, library = folder / "collect.cpp", folder / "collect.so"
    source.write_text(CUDA_IN_CPP + cuda_kernels.COLLECT + LAUNCH)
    subprocess.run([COMPILER, "-O1", "-shared", "-fPIC", source, "-o", library], check=True)
    return ctypes.CDLL(str(library)).launch  # type: ignore[no-any-return]


def collected(
    launch: Callable[..., None], products: np.ndarray, lower: tuple[np.ndarray, np.ndarray], room: int
) -> tuple[np.ndarray, int]:
    height, width = products.shape
    codes, n_collected = np.full(room + 1, -7, dtype=np.int32), np.zeros(1, dtype=np.uint64)
    pointers = (array.ctypes.data_as(ctypes.c_void_p) for array in (products, *lower))
    blocks = cuda_kernels.grid(height, width)
    launch(
        *blocks, cuda_kernels.THREADS, *pointers, width, ctypes.c_longlong(room),
        codes.ctypes.data_as(ctypes.c_void_p), n_collected.ctypes.data_as(ctypes.c_void_p),
    )  # fmt: skip
    assert codes[room] == -7, "the kernel wrote past its room"
    return codes, int(n_collected[0])


@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 700), (50, 255), (64, 256), (20, 2_500)])
def test_the_kernel_finds_what_the_array_operations_find(
    launch: Callable[..., None], height: int, width: int
) -> None:
    rng = np.random.default_rng(width)
    products = rng.uniform(-1, 1, (height, width)).astype(np.float32)
    lower = rng.uniform(0.5, 1, height).astype(np.float32), rng.uniform(0.5, 1, width).astype(np.float32)
    # Equal to a threshold counts; infinite thresholds leave it to the other side.
    lower[0][0], lower[1][-1] = products[0, 0], np.inf
    expected = device.collect(np, products, lower, products.size)
    codes, n_collected = collected(launch, products, lower, products.size)
    assert n_collected == len(expected) > 0
    np.testing.assert_array_equal(np.sort(codes[:n_collected]), expected)


def test_the_kernel_counts_what_it_has_no_room_for(launch: Callable[..., None]) -> None:
    products = np.ones((10, 30), dtype=np.float32)
    lower = np.zeros(10, dtype=np.float32), np.zeros(30, dtype=np.float32)
    codes, n_collected = collected(launch, products, lower, 17)
    assert n_collected == 300
    assert len(np.unique(codes[:17])) == 17


@pytest.mark.parametrize(("height", "width"), [(46_340, 46_340), (1, 2**31 - 1), (65_535, 32_768)])
def test_tiles_whose_pairs_have_numbers_are_taken(height: int, width: int) -> None:
    cuda_kernels.require_indexable_pairs(height, width)
    assert np.int64(height - 1) * width + width - 1 <= np.iinfo(np.int32).max


@pytest.mark.parametrize(("height", "width"), [(46_341, 46_341), (65_536, 1), (2, 2**30)])
def test_tiles_whose_pairs_or_rows_have_no_number_are_refused(height: int, width: int) -> None:
    with pytest.raises(
        InvalidParameter, match=rf"up to 65,535 rows and 2,147,483,647 pairs; got {height:,} ×"
    ):
        cuda_kernels.require_indexable_pairs(height, width)


@pytest.mark.parametrize("tile_rows", [0, 46_341])
def test_settings_have_tiles_whose_pairs_have_numbers(tile_rows: int) -> None:
    assert Settings(tile_rows=46_340).tile_rows == 46_340
    assert max(device.TILE_ROWS, host.TILE_ROWS) <= layout.MAX_TILE_ROWS
    with pytest.raises(InvalidParameter, match=rf"tile_rows must be 1 to 46,340; got {tile_rows:,}"):
        Settings(tile_rows=tile_rows)


def sources() -> dict[str, str]:
    """Return every text in the package that has a CUDA kernel, by module and line."""
    collected_codes = {}
    texts = {path: path.read_text(encoding="utf-8") for path in sorted(PACKAGE.rglob("*.py"))}
    for path, text in texts.items():
        for node in ast.walk(ast.parse(text)) if "__global__" in text else ():
            if isinstance(node, ast.Constant) and "__global__" in str(node.value):
                collected_codes[f"{path.stem}:{node.lineno}"] = str(node.value)
    return collected_codes


SOURCES = sources()


@pytest.mark.parametrize("architecture", ["sm_80", "sm_90", "sm_100"])
@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
def test_nvidias_compiler_takes_the_source(source: str, architecture: str) -> None:
    cubin = nvrtc.compile_cubin(source, architecture)
    assert cubin.startswith(b"\x7fELF")
    assert b"collect" in cubin


def test_nvidias_compiler_says_what_is_wrong() -> None:
    with pytest.raises(ValueError, match=r"identifier .nonsense. is undefined"):
        nvrtc.compile_cubin("__global__ void f(int* x) { *x = nonsense; }", "sm_90")


@pytest.mark.gpu
@pytest.mark.skipif(cuda.unavailable_reason() is not None, reason=f"{cuda.unavailable_reason()}")
@pytest.mark.parametrize("share", [0.0, 0.001, 0.9])
def test_the_kernel_on_a_device(share: float) -> None:
    import cupy

    rng = np.random.default_rng(0)
    products = rng.random((1_500, 2_100), dtype=np.float32)
    lower = np.full(1_500, 1 - share, dtype=np.float32), np.full(2_100, np.inf, dtype=np.float32)
    expected = device.collect(np, products, lower, products.size)
    codes = device.collect(cupy, *(cupy.asarray(products), tuple(map(cupy.asarray, lower))), products.size)
    np.testing.assert_array_equal(codes.get(), expected)
    limited = device.collect(cupy, cupy.asarray(products), tuple(map(cupy.asarray, lower)), 100)
    assert (limited is None) == (len(expected) > 100)
