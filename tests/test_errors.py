"""Errors: three families, one layout, and a slug that stands in four places."""

from __future__ import annotations

import ast
import pickle
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tracekit.errors import (
    InternalError,
    NotRunningError,
    OutOfOrderError,
    TraceError,
    TracekitError,
    UnknownNameError,
    UnsupportedError,
    WithBlockNotFoundError,
    main,
    section,
)

TESTS = Path(__file__).parent
DOC = TESTS.parent / "docs" / "errors.md"
CLASSES = [cls for cls in TracekitError.slugs.values() if cls.__module__ == "tracekit"]


def full(cls):
    error = cls("what happened", where="a.py:1", seen="one\ntwo", why="because", fix="`do()`")
    error.add_note("a note")
    return error


@pytest.fixture(scope="module")
def words_of_tests():
    """Names that the tests use (importing one is no use), and texts that they spell."""
    words = set()
    for path in TESTS.rglob("test_*.py"):
        if path.name in {"test_errors.py", "test_exports.py"}:
            continue
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Name):
                words.add(node.id)
            elif isinstance(node, ast.Attribute):
                words.add(node.attr)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                words.add(node.value)
    return words


class TestSlugs:
    def test_every_slug_has_a_page_section_and_back(self):
        sections = re.findall(r"^## (\S+)$", DOC.read_text("utf-8"), re.MULTILINE)

        assert sorted(cls.slug for cls in CLASSES) == sorted(sections)

    @pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.slug)
    def test_some_test_triggers_it(self, cls, words_of_tests):
        """Each class is used, or its slug spelt, by a test other than this file."""
        assert {cls.__name__, cls.slug} & words_of_tests

    @pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.slug)
    def test_the_last_row_leads_to_the_page(self, cls):
        row = str(full(cls)).splitlines()[-1]

        assert f"  See:  python -m tracekit.errors {cls.slug}" == row
        assert section(cls.slug).startswith(f"## {cls.slug}\n")

    def test_a_slug_is_taken_once(self):
        with pytest.raises(TypeError, match="'out-of-order' of Mine is taken by OutOfOrderError"):

            class Mine(TracekitError, slug="out-of-order"):
                pass

    def test_each_class_belongs_to_one_family(self):
        families = (TraceError, UnsupportedError, InternalError)

        assert [] == [c for c in CLASSES if sum(issubclass(c, f) for f in families) != 1]


class TestLayout:
    def test_all_rows(self):
        assert str(full(OutOfOrderError)) == (
            "what happened\n"
            "  At:   a.py:1\n"
            "  Seen: one\n"
            "        two\n"
            "  Why:  because\n"
            "  Fix:  `do()`\n"
            "  See:  python -m tracekit.errors out-of-order"
        )

    def test_empty_rows_are_dropped(self):
        assert str(OutOfOrderError("w", fix="f")) == (
            "w\n  Fix:  f\n  See:  python -m tracekit.errors out-of-order"
        )

    def test_a_family_has_no_page(self):
        assert "w" == str(TraceError("w"))

    def test_rows_may_be_added_later(self):
        error = OutOfOrderError("w")
        error.where = "b.py:2"

        assert "  At:   b.py:2\n" in str(error)

    def test_the_dump_comes_last(self):
        text = str(InternalError("w", dump="1 LOAD\n2 STORE"))

        assert re.search(r"\n  Dump of Python 3\.\d+\.\d+\S*:\n1 LOAD\n2 STORE$", text)

    def test_the_public_name_is_printed(self):
        program = "from tracekit.errors import OutOfOrderError as E; raise E('w', where='a:1')"
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=False
        )

        assert "\ntracekit.OutOfOrderError: w\n  At:   a:1\n" in done.stderr


class TestProcessBoundary:
    @pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.slug)
    def test_a_message_survives(self, cls):
        error = full(cls)
        copy = pickle.loads(pickle.dumps(error))

        assert (type(error), str(error)) == (type(copy), str(copy))
        assert ["a note"] == copy.__notes__

    def test_the_dump_survives(self):
        error = InternalError("w", dump="d")

        assert str(error) == str(pickle.loads(pickle.dumps(error)))


class TestFamilies:
    """What other code catches by."""

    def test_a_limit_is_a_not_implemented_error(self):
        assert issubclass(WithBlockNotFoundError, NotImplementedError)

    @pytest.mark.parametrize("cls", [NotRunningError, UnknownNameError])
    def test_hasattr_is_safe(self, cls):
        class Thing:
            @property
            def output(self):
                raise cls("w")

        assert not hasattr(Thing(), "output")

    def test_out_of_order_is_no_attribute_error(self):
        assert not issubclass(OutOfOrderError, AttributeError)


class TestCommand:
    def test_prints_the_section(self, capsys):
        assert 0 == main(["out-of-order"])

        assert capsys.readouterr().out == section("out-of-order")

    def test_lists_the_slugs(self, capsys):
        assert 0 == main([])

        assert {cls.slug for cls in CLASSES} <= set(capsys.readouterr().out.split())

    def test_an_unknown_slug(self, capsys):
        assert 2 == main(["out-of-odor"])

        assert "no error has the slug 'out-of-odor'; there are: " in capsys.readouterr().err

    def test_as_a_program(self):
        done = subprocess.run(
            [sys.executable, "-m", "tracekit.errors", "internal"],
            capture_output=True,
            text=True,
            check=False,
        )

        assert (section("internal"), "") == (done.stdout, done.stderr)
