"""Libraries in C, C++ and Fortran that lie inside the wheels, and their versions as far as they tell."""

from __future__ import annotations

import re
import sqlite3
import ssl
from collections.abc import Iterator
from importlib import import_module

# As each says it: the wheel it lies in, its name, its version.
Native = tuple[str, str, str]


def natives() -> list[Native]:
    """What cannot be asked here is left out."""
    found: list[Native] = []
    for ask in (_imagecodecs, _pillow, _databases, _tls, _numbers):
        try:
            found += ask()
        except (ImportError, AttributeError, OSError):
            continue
    return sorted(set(found))


def _imagecodecs() -> Iterator[Native]:
    told = import_module("imagecodecs").version(dict)
    for name, version in told.items():
        number = re.search(r"\d[\w.+-]*", str(version))
        if number and name not in {"imagecodecs", "cython", "numpy"}:
            yield "imagecodecs", name, number[0]


def _pillow() -> Iterator[Native]:
    features = import_module("PIL.features")
    for name in (*features.get_supported_codecs(), *features.get_supported_modules()):
        version = features.version(name)
        if version and name != "pil":
            yield "pillow", name, str(version)


def _databases() -> Iterator[Native]:
    yield "python", "sqlite", sqlite3.sqlite_version
    yield "pysqlite3", "sqlite", import_module("pysqlite3").sqlite_version
    number = import_module("psycopg").pq.version()  # 170005 for 17.5
    yield "psycopg-binary", "libpq", f"{number // 10000}.{number % 10000}"


def _tls() -> Iterator[Native]:
    yield "python", "openssl", ssl.OPENSSL_VERSION.split()[1]
    backend = import_module("cryptography.hazmat.backends.openssl.backend").backend
    yield "cryptography", "openssl", backend.openssl_version_text().split()[1]


def _numbers() -> Iterator[Native]:
    told = import_module("numpy").show_config(mode="dicts")["Build Dependencies"]
    for kind in ("blas", "lapack"):
        yield "numpy", told[kind]["name"], told[kind]["version"]
    config = import_module("torch").__config__.show()
    for name, version in re.findall(r"(oneAPI Math Kernel Library|MKL-DNN|OpenMP)\D*v?([\d.]+)", config):
        yield "torch", name.lower().replace(" ", "-"), version
