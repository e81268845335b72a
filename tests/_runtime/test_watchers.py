"""Whoever else is watching: debuggers, coverage, profilers, trace functions, monitoring tools.

One program is run twice, in fresh interpreters: its blocks inline, and traced. The watcher sees
the same both times, and finds its own state as it left it.
"""

from __future__ import annotations

import bdb
import importlib.util
import itertools
import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

import tracekit
from tracekit._bytecode.facts import COMPREHENSIONS_ARE_INLINED, HAS_MONITORING
from tracekit._runtime import debuggers
from tracekit._runtime.tracer import Tracer

PLACES = Path(__file__).with_name("places")
WATCHED = PLACES / "watched.py"
SOURCE = str(Path(tracekit.__file__).resolve().parents[1])
LINES = WATCHED.read_text().split("\n")
RESULT = "[7, 3, 0, 3, 'division by zero']"

needs_monitoring = pytest.mark.skipif(not HAS_MONITORING, reason="there is no sys.monitoring")


def line_of(text):
    return next(number for number, line in enumerate(LINES, 1) if text in line)


def run(*arguments, inline, stdin="", cwd=None, **more):
    env = dict(os.environ)
    env.update({"PYTHONPATH": SOURCE, "PYTHONDONTWRITEBYTECODE": "1"} | more)
    env.pop("INLINE", None)
    if inline:
        env["INLINE"] = "1"
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        input=stdin,
        capture_output=True,
        text=True,
        cwd=cwd,
        env=env,
        timeout=120,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def both(*arguments, **more):
    return run(*arguments, inline=True, **more), run(*arguments, inline=False, **more)


HEAD = f"""
import sys, json, threading, runpy
sys.path.insert(0, {str(PLACES)!r})
import watched
FILE = watched.__file__
seen = []
"""


def test_the_program_itself():
    inline, traced = both(WATCHED)

    assert inline == traced == RESULT + "\n"


def without_last_look(rows):
    """Take out the one known difference: where an error left the block, the line of its `with`.

    Inline it leaves through `__exit__`, whose call is on that line; traced, the block has ended
    before the frame has entered it.
    """
    lost = line_of("start / 0"), line_of("start / 0") - 2
    return [
        row
        for before, row in zip([None, *rows], rows)
        if not before or (before[-1], row[-1]) != lost
    ]


TRACE = """
def local(frame, event, arg):
    if event in ('line', 'exception'):
        kind = event if event == 'line' else arg[0].__name__
        seen.append((frame.f_code.co_name, kind, frame.f_lineno))
    return local
def trace(frame, event, arg):
    return local if frame.f_code.co_filename == FILE else None
"""


# A comprehension that is a function of its own has the same lines in both.
@pytest.mark.parametrize("times", [1, 3])
def test_a_trace_function(times):
    """Every line event, in order; exceptions; and the function is still there."""
    text = f"""{HEAD}{TRACE}
def inner():
    sys.settrace(trace)
    results = [watched.main() for _ in range({times})]
    still = sys.gettrace() is trace
    sys.settrace(None)
    return results, still
print(json.dumps([inner(), [row for row in seen if row[1] == 'line']]))
"""
    inline, traced = map(json.loads, both("-c", text))

    assert inline[0] == traced[0]
    assert traced[0][1] is True
    assert without_last_look(inline[1]) == without_last_look(traced[1])


def test_a_trace_function_of_threads():
    text = f"""{HEAD}{TRACE}
threading.settrace(trace)
results = []
thread = threading.Thread(target=lambda: results.append((watched.main(), sys.gettrace() is trace)))
thread.start(); thread.join()
print(json.dumps([results, threading.gettrace() is trace, [r for r in seen if r[1] == 'line']]))
"""
    inline, traced = map(json.loads, both("-c", text))

    assert inline[:2] == traced[:2]
    assert traced[0][0][1] is True
    assert without_last_look(inline[2]) == without_last_look(traced[2])


MONITOR = """
M = sys.monitoring
E = M.events
def on_line(code, line):
    if code.co_filename == FILE:
        seen.append((code.co_name, line))
def use(number):
    M.use_tool_id(number, 'mine')
    M.register_callback(number, E.LINE, on_line)
    M.set_events(number, E.LINE)
"""


@needs_monitoring
@pytest.mark.parametrize("number", range(6))
def test_a_monitoring_tool_on_any_id(number):
    text = f"""{HEAD}{MONITOR}
use({number})
results = watched.main(), watched.main()
print(json.dumps([results, M.get_tool({number}), M.get_events({number}) == E.LINE, seen]))
"""
    inline, traced = map(json.loads, both("-c", text))

    assert inline[:3] == traced[:3]
    assert traced[1:3] == ["mine", True]
    assert without_last_look(inline[3]) == without_last_look(traced[3])


@needs_monitoring
def test_all_ids_taken():
    text = f"""{HEAD}{MONITOR}
for number in range(6):
    M.use_tool_id(number, f'tool {{number}}')
M.register_callback(2, E.LINE, on_line)
M.set_events(2, E.LINE)
results = watched.main(), watched.main()
M.set_events(2, 0)
print(json.dumps([results, [M.get_tool(n) for n in range(6)], seen, sys.gettrace() is None]))
"""
    inline, traced = map(json.loads, both("-c", text))

    assert inline[:2] == traced[:2]
    assert traced[3] is True
    assert without_last_look(inline[2]) == without_last_look(traced[2])


@needs_monitoring
@pytest.mark.parametrize("listens", [False, True])
def test_all_ids_taken_in_a_program_with_threads(listens):
    """The id of another tool is used, which gets its own events, and finds its state."""
    text = f"""{HEAD}{MONITOR}
def on_instruction(code, offset):
    seen.append(offset)
for number in range(6):
    M.use_tool_id(number, f'tool {{number}}')
code = watched.failing.__code__
if {listens}:
    M.register_callback(4, E.INSTRUCTION, on_instruction)
    M.set_local_events(4, code, E.INSTRUCTION)
results = []
def work():
    for _ in range(3):
        results.append(watched.main())
threads = [threading.Thread(target=work) for _ in range(3)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(json.dumps([
    results, [M.get_tool(n) for n in range(6)], [M.get_events(n) for n in range(6)],
    [M.get_local_events(n, c.__code__) for n in (3, 4) for c in (watched.work, watched.failing)],
    M.register_callback(4, E.INSTRUCTION, None) is (on_instruction if {listens} else None),
    bool(seen), sys.gettrace() is None,
]))
"""
    inline, traced = map(json.loads, both("-c", text))

    assert inline == traced
    assert len(traced[0]) == 9
    assert traced[4:] == [True, listens, True]


@needs_monitoring
def test_raising_and_call_events_of_another_tool():
    """Exceptions that the program raises reach the other tool; the skip signal is ours alone."""
    text = f"""{HEAD}{MONITOR}
def on_raise(code, offset, error):
    if code.co_filename == FILE:
        seen.append((code.co_name, type(error).__name__))
M.use_tool_id(3, 'mine')
M.register_callback(3, E.RAISE, on_raise)
M.set_events(3, E.RAISE)
results = watched.main()
print(json.dumps([results, M.get_events(3) == E.RAISE, seen]))
"""
    inline, traced = map(json.loads, both("-c", text))

    assert inline[:2] == traced[:2]
    assert ["failing", "ZeroDivisionError"] in traced[2]


# --- Debuggers ------------------------------------------------------------------------------


def talk(commands, inline, tmp_path):
    """What pdb prints for these commands, without what tells the two runs apart."""
    out = run("-m", "pdb", WATCHED, stdin="\n".join(commands) + "\n", inline=inline, cwd=tmp_path)
    return re.sub(r"0x[0-9a-f]+", "0x", out)


def test_pdb_stops_once_and_steps_through_the_lines(tmp_path):
    commands = [
        f"b {line_of('a = helper(i)')}",
        "c",
        "p i, total",
        "n",
        "p a",
        "n",
        "n",
        "p sorted(n for n in locals() if n != 'tracer')",
        "cl 1",
        "c",
        "q",
    ]
    inline, traced = (talk(commands, kind, tmp_path) for kind in (True, False))

    assert inline == traced
    assert RESULT in traced


def test_pdb_stops_once_a_round(tmp_path):
    commands = [f"b {line_of('total += a')}", *["c", "p i"] * 3, "c", "q"]
    inline, traced = (talk(commands, kind, tmp_path) for kind in (True, False))

    assert inline == traced
    assert traced.count("> ") == inline.count("> ")


def test_pdb_steps_into_a_helper(tmp_path):
    commands = [f"b {line_of('y = helper(x)')}", "c", "s", "s", "p value", "n", "p value", "c", "q"]
    inline, traced = (talk(commands, kind, tmp_path) for kind in (True, False))

    assert inline == traced
    assert "helper()" in traced


def test_pdb_steps_over_the_lines_from_before_a_block_to_after_it(tmp_path):
    """`next` on the `with` goes to the first line of the block, and leaves it as inline."""
    commands = [f"b {line_of('total = 0')}", "c", *["n"] * 30, "p total", "cl 1", "c", "q"]
    found = [talk(commands, kind, tmp_path) for kind in (True, False)]
    stops = [re.findall(r"watched.py\((\d+)\)", text) for text in found]
    if not COMPREHENSIONS_ARE_INLINED:
        # A comprehension is a generator then, at whose end pdb stops on the same line again.
        stops = [[line for line, _ in itertools.groupby(lines)][:20] for lines in stops]

    assert stops[0] == stops[1]
    assert "_runtime" not in found[1].replace("tests/_runtime", "")


def test_pdb_changes_a_name_in_the_block(tmp_path):
    commands = [f"b {line_of('x = 1')}", "c", "n", "!x = 41", "cl 1", "c", "q"]
    inline, traced = (talk(commands, kind, tmp_path) for kind in (True, False))

    assert inline == traced
    assert "[7, 163," in traced


def test_pdb_post_mortem_stands_on_the_line(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(WATCHED.read_text().replace("print(main())", "failing()"))
    out = [
        run("-m", "pdb", program, stdin="c\np start\nl .\nq\n", inline=inline, cwd=tmp_path)
        for inline in (True, False)
    ]

    assert "ZeroDivisionError" in out[1]
    assert "start / 0" in out[1]
    assert re.search(r"\(Pdb\) 1\n", out[1])


def test_breakpoint_in_a_block(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(
        WATCHED.read_text().replace(
            "            a = helper(i)", "            breakpoint()\n            a = helper(i)"
        )
    )
    text = "\n".join(["p i, total", "n", "p sorted(n for n in locals())", "c"] * 3) + "\n"
    inline, traced = (
        re.sub(r"0x[0-9a-f]+", "0x", run(program, stdin=text, inline=kind, cwd=tmp_path))
        for kind in (True, False)
    )

    assert inline == traced
    assert RESULT in traced


STEPPED = """\
import os
if os.environ.get("INLINE"):
    class Tracer:
        def __new__(cls):
            return memoryview(b"")  # has no Python code to step into
else:
    from tracekit._runtime.tracer import Tracer

def helper(value):
    other = value
    return other

def function():
    with Tracer() as tracer:
        a = 1
        START
        b = helper(a)
        c = b + 1
    d = c
    return d

print(function(), flush=True)
os._exit(0)
"""


@pytest.mark.parametrize("start", ["breakpoint()", "import pdb; pdb.set_trace()"])
@pytest.mark.parametrize("command", ["n", "s", "unt", "r", "c"])
def test_a_debugger_started_in_a_block_goes_on_past_its_end(command, start, tmp_path):
    """It stops nowhere else than inline, and never in our files or in what they call."""
    program = tmp_path / "program.py"
    program.write_text(STEPPED.replace("START", start))
    text = f"{command}\n" * (10 if command in "ns" else 3) + "c\n"
    found = []
    for inline in (True, False):
        out = run(program, stdin=text, inline=inline, cwd=tmp_path)
        found.append(re.findall(r"^(?:\(Pdb\) )*(?:(--\w+--)|> (\S+)\((\d+)\)(\w+))", out, re.M))
        assert "2\n" in out
    assert found[0] == found[1]
    assert len(found[1]) > 3 or command in ("r", "c")


def test_a_debugger_started_in_a_block_gets_its_patterns_back():
    class Watching(bdb.Bdb):
        def user_line(self, frame):
            seen.append((frame.f_code.co_name, self.skip is not before))
            self.set_next(frame)

    def function():
        with Tracer():
            debugger.set_trace()
            x = 1
        after = debugger.skip
        sys.settrace(None)
        return x, after

    seen = []
    debugger = Watching(skip=["nothing.*"])
    before = debugger.skip
    x, after = function()

    assert (x, after is before) == (1, True)
    assert ("function", True) in seen, "stopped in the block"
    assert seen[-1] == ("function", False), "and after it"
    assert {name for name, _ in seen} == {"function"}
    assert debuggers.STARTED == []


AFTER_OPCODES = """
import sys
from tracekit import Tracer

def local(frame, event, argument):
    frame.f_trace_opcodes = True
    return local

def within():
    with Tracer():
        sys.settrace(local); y = 2
        sys.settrace(None)
        x = 1
    return x

def around():
    sys.settrace(local)
    with Tracer():
        x = 2
    sys.settrace(None)
    return x

def until():
    sys.settrace(lambda *_: None)
    with Tracer():
        x = 3
        sys.settrace(None)
    return x

def since():
    with Tracer():
        sys.settrace(lambda *_: None)
        x = 4
    sys.settrace(None)
    return x

print([function() for _ in range(2) for function in (within, around, until, since)])
"""


def test_trace_functions_once_opcodes_have_been_traced():
    """From 3.12 on the interpreter then puts an event of its own on every instruction."""
    assert "[1, 2, 3, 4, 1, 2, 3, 4]" in run("-c", AFTER_OPCODES, inline=False)


def test_what_breakpoint_calls_may_be_no_debugger(monkeypatch):
    """Its value comes back, and the patterns of nobody are touched."""
    monkeypatch.setattr(sys, "breakpointhook", lambda *args, **kwargs: (args, kwargs))
    with Tracer():
        value = breakpoint(1, two=2)  # noqa: T100 - what is tested
    monkeypatch.setattr(sys, "breakpointhook", sys.__breakpointhook__)
    monkeypatch.setenv("PYTHONBREAKPOINT", "0")
    with Tracer():
        nothing = breakpoint()  # noqa: T100 - what is tested

    assert value == ((1,), {"two": 2})
    assert nothing is None
    assert debuggers.STARTED == []


# --- Counting -------------------------------------------------------------------------------


CORES = ["ctrace", "pytrace", *(["sysmon"] if HAS_MONITORING else [])]


@pytest.mark.skipif(importlib.util.find_spec("coverage") is None, reason="no coverage")
@pytest.mark.parametrize("branch", [False, True])
@pytest.mark.parametrize("core", CORES)
def test_coverage(core, branch, tmp_path):
    if core == "sysmon" and branch:
        pytest.skip("this core has no branches on these Pythons")
    found = []
    for inline in (True, False):
        options = ["--branch"] if branch else []
        run(
            "-m", "coverage", "run", *options, "--include", WATCHED, WATCHED,
            inline=inline, cwd=tmp_path, COVERAGE_CORE=core,
        )  # fmt: skip
        run("-m", "coverage", "json", "-q", "-o", "out.json", inline=inline, cwd=tmp_path)
        (report,) = json.loads((tmp_path / "out.json").read_text())["files"].values()
        found.append([report["executed_lines"], report.get("executed_branches")])
    inline, traced = found
    which = {line_of("Tracer = contextlib"), line_of("from tracekit._runtime")}
    lines = [set(one) - which for one, _ in found]

    assert lines[0] == lines[1]
    if branch:
        pairs = [
            {tuple(pair) for pair in one if line_of("if os.environ") not in pair}
            for _, one in found
        ]
        assert pairs[0] == pairs[1]


def test_a_profiler():
    """The functions of the program are counted as inline; those with blocks may count more."""
    text = f"""{HEAD}
import cProfile, pstats
profile = cProfile.Profile()
results = profile.runcall(watched.main)
stats = pstats.Stats(profile).stats
print(json.dumps([results, {{k[2]: v[1] for k, v in stats.items() if k[0] == FILE}}]))
"""
    inline, traced = map(json.loads, both("-c", text))

    assert inline[0] == traced[0]
    assert set(inline[1]) == set(traced[1])
    assert inline[1]["main"] == traced[1]["main"]
    assert all(inline[1][name] <= traced[1][name] for name in inline[1])


def test_a_profile_function_stays():
    text = f"""{HEAD}
def profile(frame, event, arg):
    if frame.f_code.co_filename == FILE: seen.append((event, frame.f_code.co_name))
sys.setprofile(profile)
results = watched.main(), watched.main()
still = sys.getprofile() is profile
sys.setprofile(None)
depth = {{}}
for event, name in seen:
    depth[name] = depth.get(name, 0) + (1 if event == 'call' else -1 if event == 'return' else 0)
print(json.dumps([results, still, depth]))
"""
    inline, traced = map(json.loads, both("-c", text))

    assert inline[:2] == traced[:2]
    assert traced[1] is True
    assert all(depth == 0 for depth in traced[2].values())


def test_faulthandler_prints_the_line_of_the_block(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(
        WATCHED.read_text().replace(
            "        y = helper(x)",
            "        import faulthandler; faulthandler.dump_traceback(); y = helper(x)",
        )
    )
    inline, traced = (run(program, inline=kind, cwd=tmp_path) for kind in (True, False))
    first = next(line for line in inline.split("\n") if "in nested" in line)

    assert first in traced


# --- debugpy --------------------------------------------------------------------------------

DAP = """
import json, socket, sys, time
class Client:
    def __init__(self, port):
        end = time.monotonic() + 40
        while True:
            try:
                self.socket = socket.create_connection(('127.0.0.1', port), timeout=40)
                break
            except ConnectionRefusedError:
                assert time.monotonic() < end
                time.sleep(0.1)
        self.file = self.socket.makefile('rb')
        self.number = 0
        self.waiting = []
    def send(self, command, **arguments):
        self.number += 1
        body = json.dumps({'seq': self.number, 'type': 'request', 'command': command,
                           'arguments': arguments}).encode()
        self.socket.sendall(b'Content-Length: %d\\r\\n\\r\\n' % len(body) + body)
        return self.number
    def receive(self):
        length = 0
        while (line := self.file.readline().strip()):
            if line.lower().startswith(b'content-length'):
                length = int(line.split(b':')[1])
        return json.loads(self.file.read(length))
    def until(self, want):
        for index, message in enumerate(self.waiting):
            if want(message):
                return self.waiting.pop(index)
        while not want(message := self.receive()):
            self.waiting.append(message)
        return message
    def event(self, name):
        return self.until(lambda m: m['type'] == 'event' and m['event'] == name)
    def ask(self, command, **arguments):
        number = self.send(command, **arguments)
        return self.until(lambda m: m.get('request_seq') == number)
port, path, lines = int(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3])
client = Client(port)
client.ask('initialize', adapterID='test', pathFormat='path', linesStartAt1=True)
client.send('attach', justMyCode=False)
client.event('initialized')
client.ask('setBreakpoints', source={'path': path}, breakpoints=[{'line': n} for n in lines])
client.ask('configurationDone')
stops = []
while True:
    message = client.until(lambda m: m['type'] == 'event' and m['event'] in ('stopped', 'terminated'))
    if message['event'] == 'terminated':
        break
    thread = message['body']['threadId']
    frame = client.ask('stackTrace', threadId=thread)['body']['stackFrames'][0]
    value = client.ask('evaluate', expression='sorted(n for n in locals() if n in "abixyz")',
                       frameId=frame['id'], context='repl')
    stops.append([message['body']['reason'], frame['name'], frame['line'], value['body']['result']])
    client.ask('continue', threadId=thread)
print(json.dumps(stops))
"""


@pytest.mark.skipif(importlib.util.find_spec("debugpy") is None, reason="no debugpy")
@pytest.mark.parametrize("monitoring", ["0", *(["1"] if HAS_MONITORING else [])])
def test_debugpy(monitoring, tmp_path):
    """Breakpoints in blocks are hit as inline, and show the names."""
    client = tmp_path / "client.py"
    client.write_text(DAP)
    lines = json.dumps([line_of("a = helper(i)"), line_of("y = helper(x)")])
    found = []
    for inline in (True, False):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        env = {**os.environ, "PYTHONPATH": SOURCE, "PYDEVD_USE_SYS_MONITORING": monitoring}
        env.pop("INLINE", None)
        program = subprocess.Popen(
            [
                sys.executable, "-Xfrozen_modules=off", "-m", "debugpy",
                "--listen", f"127.0.0.1:{port}", "--wait-for-client", str(WATCHED),
            ],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=tmp_path,
            env=env | ({"INLINE": "1"} if inline else {}),
        )  # fmt: skip
        try:
            done = subprocess.run(
                [sys.executable, str(client), str(port), str(WATCHED), lines],
                capture_output=True, text=True, timeout=60, check=False,
            )  # fmt: skip
            out, _ = program.communicate(timeout=30)
        finally:
            program.kill()
        assert RESULT in out, out
        found.append(json.loads(done.stdout or repr(done.stderr)))

    assert found[0] == found[1]
    assert len(found[1]) == 4
