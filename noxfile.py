"""Sessions named after the question they answer. `nox --list` shows them.

An interpreter that pyenv hides behind a shim is found when its own `bin` is on PATH; say
`--error-on-missing-interpreters`, or a session without its Python is skipped with success.
"""

from __future__ import annotations

import os
import sys

import nox

nox.needs_version = ">=2024.10.9"
nox.options.sessions = ["lint", "types", "tests"]
nox.options.reuse_venv = "yes"

PYTHONS = nox.project.python_versions(nox.project.load_toml("pyproject.toml"))

# Newest torch that every supported Python has been tested with.
TORCH = "torch==2.13.0"

# One thread: the tests' tensors are tiny, and pools of threads fight over small machines.
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def here(session: nox.Session, *command: str) -> None:
    """Run a tool of the environment that nox itself was started from.

    Linters and type checkers need torch to be installed, not a copy of it per session.
    """
    session.run(sys.executable, "-m", *command, external=True)


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """Does it work?"""
    session.install("-e", ".[dev]", TORCH)
    session.run("pytest", *session.posargs, env=ONE_THREAD)


@nox.session(python=PYTHONS)
def engine(session: nox.Session) -> None:
    """Do the lower floors work without torch?"""
    session.install("bytecode>=0.19.1", "hypothesis", "pytest")
    session.install("--no-deps", "-e", ".")
    session.run("python", "-c", "import importlib.util as u; assert u.find_spec('torch') is None")
    session.run("pytest", *session.posargs)


@nox.session(python="3.11")
def minimums(session: nox.Session) -> None:
    """Does it work with the oldest torch and transformers that we promise?"""
    session.install(
        "-e", ".", "bytecode==0.19.1", "torch==2.6.0", "transformers==4.57.0", "numpy==2.1.*"
    )
    session.install("hypothesis", "pytest", "accelerate")
    session.run("pytest", *session.posargs, env=ONE_THREAD)


@nox.session(venv_backend="none")
def lint(session: nox.Session) -> None:
    """Is it written as the house is?"""
    here(session, "ruff", "check", ".")
    here(session, "ruff", "format", "--check", ".")


@nox.session(venv_backend="none")
def types(session: nox.Session) -> None:
    """Do the annotations hold, and does a user's editor understand them?"""
    here(session, "mypy")
    here(session, "mypy", "tests/typing")


@nox.session(venv_backend="none")
def docs(session: nox.Session) -> None:
    """Does every example in a docstring or a page run?"""
    here(session, "pytest", "--doctest-modules", "--doctest-glob=*.md", "src", "README.md", "docs")


@nox.session(python=PYTHONS)
def roundtrip(session: nox.Session) -> None:
    """Does the standard library survive lift and assemble?"""
    session.install("bytecode>=0.19.1", "hypothesis", "pytest")
    session.install("--no-deps", "-e", ".")
    session.run("pytest", "-o", "addopts=--import-mode=importlib", "tests/slow/test_roundtrip.py")


@nox.session(venv_backend="none")
def shapes(session: nox.Session) -> None:
    """Does a scan know the shape of every operation of every family?"""
    command = ["-m", "pytest", "-o", "addopts=--import-mode=importlib"]
    session.run(
        sys.executable, *command, "tests/slow/test_operations.py", external=True, env=ONE_THREAD
    )


@nox.session(python=PYTHONS)
def fuzz(session: nox.Session) -> None:
    """Is a traced program the same as the inline one? 2,000 and more programs."""
    session.install("-e", ".[dev]", TORCH)
    profile = {**ONE_THREAD, "TRACEKIT_FUZZ_PROFILE": "nightly"}
    session.run("pytest", "tests/test_fuzz.py", *session.posargs, env=profile)


@nox.session(venv_backend="none")
def bench(session: nox.Session) -> None:
    """Is a promise in `benchmarks/` broken?"""
    os.environ.update(ONE_THREAD)
    session.run(sys.executable, "benchmarks/against_hooks.py", external=True)


@nox.session(python=PYTHONS)
def calls(session: nox.Session) -> None:
    """What does a call inside a block cost, beside a plain one and a greenlet's switch?"""
    session.install("-e", ".", TORCH, "greenlet")
    session.run("python", "benchmarks/calls.py", env=ONE_THREAD)


@nox.session(venv_backend="none")
def field(session: nox.Session) -> None:
    """How does it stand beside hooks, and beside peers (`-- --peer nnsight=PYTHON`)?"""
    os.environ.update(ONE_THREAD)
    session.run(sys.executable, "-m", "benchmarks.field", *session.posargs, external=True)


@nox.session(venv_backend="none")
def soak(session: nox.Session) -> None:
    """Is anything left behind after thousands of traces?"""
    command = [
        "-m", "pytest", "-o", "addopts=--import-mode=importlib", "-o", "faulthandler_timeout=0",
        "tests/slow/test_soak.py",
    ]  # fmt: skip
    session.run(sys.executable, *command, *session.posargs, external=True, env=ONE_THREAD)
    # Every check that the interpreter has, on fewer of them: a wrong write shows at once.
    checked = {**ONE_THREAD, "PYTHONMALLOC": "debug", "TRACEKIT_SOAK_TRACES": "1000"}
    session.run(sys.executable, "-X", "dev", *command, "-k", "mixed", external=True, env=checked)
