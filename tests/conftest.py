"""Databases that the tests start from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from panic_tda.database import Database, open_database
from panic_tda.upgrade import upgrade
from tests.field_files import FieldFacts, FieldSpec, write_field_file
from tests.snapshots import field_copy


class UpgradedFile(NamedTuple):
    """A database with our tables, and what was written into it before."""

    database: Database
    facts: FieldFacts

    @property
    def path(self) -> Path:
        return self.facts.path


MakeFile = Callable[..., UpgradedFile]
PLAIN = FieldSpec()


@pytest.fixture
def upgraded(tmp_path: Path) -> MakeFile:
    """Write a field file by its spec and bring it to our tables."""

    def make(spec: FieldSpec = PLAIN, name: str = "field.sqlite") -> UpgradedFile:
        facts = write_field_file(tmp_path / name, spec)
        database = open_database(facts.path)
        upgrade(database)
        return UpgradedFile(database, facts)

    return make


@pytest.fixture
def real_file(tmp_path: Path) -> Database:
    """A copy of the real field file, upgraded; skips where the environment names none."""
    database = open_database(field_copy(tmp_path))
    upgrade(database)
    return database
