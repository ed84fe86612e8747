"""Test that SIGTERM and Ctrl-C end a command at once, also during long native calls."""

from __future__ import annotations

import re
import shutil
import signal
from pathlib import Path

import pytest

from panic_tda.storage.write import pending
from panic_tda.storage.write.recovery import save_pending
from tests.conftest import MakeFile
from tests.faults.runs import (
    FIT_MODELS,
    PLAN,
    file_of_models,
    find_leftover_files,
    require_complete,
    run,
)
from tests.field_files import FieldSpec, write_field_file
from tests.snapshots import snapshot

CODES = [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
NEVER, SOON = 1e6, 0.2
START = """
import sys
import numpy as np
from panic_tda import interrupts
interrupts.GRACE_SECONDS = {grace}
{body}
from panic_tda.main import main
main(prog_name="panic-tda")
"""
# One call that takes an hour and no memory.
NUMPY = """
from panic_tda.clustering.backends.sklearn import SklearnBackend

def fit(self, vectors, weights, options):
    options.progress.phase("one product")
    np.add.reduce(np.broadcast_to(np.float64(1), (10**13,)))
    print("IT ENDED", file=sys.stderr)

SklearnBackend.fit = fit
"""
ENDLESS = """
import logging
import sqlalchemy as sa
ENDLESS = sa.text("WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c) SELECT count(*) FROM c")
"""
UPGRADE = f"""{ENDLESS}
from panic_tda.storage.schema import upgrade
whole = upgrade.migrate

def migrate(connection):
    whole(connection)
    logging.getLogger("panic_tda").debug("statement …")
    connection.execute(ENDLESS)
    print("IT ENDED", file=sys.stderr)

upgrade.migrate = migrate
"""
SAVE = f"""{ENDLESS}
from panic_tda.storage.write import saving
whole = saving.save_clustering

def save_clustering(connection, finished):
    whole(connection, finished)
    logging.getLogger("panic_tda").debug("statement …")
    connection.execute(ENDLESS)
    print("IT ENDED", file=sys.stderr)

saving.save_clustering = save_clustering
"""


def test_a_signal_ends_a_long_native_call(upgraded: MakeFile) -> None:
    number, code, word = CODES[0]
    file = upgraded()
    before = snapshot(file.path)
    words = ("cluster-embeddings", "Nomic", "--backend", "sklearn")
    program = START.format(grace=SOON, body=NUMPY)
    result = run(file.path, words, after=0.5, phase="one product", number=number, code=program)
    assert result.code == code, result.stderr
    assert "IT ENDED" not in result.stderr
    assert "Nomic: one product: stopped after" in result.stderr
    assert result.stderr.endswith(f"{word}; nothing unfinished is in the database")
    assert snapshot(file.path) == before
    assert find_leftover_files(file.path) == []


def test_a_signal_ends_a_long_statement(tmp_path: Path) -> None:
    facts = write_field_file(tmp_path / "field.sqlite", FieldSpec(wal=True))
    before = snapshot(facts.path)
    program = START.format(grace=NEVER, body=UPGRADE)
    result = run(
        facts.path, ("upgrade", "--yes"), after=0.5, phase="statement", number=signal.SIGTERM, code=program
    )
    assert result.code == 143, result.stderr
    assert "IT ENDED" not in result.stderr
    assert "upgrade: stopped after" in result.stderr
    assert "Traceback" not in result.stderr
    assert snapshot(facts.path) == before


def test_a_signal_during_a_long_saving_statement_makes_the_result_a_pending_file(upgraded: MakeFile) -> None:
    file = upgraded()
    words = ("cluster-embeddings", "Nomic", "--backend", "tiled")
    program = START.format(grace=NEVER, body=SAVE)
    result = run(file.path, words, after=0.5, phase="statement", number=signal.SIGINT, code=program)
    assert result.code == 130, result.stderr
    (pending_file,) = pending.find_pending(file.database)
    assert re.search(
        f"interrupted while saving; the result is kept in {re.escape(str(pending_file))}", result.stderr
    )
    assert require_complete(file.path) == 0
    assert [saved.n_vanished for saved in save_pending(file.database)] == [0]
    assert require_complete(file.path) == 1


DROPPED = """
import os
from panic_tda.{module} import {name} as whole
import panic_tda.{module} as module

class Finalized:
    def __del__(self):
        # The handler runs here, and Python drops what it raises.
        os.kill(os.getpid(), {number:d})
        sum(range(10_000))

def signalled(*arguments, **settings):
    Finalized()
    return whole(*arguments, **settings)

module.{name} = signalled
"""
SWALLOWED = """
import os, time
from panic_tda.insight import planning

def swallow(*arguments, **settings):
    try:
        os.kill(os.getpid(), {number:d})
        sum(range(10_000))
    except BaseException:
        print("SWALLOWED", file=sys.stderr, flush=True)
    while True:
        time.sleep(0.01)

planning.read_row_sample = swallow
"""
WORK = {
    "plan": (PLAN, {"module": "insight.planning", "name": "read_row_sample"}, CODES[1]),
    "cluster": (FIT_MODELS, {"module": "model_fits", "name": "load_embeddings"}, CODES[0]),
}


@pytest.fixture(scope="module")
def template_of_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "field.sqlite"
    file_of_models(path, 3_000)
    return path


@pytest.fixture
def many_models(tmp_path: Path, template_of_models: Path) -> Path:
    return Path(shutil.copyfile(template_of_models, tmp_path / "field.sqlite"))


@pytest.mark.parametrize("name", WORK)
def test_a_signal_whose_exception_python_drops_takes_effect_anyway(many_models: Path, name: str) -> None:
    path = many_models
    before = snapshot(path)
    words, target, (number, code, word) = WORK[name]
    program = START.format(grace=NEVER, body=DROPPED.format(number=number, **target))
    result = run(path, words, code=program)
    assert result.code == code, result.stderr
    assert "Traceback" not in result.stderr
    assert result.stderr.endswith(f"{word}; nothing unfinished is in the database")
    assert snapshot(path) == before


CLOSED = """
import os
from sqlalchemy.engine.default import DefaultDialect
close_connection = DefaultDialect.do_close

def close(self, connection):
    close_connection(self, connection)
    DefaultDialect.do_close = close_connection
    os.kill(os.getpid(), {number:d})
    sum(range(10_000))

DefaultDialect.do_close = close
"""


def test_a_signal_while_a_connection_is_closed_ends_without_a_traceback(many_models: Path) -> None:
    """SQLAlchemy logs it with a traceback before it passes it on."""
    number, code, word = CODES[0]
    log = many_models.with_suffix(".log")
    program = START.format(grace=NEVER, body=CLOSED.format(number=number))
    result = run(many_models, (*PLAN, "--log-file", log), code=program)
    assert result.code == code, result.stderr
    assert "Traceback" not in result.stderr
    assert result.stderr.endswith(f"{word}; nothing unfinished is in the database")
    assert "Traceback" not in log.read_text()


def test_a_process_that_survives_its_signal_handler_is_ended(many_models: Path) -> None:
    number, code, word = CODES[1]
    program = START.format(grace=2.0, body=SWALLOWED.format(number=number))
    result = run(many_models, PLAN, code=program)
    assert result.code == code, result.stderr
    assert "SWALLOWED" in result.stderr
    assert result.stderr.endswith(f"{word}; nothing unfinished is in the database")


HALF_MADE = """
import os
from panic_tda import model_fits
load = model_fits.load_embeddings

class HalfMade:
    def __init__(self):
        os.kill(os.getpid(), {number:d})
        sum(range(10_000))
        self.pointer = 0

    def __del__(self):
        self.pointer

def signalled(*arguments, **settings):
    HalfMade()
    return load(*arguments, **settings)

model_fits.load_embeddings = signalled
"""


def test_an_object_that_a_signal_left_half_made_prints_no_traceback(many_models: Path) -> None:
    """Objects of llvmlite are such while code is compiled."""
    number, code, word = CODES[0]
    result = run(
        many_models, FIT_MODELS, code=START.format(grace=NEVER, body=HALF_MADE.format(number=number))
    )
    assert result.code == code, result.stderr
    assert result.stderr.endswith(f"{word}; nothing unfinished is in the database")
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("name", WORK)
def test_signals_end_work_on_many_models_at_any_moment(many_models: Path, name: str) -> None:
    """Between models the time is spent in many short steps of Python.

    `scripts/fault_matrix.py plan models` does the same at more moments.
    """
    path, words = many_models, WORK[name][0]
    program = START.format(grace=3.0, body="")
    ended = 0
    for turn, after in enumerate((0.0, 0.3)):
        number, code, word = CODES[turn]
        before = require_complete(path)
        result = run(path, words, after=after, phase="count embeddings", number=number, code=program)
        assert result.code in (0, code), result.stderr
        assert "Traceback" not in result.stderr
        n_whole = require_complete(path)
        assert before <= n_whole <= before + 30
        assert name == "cluster" or n_whole == 0
        if result.code:
            ended += 1
            assert result.stderr.endswith(f"{word}; nothing unfinished is in the database")
    assert ended
