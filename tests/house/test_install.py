"""Palinode without its repository: the wheel, what an installed one can do, and which build of PyTorch a newcomer gets."""

import http.server
import importlib.util
import json
import shutil
import site
import subprocess
import sys
import sysconfig
import threading
import venv
from contextlib import contextmanager
from pathlib import Path

import pytest

from palinode.base.folders import cache_directory
from palinode.cli.new import shipped_experiment
from palinode.spec.load import load

ROOT = Path(__file__).parents[2]
SPEC = importlib.util.spec_from_file_location("torch_index", ROOT / "tools" / "torch_index.py")
torch_index = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(torch_index)
VERSION = "9.8.7"


@contextmanager
def index_that_answers(status: int, text: str):
    """A package index on this machine with one answer to every request."""

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(status)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/whl/cpu"
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize(
    ("status", "text", "taken", "why"),
    [
        (200, f'<a href="torch-{VERSION}+cpu-cp311-linux.whl">', True, "no NVIDIA driver"),
        (200, '<a href="torch-9.8.6+cpu-cp311-linux.whl">', False, f"does not have version {VERSION}"),
        (404, "", False, "does not answer (HTTPError)"),
        (503, "busy", False, "does not answer (HTTPError)"),
    ],
)
def test_the_cpu_index_is_taken_where_it_has_the_version(status, text, taken, why):
    with index_that_answers(status, text) as index:
        chosen, reason = torch_index.chosen_index(VERSION, index, platform="linux", driver=False)
    assert chosen == (index if taken else "")
    assert why in reason
    assert "\n" not in reason


def test_an_index_that_nobody_serves_leaves_the_choice_to_pip():
    with index_that_answers(200, "") as index:
        pass
    assert torch_index.chosen_index(VERSION, index, platform="linux", driver=False)[0] == ""


@pytest.mark.parametrize(("platform", "driver"), [("darwin", False), ("linux", True)])
def test_the_index_is_not_even_tried_where_the_other_build_is_right(platform, driver, monkeypatch):
    monkeypatch.setattr(torch_index, "problem_of", lambda *_: pytest.fail("the index was tried"))
    assert torch_index.chosen_index(VERSION, platform=platform, driver=driver)[0] == ""


def test_make_asks_for_the_pinned_version_and_can_be_overridden(tmp_path):
    """What make would run, on a machine without the environment: printed, not run."""
    for file in ("Makefile", "constraints.txt"):
        shutil.copy(ROOT / file, tmp_path)
    pinned = next(line for line in (ROOT / "constraints.txt").read_text().splitlines() if line.startswith("torch=="))
    for arguments, wanted in (
        ([], "tools/torch_index.py"),
        (["TORCH_INDEX=http://example.org/x"], 'index="http://example.org/x"'),
    ):
        target = [".venv/.installed-torch", *arguments]
        done = subprocess.run(["make", "-n", *target], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert wanted in done.stdout
        assert pinned in done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel, built from the files as they are."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-build-isolation", "--no-deps", "--no-index"]
    done = subprocess.run([*command, "--wheel-dir", str(folder), str(ROOT)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (built,) = folder.glob("palinode-*.whl")
    return built


INSTALLERS = {
    "pip": lambda python: [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet"],
    "uv": lambda python: ["uv", "pip", "install", "--quiet", "--offline", "--python", str(python)],
}


@pytest.fixture(scope="module", params=INSTALLERS)
def installed(request, wheel, tmp_path_factory) -> Path:
    """The programs of a clean environment with this wheel; its dependencies are those of the environment that runs the tests."""
    if shutil.which(request.param) is None and request.param != "pip":
        pytest.skip(f"{request.param} is not installed")
    folder = tmp_path_factory.mktemp(request.param)
    venv.create(folder, with_pip=False, symlinks=True)
    programs = Path(sysconfig.get_path("scripts", "venv", {"base": str(folder)}))
    command = [*INSTALLERS[request.param](programs / "python"), "--no-deps", "--no-index", str(wheel)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    packages = Path(sysconfig.get_path("purelib", "venv", {"base": str(folder)}))
    # A folder that a .pth file names is searched, but its own .pth files are not read: the checkout stays out of sight.
    (packages / "dependencies.pth").write_text("\n".join(site.getsitepackages()))
    return programs


def run_installed(programs: Path, folder: Path, program: str, *arguments: str) -> subprocess.CompletedProcess:
    """An installed program, in an environment that names no checkout; corpora that are there are not made again."""
    environment = {"PATH": f"{programs}:/usr/bin:/bin", "PALINODE_CACHE": str(cache_directory()), "HOME": str(folder)}
    command = [str(programs / program), *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)


PROGRAM = """
import contextlib, io, json, sys
import palinode
from palinode.cli.main import entry
from palinode.base.folders import cache_directory
from palinode.cli.new import shipped_experiment
from palinode.spec.load import load

codes = [entry(["new", f"my_{name}.py", "--from", name]) for name in sys.argv[1:]]
with contextlib.redirect_stdout(io.StringIO()) as planned:
    codes.append(entry(["plan", "my_mask_total.py", "--size", "smoke", "--no-measure", "--json"]))
ids = [run.spec.run_id for run in load(shipped_experiment("demo")).resolve().runs]
print(json.dumps({"file": palinode.__file__, "codes": codes, "runs": json.loads(planned.getvalue())["runs"], "demo": ids}))
"""


def test_the_installed_package_is_the_wheel_and_starts_from_shipped_experiments(installed, tmp_path):
    """The run ids of its demo are ours, too; the demo itself takes two minutes and is run by hand and by `make demo`."""
    shipped = sorted(path.stem for path in (ROOT / "experiments").glob("*.py"))
    done = run_installed(installed, tmp_path, "python", "-c", PROGRAM, *shipped)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert str(installed.parent) in told["file"]
    assert told["codes"] == [0] * (len(shipped) + 1), done.stderr
    assert all((tmp_path / f"my_{name}.py").is_file() for name in shipped)
    assert told["runs"] > 0
    assert told["demo"] == [run.spec.run_id for run in load(shipped_experiment("demo")).resolve().runs]


def test_the_demo_of_the_installed_package_is_the_one_of_make(installed, tmp_path):
    recipe = (ROOT / "Makefile").read_text().split("\ndemo: ")[1].splitlines()[1]
    assert recipe.split() == ["$(BIN)/palinode", "demo"]
    assert "three arms" in run_installed(installed, tmp_path, "palinode", "demo", "--help").stdout
