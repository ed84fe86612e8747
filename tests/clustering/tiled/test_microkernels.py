"""Test the kernels of other instruction sets, in processes that compile for them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from panic_tda.clustering.backends.base import FitOptions
from panic_tda.clustering.tiled import microkernels
from panic_tda.clustering.tiled.engine import Settings, TiledBackend
from tests.clustering.tiled.test_tiled import anisotropic, unit

AVX2 = "+avx,+avx2,+fma"
AVX512 = f"{AVX2},+avx512f,+avx512bw,+avx512vl,+avx512dq,+avx512cd"
COMPILE = """
from numba import types
from panic_tda.clustering.tiled import candidates, microkernels
from panic_tda.clustering.tiled.coarse import CoarseLevel

long, values = types.int64, types.Array(types.int32, 1, "C")
pair, live = types.UniTuple(long, 2), types.UniTuple(types.Array(types.boolean, 1, "C"), 2)
sides, hits = types.UniTuple(values, 2), types.Array(types.uint32, 1, "C")
counts = types.Array(types.int64, 1, "C")
level = types.NamedTuple((types.boolean, long, long, values, values, values, values, counts), CoarseLevel)
find = candidates.find_candidates_compiled
find.compile((values, long, long, pair, pair, sides, live, level, hits, long, sides))
(code,) = find.inspect_asm().values()
names = "vpmaddubsw", "vpmaddwd", "vpdpwssd", "zmm"
print(microkernels.KERNEL, microkernels.LANES, *(name for name in names if name in code))
"""
FIT = """
import sys
import numpy as np
from panic_tda.clustering.backends.base import FitOptions
from panic_tda.clustering.tiled import microkernels
from panic_tda.clustering.tiled.engine import Settings, TiledBackend

rows = np.load(sys.argv[1])
options = FitOptions(min_samples=5, distance_floor=1e-3)
tree = TiledBackend(Settings(tile_rows=128)).fit(rows, np.ones(len(rows), dtype=np.int64), options)
np.save(sys.argv[2], np.sort(tree.height))
print(microkernels.KERNEL, microkernels.LANES)
"""


def run_with(settings: dict[str, str], code: str, *arguments: object) -> list[str]:
    """Run code in a process with environment variables; return the words it prints."""
    process = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        env=os.environ | settings,
        capture_output=True,
        text=True,
        check=True,
    )
    return process.stdout.split()


def run_for(processor: str, features: str | None, code: str, cache: Path, *arguments: object) -> list[str]:
    """Run code in a process whose compiler takes this machine for another; return the words it prints."""
    settings = {"NUMBA_CPU_NAME": processor, "NUMBA_CACHE_DIR": str(cache)}
    if features is not None:
        settings["NUMBA_CPU_FEATURES"] = features
    return run_with(settings, code, *arguments)


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="compiles for x86-64 processors")
@pytest.mark.parametrize(
    ("processor", "features", "expected"),
    [
        ("haswell", AVX2, ["int8", "8", "vpmaddubsw", "vpmaddwd"]),
        ("skylake-avx512", AVX512, ["int8", "16", "vpmaddubsw", "vpmaddwd", "zmm"]),
        # The compiler joins the multiplication and the addition after it, which is as fast as int8.
        (
            "icelake-server",
            f"{AVX512},+avx512vnni",
            ["int16", "16", "vpmaddubsw", "vpmaddwd", "vpdpwssd", "zmm"],
        ),
    ],
)
def test_the_instruction_of_each_processor_is_used(
    processor: str, features: str, expected: list[str], tmp_path: Path
) -> None:
    """Compiled only: this machine need not have the instructions."""
    assert run_for(processor, features, COMPILE, tmp_path) == expected


def test_a_processor_without_these_instructions_finds_the_same_tree(tmp_path: Path) -> None:
    """Its kernel is the portable one, of four lanes; what the other forms need is not compiled."""
    rows = unit(anisotropic(np.random.default_rng(0), 500, 192))
    np.save(tmp_path / "rows.npy", rows)
    heights = tmp_path / "heights.npy"
    assert run_for("generic", None, FIT, tmp_path, tmp_path / "rows.npy", heights) == ["float32", "4"]
    options = FitOptions(min_samples=5, distance_floor=1e-3)
    tree = TiledBackend(Settings(tile_rows=128)).fit(rows, np.ones(len(rows), dtype=np.int64), options)
    np.testing.assert_allclose(np.load(heights), np.sort(tree.height), rtol=1e-14)


def test_a_setting_chooses_the_portable_kernel() -> None:
    code = "from panic_tda.clustering.tiled import microkernels; print(microkernels.describe_kernel())"
    assert run_with({microkernels.KERNEL_VARIABLE: "float32"}, code)[0] == "float32,"


def test_a_kernel_that_the_processor_lacks_is_refused_with_the_choice() -> None:
    code = "import panic_tda.clustering.tiled.microkernels"
    with pytest.raises(subprocess.CalledProcessError) as failed:
        run_with({microkernels.KERNEL_VARIABLE: "int4"}, code)
    message = failed.value.stderr.splitlines()[-1]
    assert "PANIC_TDA_KERNEL must be" in message
    assert "on this processor; got 'int4'" in message
