"""Who is rewritten: by place, by mark, and by what a call is handed."""

from __future__ import annotations

import functools
import gc
import importlib.util
import json
import subprocess
import sys
import textwrap
import weakref
import zipfile

import pytest
from _runtime.driving import Refused, inline, note, traced, want

from tracekit import Tracer
from tracekit._bytecode.facts import NESTED_GENERATORS_USE_THE_C_STACK
from tracekit._runtime import resolve as resolving
from tracekit._runtime import special, twins
from tracekit._runtime.guards import forget
from tracekit._runtime.resolve import call, resolve
from tracekit.testing import same_as_inline


def load(path, name):
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def package(tmp_path):
    """Makes packages in a site-packages folder of their own."""

    def make(name, source, requires=""):
        site = tmp_path / "lib" / "site-packages"
        (site / name).mkdir(parents=True)
        file = site / name / "__init__.py"
        file.write_text(textwrap.dedent(source))
        info = site / f"{name}_project-1.0.dist-info"
        info.mkdir()
        lines = ["Metadata-Version: 2.1", f"Name: {name}-project", "Version: 1.0"]
        if requires:
            lines.append(f"Requires-Dist: {requires}")
        (info / "METADATA").write_text("\n".join(lines) + "\n")
        (info / "top_level.txt").write_text(name + "\n")
        return load(file, name)

    yield make
    twins._MARKED.clear()
    for table in (twins._PATHS, twins._VERDICTS, twins._DEPENDANTS):
        table.clear()


LIBRARY = """
    def passes(f, *args):
        return f(*args)

    def plain(x):
        return x

    def decorator(f):
        def wrapper(*args):
            return f(*args)
        return wrapper

    class Holder:
        def __init__(self, f):
            self.f = f

        def run(self):
            return self.f()
"""


def test_the_standard_library_is_straight_but_for_plumbing():
    assert not twins.judge(json.dumps.__code__)
    assert not twins.judge(twins.judge.__code__)
    assert twins.judge(functools.singledispatch.__code__)
    assert twins.judge(test_the_standard_library_is_straight_but_for_plumbing.__code__)
    assert twins.judge(compile("1", "<string>", "eval"))
    assert twins.judge(compile("1", "<ipython-input-1>", "eval"))
    assert not twins.judge(compile("1", "<frozen os>", "eval"))


def test_code_in_a_zip_is_rewritten(tmp_path, monkeypatch):
    path = tmp_path / "app.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("zipped_module.py", "def f(x):\n    return x\n")
    monkeypatch.syspath_prepend(str(path))
    import zipped_module

    assert twins.judge(zipped_module.f.__code__)


def test_coroutines_are_straight():
    async def coroutine():
        pass

    async def generator():
        yield

    assert not twins.judge(coroutine.__code__)
    assert not twins.judge(generator.__code__)
    assert resolve(coroutine) is None or not twins.judge(coroutine.__code__)


def test_installed_packages(package):
    straight = package("straightlib", LIBRARY)
    depends = package("dependinglib", LIBRARY, "tracekit>=0.1")
    similar = package("similarlib", LIBRARY, "tracekit-extras")

    assert not twins.judge(straight.plain.__code__)
    assert twins.judge(depends.plain.__code__)
    assert not twins.judge(similar.plain.__code__)


def test_touches_models_marks_a_package(package):
    library = package("markedlib", LIBRARY)
    assert not twins.judge(library.plain.__code__)

    twins.touches_models("markedlib")

    assert twins.judge(library.plain.__code__)


class Callback:
    def __call__(self, x):
        return want(x)


def test_a_library_function_is_rewritten_for_a_callback(package):
    library = package("callbacklib", LIBRARY)

    def with_callbacks():
        decorated = library.decorator(want)
        bound = library.decorator(lambda x: want(x) + 1)
        made = library.passes(Callback(), 6), library.plain(Callback)
        return (
            library.passes(want, 1),
            library.passes(lambda: want(2)),
            decorated(3),
            bound(4),
            made,
        )

    expected, actual = inline(with_callbacks), traced(with_callbacks)

    assert expected.value == actual.value == (1, 2, 3, 5, (6, Callback))
    assert expected.log == actual.log


def test_what_a_library_keeps_for_later_is_refused(package):
    library = package("keepinglib", LIBRARY)

    def later():
        return library.Holder(lambda: want(1)).run()

    assert inline(later).value == 1
    assert traced(later).error.startswith(Refused.__name__)


def test_never_asks():
    @twins.never_asks
    def hot(x):
        return note(x) + 1

    @twins.never_asks
    def lies():
        return [want(1) for _ in range(1)]

    assert resolve(hot)(1) is not None
    assert not twins.judge(hot.__code__)
    assert traced(lambda: hot(1)).value == 2
    assert traced(lambda: lies()).error.startswith(Refused.__name__)
    with pytest.raises(TypeError, match="wants a Python function"):
        twins.never_asks(3)


def test_verdicts_do_not_keep_code_alive():
    code = compile("def f(): return 1", "<cell 1>", "exec").co_consts[0]
    twins.judge(code)
    key, alive = id(code), weakref.ref(code)
    assert key in twins._VERDICTS

    del code
    gc.collect()

    assert alive() is None
    assert key not in twins._VERDICTS


def test_equal_code_of_two_files_has_two_twins():
    one, two = (compile("def f():\n  return 1", name, "exec").co_consts[0] for name in "ab")

    assert twins.twin_code(one) is not twins.twin_code(two)
    assert twins.twin_code(two).code.co_filename == "b"


def test_twins_do_not_keep_code_alive():
    names = {}
    exec(compile("def f(): return 1", "<cell 2>", "exec"), names)
    alive = weakref.ref(names["f"].__code__)
    list(call(names["f"]))

    names.clear()
    forget()
    gc.collect()

    assert alive() is None


def test_the_users_function_is_not_changed():
    def f(x, *, k=2):
        return x, k

    before = (f.__code__, f.__defaults__, f.__kwdefaults__, dict(f.__dict__))
    traced(lambda: f(1))

    assert before == (f.__code__, f.__defaults__, f.__kwdefaults__, dict(f.__dict__))


def test_changed_defaults_and_code_are_seen():
    def f(x=1):
        return x

    def g():
        return "new"

    def run():
        first = f()
        f.__defaults__ = (5,)
        second = f()
        f.__defaults__ = None
        f.__code__ = g.__code__
        return first, second, f()

    assert traced(run).value == (1, 5, "new")


MANY_CALLABLES = """
import math

def one(x=1):
    return ask(x)

def other(x=2):
    return -ask(x)

class Methods:
    def one(self, x=3):
        return ask(x)
    static = staticmethod(other)

with trace():
    m = Methods()
    out = []
    for step in range(5):
        for f in (one, one, other, len, m.one, Methods().one, m.static, abs, math.sqrt, one, Methods.one):
            try:
                out.append(f(step) if step % 2 else f())
            except TypeError as error:
                out.append(str(error))
        one.__defaults__ = (10 + step,)
        if step == 2:
            one.__code__ = other.__code__
    del m, f
"""


def test_one_call_of_many_callables():
    """What a call has met before is called without a check; what it has not, is asked about."""
    same_as_inline(MANY_CALLABLES)


def test_a_call_drops_what_it_has_met():
    names = {}
    exec(compile("def f(): return 1\ndef run():\n for _ in range(3): f()", "<cell>", "exec"), names)
    alive = weakref.ref(names["f"])
    run = names["run"]
    traced(run)
    forget()

    names.clear()
    gc.collect()

    assert alive() is None


DEEP = """
import sys
sys.path.insert(0, {tests!r})
from _runtime.driving import traced, want
sys.setrecursionlimit(10**6)

def down(n):
    return want(n) if n == 0 else down(n - 1)

outcome = traced(lambda: down(200_000))
print(outcome.error[:14] or outcome.value)
"""


@pytest.mark.skipif(
    not NESTED_GENERATORS_USE_THE_C_STACK, reason="nested generators take no C stack here"
)
def test_deep_recursion_ends_in_an_error_and_not_in_a_crash(pytestconfig):
    source = DEEP.format(tests=str(pytestconfig.rootpath / "tests"))
    done = subprocess.run(
        [sys.executable, "-c", source], capture_output=True, text=True, timeout=60
    )

    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip() == "RecursionError"


def test_marking_a_package_leaves_no_twin_of_code_that_dies():
    """Else the next code with the same id would be executed as that one."""
    names = {}
    exec(compile("def f(): return 1", "<cell>", "exec"), names)
    key = id(names["f"].__code__)
    assert twins.twin_code(names["f"].__code__) is not None

    twins.touches_models("nothing_of_this_name")
    names.clear()
    gc.collect()

    assert key not in twins._TWINS


PROGRESS = """
import os
with open(os.devnull, "w") as nowhere:
    def items():
        for i in range(3):
            yield ask(i)
    with trace():
        seen = [x for x in tqdm(items(), file=nowhere)]
        sums = sum(auto(map(ask, [1, 2]), file=nowhere, total=2))
        pairs = dict(zip("ab", tqdm(items(), disable=True)))
        with tqdm(total=2, file=nowhere) as bar:
            bar.update(ask(2))
            done = bar.n
        try:
            for x in tqdm(items(), file=nowhere):
                raise KeyError(x)
        except KeyError as error:
            caught = str(error)
    del bar
"""


def test_a_progress_bar_hands_on_what_waits(monkeypatch):
    """Everybody's library that keeps what it was handed, and steps it later."""
    progress = pytest.importorskip("tqdm")
    automatic = pytest.importorskip("tqdm.auto")
    # Without the thread that watches over bars: it would stay for all later tests.
    monkeypatch.setattr(progress.tqdm, "monitor_interval", 0)

    same_as_inline(PROGRESS, {"tqdm": progress.tqdm, "auto": automatic.tqdm})


def test_functions_and_classes_that_are_made_anew_do_not_pile_up():
    def once():
        def function():
            return 1

        class Kind:
            pass

        with Tracer():
            function()
            [Kind()] == [Kind()]

    for _ in range(50):
        once()
    gc.collect()
    before = len(twins._KEPT_FUNCTIONS)
    for _ in range(3 * twins.MANY_FUNCTIONS):
        once()

    assert before <= twins.MANY_FUNCTIONS
    assert len(twins._KEPT_FUNCTIONS) <= twins.MANY_FUNCTIONS
    assert len(resolving.READY) <= twins.MANY_FUNCTIONS


def test_what_is_remembered_of_classes_is_bounded(monkeypatch):
    monkeypatch.setattr(special, "_MANY_CLASSES", 20)
    monkeypatch.setattr(special, "_MANY_VERDICTS", 40)
    plain = set()
    for number in range(100):
        kind = type(f"Kind{number}", (), {"__eq__": lambda self, other: True, "__hash__": None})
        special.remember(plain, kind)
        special.special(kind, "__eq__")
        special.special_asks(kind, "__eq__")

    assert len(plain) <= 20
    assert len(special._SPACES) <= 20
    assert len(special._VERDICTS) <= 40
