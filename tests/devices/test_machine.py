"""Test the limits of control groups and of the process, beside those of the machine."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from panic_tda.devices.machine import available_cores, host_memory
from panic_tda.main import main
from tests.conftest import MakeFile
from tests.faults.runs import environment
from tests.field_files import FieldSpec

MIB = 1 << 20
UNLIMITED = "9223372036854771712"
ASK = """
import json
from panic_tda.devices.machine import available_cores, host_memory
print(json.dumps([available_cores(), *host_memory()]))
"""


def ask(*prefix: str) -> list[int]:
    """Return the cores, memory and available memory that a child process sees."""
    command = [*prefix, sys.executable, "-c", ASK]
    process = subprocess.run(command, env=environment(), capture_output=True, text=True, check=True)
    answer: list[int] = json.loads(process.stdout)
    return answer


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


V2 = {
    "proc/self/cgroup": "0::/user.slice/job\n",
    "sys/fs/cgroup/user.slice/memory.max": f"{300 * MIB}\n",
    "sys/fs/cgroup/user.slice/memory.current": f"{200 * MIB}\n",
    "sys/fs/cgroup/user.slice/memory.stat": f"anon 7\ninactive_file {50 * MIB}\n",
    "sys/fs/cgroup/user.slice/job/memory.max": "max\n",
    "sys/fs/cgroup/user.slice/job/memory.current": f"{10 * MIB}\n",
    "sys/fs/cgroup/user.slice/job/cpu.max": "50000 100000\n",
}
V1 = {
    "proc/self/cgroup": "4:memory:/docker/abc\n2:cpu,cpuacct:/docker/abc\n",
    "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{300 * MIB}\n",
    "sys/fs/cgroup/memory/memory.usage_in_bytes": f"{200 * MIB}\n",
    "sys/fs/cgroup/memory/memory.stat": f"inactive_file 0\ntotal_inactive_file {50 * MIB}\n",
    "sys/fs/cgroup/cpu/docker/abc/cpu.cfs_quota_us": "50000\n",
    "sys/fs/cgroup/cpu/docker/abc/cpu.cfs_period_us": "100000\n",
}


@pytest.mark.parametrize("files", [V2, V1], ids=["v2", "v1"])
def test_limits_of_control_groups_and_of_those_around_them_count(
    tmp_path: Path, files: dict[str, str]
) -> None:
    root = write(tmp_path, files)
    assert host_memory(root) == (300 * MIB, 150 * MIB)
    assert available_cores(root) == 1


def test_the_soft_limit_of_a_control_group_counts(tmp_path: Path) -> None:
    root = write(tmp_path, V2 | {"sys/fs/cgroup/user.slice/job/memory.high": f"{90 * MIB}"})
    assert host_memory(root) == (90 * MIB, 80 * MIB)


def test_without_limits_the_memory_of_the_machine_counts(tmp_path: Path) -> None:
    files = {
        "proc/self/cgroup": "4:memory:/\n2:cpu:/\n0::/\n",
        "proc/meminfo": "MemTotal: 9 kB\nMemAvailable: 1024 kB\n",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": UNLIMITED,
        "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1",
        "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
        "sys/fs/cgroup/cpu.max": "max 100000\n",
    }
    root = write(tmp_path, files)
    assert host_memory(root)[1] == MIB
    assert available_cores(root) == len(os.sched_getaffinity(0))


@pytest.mark.parametrize("option", ["--as", "--data"])
def test_limits_of_the_process_count(option: str) -> None:
    if not shutil.which("prlimit"):
        pytest.skip("there is no command prlimit")
    limit = 900 * MIB
    _, total, available = ask("prlimit", f"{option}={limit}")
    assert total == limit
    assert 0 < available < limit


@pytest.fixture
def control_group() -> Iterator[Path]:
    """A control group of the machine that allows 400 MiB."""
    for folder, name in (
        (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes"),
        (Path("/sys/fs/cgroup"), "memory.max"),
    ):
        group = folder / f"panic-tda-test-{os.getpid()}"
        try:
            group.mkdir()
        except OSError:
            continue
        try:
            (group / name).write_text(str(400 * MIB))
        except OSError:
            group.rmdir()
            continue
        yield group
        group.rmdir()
        return
    pytest.skip("this user may not make a control group with a limit of memory")


def test_a_real_control_group_counts(control_group: Path) -> None:
    join = 'echo $$ > "$0"/cgroup.procs && exec "$@"'
    _, total, available = ask("sh", "-c", join, str(control_group))
    assert total == 400 * MIB
    assert 0 < available <= 400 * MIB


def run(file: object, *words: str, prefix: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    command = [*prefix, sys.executable, "-m", "panic_tda", "cluster-embeddings", "--db", str(file), *words]
    return subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)


def test_a_limit_that_the_distance_matrix_exceeds_is_refused_with_its_bytes(upgraded: MakeFile) -> None:
    file = upgraded(FieldSpec(runs=100, length=40, text_models=("Nomic",), layout=0))
    words = ("cluster-embeddings", "--db", str(file.path), "--memory-limit", "1MiB")
    result = CliRunner().invoke(main, [*words, "--backend", "sklearn"])
    assert result.exit_code == 1
    assert "backend sklearn needs 92 MiB above the vectors for 2,000 rows" in result.stderr
    assert "--memory-limit allows 1 MiB; use --backend tiled" in result.stderr
    assert "load" not in result.stderr.replace("downloaded", "")
    # What was not named gives way.
    assert CliRunner().invoke(main, words).exit_code == 0


def test_a_fit_that_the_limit_of_the_process_cannot_hold_is_refused_before_loading(
    upgraded: MakeFile,
) -> None:
    if not shutil.which("prlimit"):
        pytest.skip("there is no command prlimit")
    file = upgraded(FieldSpec(runs=800, length=40, text_models=("Nomic",), layout=0))
    result = run(file.path, "--backend", "sklearn", prefix=("prlimit", f"--as={9 << 28}"))
    assert result.returncode == 1
    assert "backend sklearn needs 1.9 GiB of memory, but " in result.stderr
    assert "are available. Sample with --downsample, or use --backend tiled" in result.stderr
    assert "load" not in result.stderr
