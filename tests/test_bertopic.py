"""Run the handbook's block about UMAP and BERTopic where both are installed.

Set PANIC_TDA_BERTOPIC to the Python of an environment with panic_tda, umap-learn and bertopic. They need
hundreds of MiB of other packages, so that they are not among the extras.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.documents import BLOCKS

PYTHON = os.environ.get("PANIC_TDA_BERTOPIC")
INPUT = """
import numpy as np

rng = np.random.default_rng(0)
groups = rng.standard_normal((4, 32))
topic = np.repeat(np.arange(4), 60)
embeddings = (groups[topic] + 0.1 * rng.standard_normal((240, 32))).astype(np.float32)
words = [["red", "apple"], ["grey", "house"], ["blue", "sea"], ["green", "tree"]]
texts = [f"a {words[t][0]} {words[t][1]} number {i}" for i, t in enumerate(topic)]
"""
OUTPUT = """
assert [len(set(labels[topic == t])) for t in range(4)] == [1, 1, 1, 1], labels
assert len(set(labels.tolist())) == 4
found = np.array(topics.topics_)
assert len(set(found.tolist())) == 4, found
print(topics.get_topic_info().Name.tolist())
"""


@pytest.mark.skipif(not PYTHON, reason="set PANIC_TDA_BERTOPIC to a Python with umap-learn and bertopic")
def test_umap_and_bertopic_take_the_estimator(tmp_path: Path) -> None:
    (block,) = [block for block in BLOCKS if block.page == "python" and "bertopic" in block.text]
    assert PYTHON is not None
    process = subprocess.run(
        [PYTHON, "-P", "-c", INPUT + block.text + OUTPUT],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=1800,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    assert all(word in process.stdout for word in ("apple", "house", "sea", "tree"))
