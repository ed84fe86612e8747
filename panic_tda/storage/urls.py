"""Parse the paths and URLs of databases."""

from __future__ import annotations

import os
import re
from pathlib import Path

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from panic_tda.errors import WrongUsage
from panic_tda.paths import find_database_file

# libpq accepts `postgres` too, and providers of databases use it in their URLs.
_POSTGRES_DRIVERS = ("postgresql", "postgresql+psycopg", "postgres", "postgres+psycopg")
_DRIVERS = ("sqlite", "sqlite+pysqlite", *_POSTGRES_DRIVERS)
_BROKEN_URL = re.compile(r"[a-z][a-z0-9+.-]+:/|(sqlite|postgres)[a-z0-9+]*:", flags=re.IGNORECASE)


def parse_target(target: str | Path) -> URL:
    """Convert the path or URL of a database to a URL object.

    Raises
    ------
    WrongUsage
        It is neither a path nor a URL, or the kind of database or a part of the URL is not supported.
    """
    text = str(target)
    if not text:
        raise WrongUsage("the name of the database is empty; give a path with --db or PANIC_TDA_DB")
    if "://" not in text:
        if _BROKEN_URL.match(text) and not os.path.exists(text):
            # As a path, it would create folders with the password in their names.
            raise WrongUsage(
                "a database URL has :// after its scheme, as postgresql://USER@HOST/NAME (the one given is "
                "not shown: it may hold a password)"
            )
        return URL.create("sqlite", database=str(find_database_file(text)))
    try:
        url = make_url(text)
    except (ArgumentError, ValueError) as error:
        if "@" in text:
            # A URL that cannot be parsed may contain a password, and the error message a part of it.
            raise WrongUsage("the database URL (not shown: it may hold a password) is invalid") from None
        raise WrongUsage(f"{text!r} is neither a path nor a database URL: {error}") from error
    backend = url.get_backend_name()
    if url.drivername not in _DRIVERS:
        raise WrongUsage(
            f"databases are SQLite or PostgreSQL (sqlite:///, postgresql://); got {url.drivername}://"
        )
    if backend == "sqlite" and (url.query or url.host or url.username):
        extra_parts = ", ".join(url.query) or "a host"
        raise WrongUsage(f"an SQLite URL is sqlite:/// and a path, without anything else; got {extra_parts}")
    if backend == "sqlite" and url.database in (None, "", ":memory:"):
        raise WrongUsage(
            f"{text} names no file, so nothing would be saved; give a path with --db or PANIC_TDA_DB"
        )
    if backend != "sqlite":
        return url.set(drivername="postgresql+psycopg")
    return url.set(database=str(find_database_file(text)))
