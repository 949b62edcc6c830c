"""The rows that are new: however looks and attempts fall, each step is sent once, and no row of the run is missed."""

from hypothesis import given, settings
from hypothesis import strategies as st

from palinode.base import fsio
from palinode.mirror.new_rows import Position, kind_of, new_rows
from palinode.results.rows import ATTEMPT_EVENT, RowsSeal, metrics_path, read_rows


def place_of(row):
    return kind_of(row), row["step"]


class Writer:
    """Writes the rows of a run that is killed and goes on from an earlier step, as `run/one.py` does."""

    def __init__(self, directory):
        self.directory, self.attempt, self.step = directory, 0, 0
        self.begin(-1)

    def begin(self, from_step):
        self.attempt += 1
        self.step = max(0, from_step)
        kept = [row for row in read_rows(self.directory)[0] if row["step"] <= from_step]
        seal = RowsSeal.of(kept).stored()
        self.append({"event": ATTEMPT_EVENT, "attempt": self.attempt, "from_step": from_step, "rows": seal})

    def append(self, row):
        fsio.append_line(metrics_path(self.directory, self.attempt), row)

    def train(self, steps):
        for _ in range(steps):
            self.step += 1
            self.append({"event": "train", "step": self.step, "attempt": self.attempt})
            if self.step % 3 == 0:
                for split in ("validation", "test"):
                    self.append({"event": "eval", "split": split, "step": self.step, "attempt": self.attempt})


LIVES = st.lists(st.tuples(st.integers(0, 7), st.booleans(), st.integers(0, 9)), min_size=1, max_size=6)


@settings(max_examples=25)
@given(lives=LIVES)
def test_each_step_once_and_none_missed(tmp_path_factory, lives):
    """A life: so many steps, then maybe a look, then the process is killed and goes on so many steps earlier."""
    directory = tmp_path_factory.mktemp("run")
    writer, position, sent = Writer(directory), Position(), []

    def look():
        nonlocal position
        rows, position = new_rows(directory, position)
        sent.extend(rows)

    for steps, looks, back in lives:
        writer.train(steps)
        if looks:
            look()
        writer.begin(writer.step - back if writer.step > back else -1)
    writer.train(4)
    look()
    places = [place_of(row) for row in sent]
    assert len(places) == len(set(places))
    assert set(places) >= {place_of(row) for row in read_rows(directory)[0]}
    for kind in {kind for kind, _ in places}:
        steps = [step for other, step in places if other == kind]
        assert steps == sorted(steps)
    assert new_rows(directory, position)[0] == []
    if not any(looks for _, looks, _ in lives):  # one look at the end: the rows of the later attempts
        assert sent == read_rows(directory)[0]


def test_a_row_that_is_written_in_part_waits_and_a_damaged_line_is_left_out(tmp_path):
    writer = Writer(tmp_path)
    writer.train(3)
    path = metrics_path(tmp_path, 1)
    whole = path.read_bytes()
    path.write_bytes(whole[:-5])
    rows, position = new_rows(tmp_path, Position())
    path.write_bytes(whole)
    more, position = new_rows(tmp_path, position)
    assert [place_of(row) for row in rows + more] == [place_of(row) for row in read_rows(tmp_path)[0]]
    assert len(more) == 1
    path.write_bytes(whole + b"garbage\n")
    writer.train(1)
    rows, _ = new_rows(tmp_path, position)
    assert [place_of(row) for row in rows] == [("train", 4)]
