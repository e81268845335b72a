"""Every place of execution runs a block as a file does.

Each test starts a fresh interpreter, as a user would, and looks at what it prints. That the block
was traced, and not its inline copy run, shows in the frame that it sees: it is a generator's.
"""

from __future__ import annotations

import importlib.util
import json
import os
import py_compile
import re
import select
import subprocess
import sys
import textwrap
import time
import zipapp
from pathlib import Path

import pytest

import tracekit

BLOCK = Path(__file__).with_name("places") / "block.py"
TEXT = BLOCK.read_text().replace("from __future__ import annotations\n", "")
GOOD = "traced 3 [2, 3] True"
SOURCE = str(Path(tracekit.__file__).resolve().parents[1])
HAS_NEW_REPL = importlib.util.find_spec("_pyrepl") is not None


def environment(**more):
    env = {name: value for name, value in os.environ.items() if name != "PYTHONSTARTUP"}
    env |= {"PYTHONPATH": SOURCE, "PYTHONWARNINGS": "error", "PYTHONDONTWRITEBYTECODE": "1"}
    return env | more


def run(*arguments, stdin="", cwd=None, **env):
    """Run Python; return what it printed. Anything on stderr fails."""
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        input=stdin,
        capture_output=True,
        text=True,
        cwd=cwd,
        env=environment(**env),
        timeout=120,
        check=False,
    )

    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.strip()


def needs(*modules):
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    return pytest.mark.skipif(bool(missing), reason=f"not installed: {missing}")


def test_a_file():
    assert run(BLOCK) == GOOD


@pytest.mark.parametrize("option", ["-O", "-OO", "-Xdev", "-Xno_debug_ranges", "-I"])
def test_options(option, tmp_path):
    text = f"import sys; sys.path.insert(0, {SOURCE!r})\n" + TEXT
    path = tmp_path / "program.py"
    path.write_text(text)

    assert run(option, path) == GOOD


def test_command_line_text():
    assert run("-c", TEXT) == GOOD


def test_a_script_on_standard_input():
    assert run("-", stdin=TEXT) == GOOD


def test_a_module(tmp_path):
    (tmp_path / "program.py").write_text(TEXT)

    assert run("-m", "program", cwd=tmp_path) == GOOD


def test_compiled_without_source(tmp_path):
    source = tmp_path / "program.py"
    source.write_text(TEXT)
    compiled = tmp_path / "program.pyc"
    py_compile.compile(str(source), str(compiled), doraise=True)
    source.unlink()

    assert run(compiled) == GOOD
    assert run("-m", "program", cwd=tmp_path) == GOOD


def test_a_zipapp(tmp_path):
    folder = tmp_path / "app"
    folder.mkdir()
    (folder / "__main__.py").write_text("import inner\n")
    (folder / "inner.py").write_text(TEXT)
    zipapp.create_archive(folder, tmp_path / "app.pyz")

    assert run(tmp_path / "app.pyz") == GOOD


def test_edited_on_disk_while_it_runs(tmp_path):
    path = tmp_path / "program.py"
    head = "from pathlib import Path\nPath(__file__).write_text('\\n' * 50 + 'nonsense (')\n"
    path.write_text(head + TEXT)

    assert run(path) == GOOD


def test_an_error_of_edited_code_names_its_line(tmp_path):
    path = tmp_path / "program.py"
    path.write_text(
        textwrap.dedent("""\
            from pathlib import Path
            from tracekit._runtime.tracer import Tracer
            Path(__file__).unlink()
            try:
                with Tracer():
                    x = 1
                    y = x / 0
            except ZeroDivisionError as error:
                entry = error.__traceback__
                while entry:
                    print(entry.tb_lineno, end=' ')
                    entry = entry.tb_next
        """)
    )

    assert run(path).split()[0] == "7"


def test_exec_with_one_namespace():
    assert (
        run("-c", f"import pathlib; exec(pathlib.Path({str(BLOCK)!r}).read_text(), {{}})") == GOOD
    )


def test_exec_with_two_namespaces():
    """A function in it does not see the second namespace: that is so inline, too."""
    text = """
from tracekit._runtime.tracer import Tracer
space = {}
exec('''
import sys
with Tracer() as t:
    x = 1
    numbers = [i + 1 for i in (1, 2)]
    is_twin = bool(sys._getframe().f_code.co_flags & 0x20)
    import math as m
    del sys
''', {'Tracer': Tracer}, space)
print(sorted(space), space['numbers'], space['is_twin'])
"""

    assert run("-c", text) == "['is_twin', 'm', 'numbers', 't', 'x'] [2, 3] True"


def test_the_interactive_console_of_the_code_module():
    text = """
import code, sys
console = code.InteractiveConsole()
for line in SOURCE.split('\\n') + ['']:
    more = console.push(line)
print(more)
"""
    source = re.sub(r"\n\n+", "\n", TEXT.split("\n\n", 2)[2])
    out = run("-c", text.replace("SOURCE", repr('"""."""\nimport sys\n' + source)))

    assert [GOOD, "False"] == out.split("\n")[-2:]


def test_a_doctest(tmp_path):
    path = tmp_path / "program.py"
    path.write_text(
        textwrap.dedent('''\
            """
            >>> from tracekit._runtime.tracer import Tracer
            >>> import sys
            >>> with Tracer() as tracer:
            ...     x = 1
            ...     twin = sys._getframe().f_code.co_flags & 0x20
            ...     print('printed')
            printed
            >>> x, twin
            (1, 32)
            >>> with Tracer():
            ...     1 / 0
            Traceback (most recent call last):
            ZeroDivisionError: division by zero
            """
        ''')
    )

    assert "5 passed" in (out := run("-m", "doctest", "-v", path)), out


def test_rewritten_assertions_of_pytest(tmp_path):
    path = tmp_path / "test_program.py"
    path.write_text(
        textwrap.dedent("""\
            import pytest, sys
            from tracekit._runtime.tracer import Tracer

            def test_it():
                with Tracer() as tracer:
                    x = [1, 2]
                    assert x == [1, 2]
                    assert sys._getframe().f_code.co_flags & 0x20
                assert x == [1, 2]

            def test_it_fails():
                with pytest.raises(AssertionError) as caught:
                    with Tracer() as tracer:
                        x = [1, 2]
                        assert x == [1, 3]
                assert 'assert [1, 2] == [1, 3]' in str(caught.value)
                assert caught.traceback[0].lineno == 14

            def test_fixture(tmp_path):
                with Tracer():
                    name = tmp_path.name
                assert name
        """)
    )
    out = run("-m", "pytest", "-q", "-p", "no:cacheprovider", path, cwd=tmp_path)

    assert "3 passed" in out


# --- The real prompts, in a pseudo-terminal -------------------------------------------------


class Terminal:
    """A process in a pseudo-terminal, typed into."""

    def __init__(self, command, **env):
        import pty

        pid, self.fd = pty.fork()
        if pid == 0:
            try:
                os.execve(command[0], command, environment(**{"TERM": "dumb"} | env))
            finally:
                os._exit(1)
        self.pid = pid
        self.text = ""

    def read_until(self, pattern, timeout_s=60.0):
        end = time.monotonic() + timeout_s
        while not re.search(pattern, self.text):
            left = end - time.monotonic()

            assert left > 0, f"no {pattern!r} in {self.text[-2000:]!r}"
            if select.select([self.fd], [], [], left)[0]:
                try:
                    data = os.read(self.fd, 65536)
                except OSError:
                    data = b""

                assert data, f"ended without {pattern!r}: {self.text[-2000:]!r}"
                self.text += data.decode(errors="replace")
        match = re.search(pattern, self.text)
        before, self.text = self.text[: match.end()], self.text[match.end() :]
        return before

    def type(self, line):
        os.write(self.fd, line.encode() + b"\n")

    def close(self):
        import signal

        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self.fd)


@pytest.fixture
def terminal():
    opened = []

    def open_one(command, **env):
        opened.append(Terminal(command, **env))
        return opened[-1]

    yield open_one
    for one in opened:
        one.close()


@pytest.mark.parametrize(
    "kind",
    [
        "basic",
        pytest.param(
            "new", marks=pytest.mark.skipif(not HAS_NEW_REPL, reason="this Python has one REPL")
        ),
    ],
)
def test_the_prompt_of_python(kind, terminal):
    """A block, a block with an error, and the names afterwards.

    The new prompt redraws what is typed at each key, so what is looked for is output only.
    """
    env = {"PYTHON_BASIC_REPL": "1"} if kind == "basic" else {"TERM": "xterm"}
    prompt = terminal([sys.executable, "-q"], **env)
    prompt.read_until(">>> ")
    prompt.type("import sys; from tracekit._runtime.tracer import Tracer; print('rea' + 'dy')")
    prompt.read_until("ready")
    prompt.type("with Tracer() as tracer: x = 20; flag = sys._getframe().f_code.co_flags & 0x20")
    prompt.type("")
    prompt.type("print('su' + 'm', x + flag)")
    prompt.read_until(r"sum 52\b")
    prompt.type("with Tracer(): print('i' + 'n', 4 * 4); y = 1 / (x - 20)")
    prompt.type("")
    text = prompt.read_until("ZeroDivisionError.*: .*division by zero")
    prompt.type("print('y' in globals(), tracer.__class__.__name__)")
    prompt.read_until(r"False Tracer\b")

    assert "in 16" in text
    assert "tracekit/_runtime" not in text


@needs("IPython")
def test_the_prompt_of_ipython(terminal, tmp_path):
    prompt = terminal(
        [sys.executable, "-W", "ignore", "-m", "IPython", "--simple-prompt", "--no-banner"],
        IPYTHONDIR=str(tmp_path),
        PYTHONWARNINGS="ignore",
    )
    prompt.read_until(r"In \[1\]: ")
    prompt.type("import sys; from tracekit._runtime.tracer import Tracer")
    prompt.read_until(r"In \[2\]: ")
    prompt.type("with Tracer() as tracer: x = sys._getframe().f_code.co_flags & 0x20; y = 1 / 0")
    prompt.type("")
    text = prompt.read_until(r"In \[3\]: ")
    assert "ZeroDivisionError" in text
    assert "tracekit/_runtime" not in text
    prompt.type("print('flag', x)")
    prompt.read_until("flag 32")


# --- A real kernel --------------------------------------------------------------------------

CELLS = [
    "import sys; from tracekit._runtime.tracer import Tracer\ntotal = 0",
    # Run as it is, then edited and run again.
    "with Tracer() as tracer:\n    total += 1\n    a = sys._getframe().f_code.co_flags & 0x20\n(total, a)",
    "with Tracer() as tracer:\n    total += 1\n    a = sys._getframe().f_code.co_flags & 0x20\n(total, a)",
    "with Tracer() as tracer:\n    total += 10\n    b = [total for _ in range(2)]\nb",
    "%%time\nwith Tracer():\n    c = total + 1\n    def f():\n        return c\n",
    "c, f()",
    "%%capture captured\nwith Tracer():\n    print('hidden')\n    d = 4",
    "d, captured.stdout",
    "%load_ext autoreload\n%autoreload 2\nimport helper\nwith Tracer():\n    e = helper.value()\ne",
    "open('helper.py', 'w').write('def value():\\n    return \"second one\"\\n');",
    "with Tracer():\n    g = helper.value()\ng",
    "import asyncio\nawait asyncio.sleep(0)\nwith Tracer():\n    h = 1\nh",
    "async def k():\n    await asyncio.sleep(0)\n    with Tracer():\n        v = 6\n    return v\nawait k()",
    "%timeit -n 3 -r 1 -o\nwith Tracer(): i = 3",
    "with Tracer():\n    j = 1\n    j / 0",
]


@needs("ipykernel", "nbclient", "nbformat")
def test_a_kernel(tmp_path):
    """Plain cells, magics, a cell run twice, a cell edited, reloading, await, an error."""
    (tmp_path / "helper.py").write_text("def value():\n    return 'first'\n")
    child = """
import json, sys, warnings
warnings.simplefilter('ignore')
import nbformat
from nbclient import NotebookClient
notebook = nbformat.v4.new_notebook()
notebook.cells = [nbformat.v4.new_code_cell(cell) for cell in json.loads(sys.stdin.read())]
client = NotebookClient(notebook, timeout=60, allow_errors=True, kernel_name='python3')
client.execute()
shown = []
for cell in notebook.cells:
    row = []
    for output in cell.outputs:
        if output.output_type == 'execute_result':
            row.append(output.data['text/plain'])
        elif output.output_type == 'error':
            row.append([output.ename, '\\n'.join(output.traceback)])
    shown.append(row)
print('RESULT' + json.dumps(shown))
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", child],
        input=json.dumps(CELLS),
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment(
            PYTHONWARNINGS="ignore", IPYTHONDIR=str(tmp_path), JUPYTER_ALLOW_INSECURE_WRITES="1"
        ),
        timeout=180,
        check=False,
    )

    assert "RESULT" in done.stdout, done.stderr
    shown = json.loads(done.stdout.split("RESULT", 1)[1])
    error = shown.pop()
    timed = shown.pop(13)
    assert [
        [],
        ["(1, 32)"],
        ["(2, 32)"],
        ["[12, 12]"],
        [],
        ["(13, 13)"],
        [],
        ["(4, 'hidden\\n')"],
        ["'first'"],
        [],
        ["'second one'"],
        ["1"],
        ["6"],
    ] == shown
    assert timed == [] or "TimeitResult" in str(timed)
    assert error[0][0] == "ZeroDivisionError"
    text = re.sub(r"\x1b\[[0-9;]*m", "", error[0][1])
    assert "j / 0" in text
    assert "_runtime" not in text
