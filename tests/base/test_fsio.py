"""Writing: a reader finds the old file or the new one, whatever fails or is killed; a torn line costs itself and no other."""

import builtins
import errno
import os
import signal
import subprocess
import sys
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palinode.base import fsio
from palinode.base.errors import Damaged, EnvironmentProblem

OLD, NEW = b"the old content", b"what is written now, and it is longer than before"


def temporaries(directory):
    return sorted(path.name for path in directory.rglob(f"*{fsio.TEMPORARY_MARK}*"))


def in_another_process(program, *arguments, crash_point=None):
    environment = dict(os.environ) | ({fsio.CRASH_POINT_VARIABLE: crash_point} if crash_point else {})
    program = "import sys\nfrom pathlib import Path\nfrom palinode.base import fsio\n" + program
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)


def test_writes_make_parents_replace_and_leave_nothing_behind(tmp_path):
    path = tmp_path / "a" / "b" / "file.bin"
    for content in (OLD, NEW, b""):
        fsio.write_bytes(path, content)
        assert path.read_bytes() == content
    assert temporaries(tmp_path) == []


def test_text_and_json_are_utf8_and_sorted(tmp_path):
    fsio.write_text(tmp_path / "t", "é\n")
    assert (tmp_path / "t").read_bytes() == b"\xc3\xa9\n"
    fsio.write_json(tmp_path / "j", {"b": 1, "a": ["é"]})
    assert (tmp_path / "j").read_text(encoding="utf-8") == '{\n "a": [\n  "é"\n ],\n "b": 1\n}\n'
    assert fsio.read_json(tmp_path / "j") == {"a": ["é"], "b": 1}


def test_json_without_numbers_is_refused_before_the_file_is_touched(tmp_path):
    path = tmp_path / "j"
    fsio.write_json(path, {"a": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        fsio.write_json(path, {"a": float("nan")})
    assert fsio.read_json(path) == {"a": 1}


def test_half_a_character_is_kept_as_its_escape(tmp_path):
    for value in ("\ud800", "\ud83d é", "\\ud800"):
        fsio.write_json(tmp_path / "j", {"name": value})
        assert fsio.read_json(tmp_path / "j") == {"name": value}
        fsio.append_line(tmp_path / "m", {"name": value})
        assert fsio.read_rows(tmp_path / "m").rows[-1] == {"name": value}


class FailingCalls:
    """Counts the system calls of a commit and lets the n-th fail (None: none does)."""

    def __init__(self, monkeypatch, fail_at, code):
        self.calls = []
        for name in ("fsync", "replace", "open"):
            monkeypatch.setattr(os, name, self.wrapped(f"os.{name}", getattr(os, name), fail_at, code))
        monkeypatch.setattr(builtins, "open", self.wrapped("open", builtins.open, fail_at, code))

    def wrapped(self, name, call, fail_at, code):
        def counted(*arguments, **options):
            self.calls.append(name)
            if len(self.calls) - 1 == fail_at:
                raise OSError(code, os.strerror(code))
            return call(*arguments, **options)

        return counted


CALLS = [
    "open",
    "os.open",
    "os.fsync",
    "os.replace",
    "os.open",
    "os.fsync",
]  # file, its fsync, rename, directory's fsync


def test_the_order_of_a_commit(tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        calls = FailingCalls(patched, None, 0).calls
        fsio.write_bytes(tmp_path / "f", NEW)
    assert calls == CALLS


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EROFS, errno.EACCES, errno.EDQUOT])
@pytest.mark.parametrize("fail_at", range(len(CALLS)))
def test_every_call_may_fail(tmp_path, monkeypatch, fail_at, code):
    path = tmp_path / "f"
    path.write_bytes(OLD)
    with monkeypatch.context() as patched:
        FailingCalls(patched, fail_at, code)
        with pytest.raises(EnvironmentProblem) as caught:
            fsio.write_bytes(path, NEW)
    assert caught.value.exit_code == 5
    assert str(path) in str(caught.value)
    assert os.strerror(code) in str(caught.value)
    assert path.read_bytes() == (NEW if fail_at > CALLS.index("os.replace") else OLD)
    assert temporaries(tmp_path) == []
    fsio.write_bytes(path, NEW)  # the same command afterwards
    assert path.read_bytes() == NEW


FILL = """
import resource
path, limit = Path(sys.argv[1]), int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
from palinode.base.errors import EnvironmentProblem
try:
    if path.suffix == ".jsonl":
        for i in range(1000):
            fsio.append_line(path, {"i": i})
    else:
        fsio.write_bytes(path, b"x" * 2 * limit)
except EnvironmentProblem as problem:
    print(problem)
"""


def test_no_room_for_the_whole_file(tmp_path):
    path = tmp_path / "weights.bin"
    path.write_bytes(OLD)
    done = in_another_process(FILL, path, 100_000)
    assert "cannot write: File too large" in done.stdout, done.stderr
    assert path.read_bytes() == OLD
    assert temporaries(tmp_path) == []


def test_no_room_for_another_line(tmp_path):
    path = tmp_path / "metrics.jsonl"
    done = in_another_process(FILL, path, 1000)
    assert "cannot append: File too large" in done.stdout, done.stderr
    rows = fsio.read_rows(path).rows
    assert rows == [{"i": i} for i in range(len(rows))]
    assert 20 < len(rows) < 40
    fsio.append_line(path, {"i": "after room was made"})
    assert fsio.read_rows(path).rows == [*rows, {"i": "after room was made"}]


@pytest.mark.parametrize(("label", "expected"), [("written", OLD), ("before_rename", OLD), ("after_rename", NEW)])
def test_killed_while_committing(tmp_path, label, expected):
    path = tmp_path / "result.json"
    path.write_bytes(OLD)
    write = "fsio.write_bytes(Path(sys.argv[1]), sys.argv[2].encode())"
    done = in_another_process(write, path, NEW.decode(), crash_point=f"result.json.{label}")
    assert done.returncode == -signal.SIGKILL
    assert path.read_bytes() == expected
    strays = temporaries(tmp_path)
    assert len(strays) == (expected == OLD)
    assert [gone.name for gone in fsio.remove_stray_temporaries(tmp_path)] == strays
    assert temporaries(tmp_path) == []
    assert in_another_process(write, path, NEW.decode()).returncode == 0
    assert path.read_bytes() == NEW


def test_killed_before_an_append(tmp_path):
    path = tmp_path / "metrics.jsonl"
    fsio.append_line(path, {"step": 1})
    append = "fsio.append_line(Path(sys.argv[1]), {'step': 2})"
    assert in_another_process(append, path, crash_point="metrics.jsonl.before_append").returncode == -signal.SIGKILL
    assert fsio.read_rows(path).rows == [{"step": 1}]
    assert in_another_process(append, path).returncode == 0
    assert fsio.read_rows(path).rows == [{"step": 1}, {"step": 2}]


def test_other_crash_points_do_nothing(tmp_path):
    write = "fsio.write_bytes(Path(sys.argv[1]), b'x')"
    assert in_another_process(write, tmp_path / "f", crash_point="another.written").returncode == 0


@pytest.mark.parametrize("problem", [RuntimeError("writer"), KeyboardInterrupt(), OSError(errno.ENOSPC, "full")])
def test_an_error_while_writing_keeps_the_old_file(tmp_path, problem):
    path = tmp_path / "f"
    path.write_bytes(OLD)
    expected = EnvironmentProblem if isinstance(problem, OSError) else type(problem)

    def interrupted():
        with fsio.committed(path) as temporary:
            temporary.write_bytes(NEW)
            raise problem

    with pytest.raises(expected):
        interrupted()
    assert path.read_bytes() == OLD
    assert temporaries(tmp_path) == []


def test_only_temporaries_of_dead_processes_are_removed(tmp_path):
    dead = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    gone = f"a.json{fsio.TEMPORARY_MARK}{dead.stdout.strip()}-0123abcd"
    beyond = f"b.json{fsio.TEMPORARY_MARK}{10**25}-0123abcd"  # no process can have this number
    kept = [
        f"c.json{fsio.TEMPORARY_MARK}{os.getpid()}-0123abcd",
        f"d.json{fsio.TEMPORARY_MARK}1-0123abcd",
        f"e.json{fsio.TEMPORARY_MARK}²-0123abcd",
        f"f.json{fsio.TEMPORARY_MARK}",
        "result.json",
    ]
    for name in (gone, beyond, *kept):
        (tmp_path / name).write_text("")
    assert sorted(path.name for path in fsio.remove_stray_temporaries(tmp_path)) == sorted([gone, beyond])
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(kept)


ROWS = st.lists(
    st.dictionaries(
        st.text(max_size=3),
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(max_size=4),
        max_size=3,
    ),
    min_size=1,
    max_size=4,
)


@given(rows=ROWS, data=st.data())
def test_a_torn_tail_costs_itself_and_no_later_row(tmp_path_factory, rows, data):
    path = tmp_path_factory.mktemp("torn") / "m.jsonl"
    for row in rows:
        fsio.append_line(path, row)
    assert fsio.read_rows(path).rows == rows
    whole = path.read_bytes()
    ends = [i + 1 for i, byte in enumerate(whole) if byte == ord("\n")]
    cut = data.draw(st.integers(0, len(whole)))
    path.write_bytes(whole[:cut])
    kept = rows[: sum(end - 1 <= cut for end in ends)]  # a row is whole even without its line end
    assert fsio.read_rows(path).rows == kept
    assert fsio.read_rows(path) == (kept, None)
    fsio.append_line(path, {"later": 1})
    assert fsio.read_rows(path).rows == [*kept, {"later": 1}]
    assert fsio.read_rows(path) == ([*kept, {"later": 1}], None)


@given(cuts=st.lists(st.integers(1, 60), max_size=6))
def test_whatever_killed_writers_leave_is_no_damage(tmp_path_factory, cuts):
    path = tmp_path_factory.mktemp("killed") / "m.jsonl"
    for number, cut in enumerate(cuts):  # each writer is killed in its second row, and the next one goes on after it
        fsio.append_line(path, {"attempt": number, "step": 1})
        begun = path.stat().st_size
        fsio.append_line(path, {"attempt": number, "step": 2, "text": '{"crc":'})
        os.truncate(path, min(begun + cut, path.stat().st_size))
        assert fsio.read_rows(path).damaged is None
        assert fsio.read_last_rows(path).damaged is None
    fsio.append_line(path, {"attempt": "last"})
    rows, damaged = fsio.read_rows(path)
    assert damaged is None
    assert [row["attempt"] for row in rows if row.get("step") == 1] == list(range(len(cuts)))
    assert rows[-1] == fsio.read_last_rows(path).rows[-1] == {"attempt": "last"}


WRITTEN = b"".join(
    b'{"crc":%d,"row":%s}\n' % (zlib.crc32(body), body) for body in (b'{"step":1}', b'{"step":2}', b'{"step":3}')
)
FIRST, SECOND, THIRD = WRITTEN.splitlines(keepends=True)


@pytest.mark.parametrize(
    ("content", "damaged"),
    [
        (b"", None),
        (WRITTEN, None),
        (WRITTEN[:-1], None),
        (WRITTEN[:-9], None),
        (FIRST + SECOND[:9] + THIRD, None),
        (FIRST + SECOND[:3] + SECOND[:9] + SECOND[:-1] + THIRD, None),
        (b"garbage\n" * 50, "line 1"),
        (WRITTEN + b"garbage\n", "line 4"),
        (WRITTEN + b"garbage", "line 4"),
        (WRITTEN + b"\0" * 40, "line 4"),
        (WRITTEN + b"\n", "line 4"),
        (FIRST + SECOND[:9] + b"\n" + THIRD, "line 2"),
        (FIRST + b"garbage" + THIRD, "line 2"),
        (FIRST + SECOND[:9] + b"\0\0" + THIRD, "line 2"),
        (FIRST + SECOND[:9] + "é".encode() + THIRD, "line 2"),
        (FIRST + SECOND[:-1] + b"garbage\n" + THIRD, "line 2"),
        (FIRST + SECOND.replace(b"2", b"4") + THIRD, "line 2"),
        (b"[1]\n" + WRITTEN, "line 1"),
        (b'{"crc":' * 5000 + b"\0", "line 1"),
    ],
)
def test_what_no_writer_leaves_is_damage(tmp_path, content, damaged):
    path = tmp_path / "m.jsonl"
    path.write_bytes(content)
    assert fsio.read_rows(path).damaged == damaged
    assert fsio.read_last_rows(path).damaged is None or damaged is not None


def test_the_end_of_a_long_file_is_read_alone(tmp_path, monkeypatch):
    path = tmp_path / "m.jsonl"
    path.write_bytes(b"garbage\n" + FIRST * 3000 + WRITTEN)
    assert fsio.read_rows(path).damaged == "line 1"
    with monkeypatch.context() as patched:
        patched.setattr(fsio, "read_rows", lambda path: pytest.fail("read all of it"))
        assert fsio.read_last_rows(path) == ([{"step": 3}], None)
        path.write_bytes(path.read_bytes() + SECOND[:-1])
        assert fsio.read_last_rows(path) == ([{"step": 3}, {"step": 2}], None)
        assert [row["step"] for row in fsio.read_recent_rows(path, 3)] == [
            1,
            2,
            3,
            2,
        ]  # three lines, and one without its end
        assert len(fsio.read_recent_rows(path, 10**6)) < 3000
        path.write_bytes(FIRST * 3000 + b"garbage\n")
        assert fsio.read_last_rows(path) == ([], "the last line")
    path.unlink()
    fsio.append_line(path, {"long": "x" * fsio.TAIL_BYTES})
    assert fsio.read_last_rows(path).rows == [{"long": "x" * fsio.TAIL_BYTES}], (
        "longer than what is read: all of it then"
    )


def test_no_single_bit_makes_another_row(tmp_path):
    path = tmp_path / "m.jsonl"
    rows = [{"step": 20, "nats": 2.125, "p": 0.05}, {"event": "é", "crc": 3, "row": {"crc": 1}}]
    for row in rows:
        fsio.append_line(path, row)
    whole = path.read_bytes()
    lost = 0
    for bit in range(8 * len(whole)):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        result = fsio.read_rows(path).rows
        assert all(row in rows for row in result)
        assert result == rows or fsio.read_rows(path).damaged is not None, bit
        assert len(result) >= len(rows) - 1
        lost += len(result) < len(rows)
    assert lost > 0.9 * 8 * len(whole)


APPEND = """
for i in range(int(sys.argv[3])):
    fsio.append_line(Path(sys.argv[1]), {"who": sys.argv[2], "i": i, "filler": "x" * (i % 500)})
"""


def test_two_processes_append_whole_lines(tmp_path):
    path = tmp_path / "m.jsonl"
    header = "import sys\nfrom pathlib import Path\nfrom palinode.base import fsio\n"
    writers = [subprocess.Popen([sys.executable, "-c", header + APPEND, str(path), name, "400"]) for name in ("a", "b")]
    assert [writer.wait(60) for writer in writers] == [0, 0]
    rows, damaged = fsio.read_rows(path)
    assert damaged is None
    for name in ("a", "b"):
        assert [row["i"] for row in rows if row["who"] == name] == list(range(400))


def test_rewriting_drops_rows_atomically(tmp_path):
    path = tmp_path / "m.jsonl"
    for i in range(5):
        fsio.append_line(path, {"i": i})
    with open(path, "ab") as handle:
        handle.write(b'{"crc":1,"row":{"to')
    fsio.rewrite_lines(path, [row for row in fsio.read_rows(path).rows if row["i"] < 3])
    assert fsio.read_rows(path).rows == [{"i": 0}, {"i": 1}, {"i": 2}]
    assert path.read_bytes().count(b"\n") == 3
    assert temporaries(tmp_path) == []


def test_reading_what_is_not_there_or_not_ours(tmp_path):
    assert fsio.read_rows(tmp_path / "none").rows == []
    (tmp_path / "other").write_text('[1]\n"x"\n{"crc": 1}\n\n{"crc": "a", "row": {}}\nnull\n' + "[" * 100_000)
    assert fsio.read_rows(tmp_path / "other").rows == []
    for name, content in {
        "empty": b"",
        "half": b'{"a":',
        "latin": b'{"a": "\xe9"}',
        "deep": b"[" * 100_000,
        "twice": b'{"a": {"b": 1, "b": 1}}',
    }.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(Damaged) as caught:
            fsio.read_json(tmp_path / name)
        assert name in str(caught.value)
        assert caught.value.exit_code == 4
    with pytest.raises(Damaged):
        fsio.read_json(tmp_path / "missing")
    with pytest.raises(Damaged):
        fsio.read_json(tmp_path)
    with pytest.raises(Damaged, match="Is a directory"):
        fsio.read_rows(tmp_path)
    assert fsio.read_last_rows(tmp_path / "none") == ([], None)


def test_appending_refuses_what_json_cannot_say(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        fsio.append_line(tmp_path / "m", {"loss": float("inf")})
    assert not (tmp_path / "m").exists()
    with pytest.raises(EnvironmentProblem):
        fsio.append_line(tmp_path, {"a": 1})  # a directory


def test_a_process_that_nobody_waits_for_is_not_alive():
    """A container's first process may never ask for the exit code of an orphan."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    assert fsio.is_alive(process.pid)
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and its exit code is still there
    assert not fsio.is_alive(process.pid)
    process.communicate()
    assert not fsio.is_alive(process.pid)
