import os
import re
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from hydra_plugins.pruning_hydra.help import GROUPS, show
from pruning.execution import execute
from pruning.program import CONF
from tests.commands import ROOT, Command
from tests.helpers import slow


@pytest.fixture
def refused(command: Command) -> Callable[..., str]:
    """`refused("prune.percent=30")` returns the one line that such a command ends with."""

    def run(*overrides: str, cold: bool = False, runs: Path | None = None, **environ: str) -> str:
        ended = command("train.epochs=0", "finetune.epochs=0", *overrides, cold=cold, runs=runs, **environ)
        lines = ended.stderr.splitlines()
        assert (ended.returncode, len(lines)) == (1, 1), f"{ended.returncode}\n{ended.stdout}\n{ended.stderr}"
        assert lines[0].startswith("error: ")
        assert "starts" not in ended.stdout
        assert not list(command.home.rglob("result.json"))
        return lines[0].removeprefix("error: ")

    return run


MECHANISMS = [
    ("prune.percent=30", r"prune.percent must be in \[0, 1\), got 30; did you mean 0.3\?"),
    ("seed=null", r"seed must be a whole number, got None"),
    ("train.optimizer=adan", r"train.optimizer must be one of .*, got 'adan'; did you mean adam\?"),
    ("env.device=cuda:99", r"env.device=cuda:99: this machine has \d+ CUDA devices; try env.device=auto"),
    ("arch=resnet21", r"arch=resnet21: there is no such option; arch must be one of .*resnet20.*; did you mean resnet"),
    ("train.epoch=3", r"train.epoch: there is no such key; allowed are .*; did you mean epochs\?"),
    ("+train.epoch=3", r"a setting of train must be one of .*, got 'epoch'; did you mean epochs\?"),
    ("prune.percent=0.3,0.5", r".*prune.percent=0.3,0.5.*(-m|--multirun).*"),
    ("prune.percent", r".*prune.percent.*"),
    ("resume=r0123456789ab", r"resume=.*r0123456789ab: no such file, and no run has that id"),
    ("dataset=image_folder", r"dataset.root must be given for image_folder: .*"),
]


@pytest.mark.parametrize(("override", "message"), MECHANISMS, ids=[override for override, _ in MECHANISMS])
def test_what_is_wrong_is_refused_in_one_line(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, override: str, message: str
) -> None:
    """In this process; nothing may start, whatever is accepted by mistake."""
    places = [f"env.runs={tmp_path / 'runs'}", f"env.data={tmp_path}", "env.device=cpu", "env.threads=1"]
    monkeypatch.setattr(sys, "argv", [str(ROOT / "main.py"), *places, override])
    # Hydra reads its plugins twice, the second time with HYDRA_FULL_ERROR=1
    monkeypatch.delitem(sys.modules, "hydra_plugins.pruning_hydra.messages", raising=False)
    monkeypatch.setattr(execute, "run_step", lambda *_: pytest.fail("was accepted"))
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(sys.argv[0], run_name="__main__")
    (line,) = capfd.readouterr().err.splitlines()
    assert ended.value.code == 1
    assert not (tmp_path / "runs").exists()
    assert re.fullmatch(f"error: {message}.*", line), line
    assert "HYDRA_FULL_ERROR" not in line  # that is for what nobody has thought of


def test_a_cold_process_refuses_alike(refused: Callable[..., str]) -> None:
    assert refused("prune.percent=30", cold=True) == "prune.percent must be in [0, 1), got 30; did you mean 0.3?"


def test_the_traceback_is_for_those_who_ask(command: Command) -> None:
    ended = command("prune.percent=30", HYDRA_FULL_ERROR="1")
    assert ended.returncode == 1
    assert "Traceback" in ended.stderr
    assert "UserError: prune.percent must be in [0, 1), got 30" in ended.stderr


@slow
def test_without_a_network_the_line_says_where_to_put_the_archive(refused: Callable[..., str], tmp_path: Path) -> None:
    proxy = {name: "http://127.0.0.1:9" for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY")}
    line = refused("dataset=cifar10", "recipe=quick", no_proxy="", NO_PROXY="", **proxy)
    assert re.match(r"CIFAR-10 is not in .* and could not be downloaded \(.*\); put the CIFAR-10 python archive", line)
    assert str(tmp_path / "data" / "cifar-10-python.tar.gz") in line


@slow
def test_a_place_that_cannot_be_written_is_refused(refused: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        line = refused(runs=place)
        assert line.startswith(f"cannot write {place}")
        assert line.endswith("; choose another place, with env.runs=DIR")


def test_help_names_the_choices_and_imports_nothing_slow() -> None:
    code = (
        "import runpy, sys; sys.argv = ['main.py', '--help']\n"
        "try: runpy.run_path('main.py', run_name='__main__')\n"
        "finally: print(sorted({'torch', 'wandb', 'matplotlib', 'sklearn', 'pandas'} & set(sys.modules)))"
    )
    environ = os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "80"}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environ, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    for word in ("resnet20", "image_folder", "finetune", "magnitude", "rethinking", "percent", "iterative", "smoke"):
        assert word in done.stdout
    for what in (
        "magnitude  the smallest absolute values go\n",
        "train.epochs",
        "env.wandb.mode=null",
        "dataset.pad=4",
    ):
        assert f"  {what}" in done.stdout
    assert done.stdout.splitlines()[-1] == "[]"


def test_help_fits_and_has_every_choice_and_setting(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for columns in (80, 120):
        monkeypatch.setenv("COLUMNS", str(columns))
        show(["--help"])
        text = capsys.readouterr().out
        assert max(map(len, text.splitlines())) <= columns
    words = set(re.findall(r"[\w.]+", text))
    for group in GROUPS:
        assert {path.stem for path in (CONF / group).glob("*.yaml")} <= words
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = OmegaConf.to_container(compose("config"))
    assert isinstance(config, dict)
    for node in ("train", "prune", "levels", "dataset", "env", "report", "export", "rigl", "distill"):
        assert {
            f"{node}.{key}" for key in config[node] if key != "name" and (node == "train" or key not in config["train"])
        } - words <= {"env.wandb"}


def test_help_has_the_options_of_a_directory_of_ones_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "recipe").mkdir()
    (tmp_path / "recipe" / "short.yaml").write_text("# @package _global_\n# A minute. As for the rest, see quick.\n")
    for arguments in (["--config-dir", str(tmp_path), "--help"], ["-h", f"--config-dir={tmp_path}"]):
        show(arguments)
        assert re.search(r"^  short +A minute$", capsys.readouterr().out, re.MULTILINE)


SEEN = """
import runpy, sys
from pruning import tracking

def load_torch():
    print("torch is there already" if "torch" in sys.modules else "now")
    sys.exit()

tracking.load_torch = load_torch
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.parametrize("words", ["", "stage=report", "hydra/launcher=plan", "-m seed=0", "-m hydra/launcher=slurm"])
def test_torch_is_loaded_when_that_is_said_and_not_before(words: str, tmp_path: Path) -> None:
    command = [sys.executable, "-c", SEEN, str(ROOT / "main.py"), *words.split(), f"env.runs={tmp_path}"]
    environ = os.environ | {"PYTHONPATH": str(ROOT)}
    assert subprocess.run(command, env=environ, capture_output=True, text=True, check=False).stdout == "now\n"


ENDED = """
import atexit, runpy, sys

atexit.register(lambda: print("torch was imported" if "torch" in sys.modules else "no torch"))
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def last_words(command: Command, *words: str) -> list[str]:
    """Give a command in a process of its own; return the last two lines that it prints."""
    places = [f"env.runs={command.runs}", f"env.data={command.home / 'data'}", "env.device=cpu", "env.threads=1"]
    program = [sys.executable, "-c", ENDED, str(ROOT / "main.py"), *words, *places]
    environ = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(program, env=environ, capture_output=True, text=True, check=True).stdout.splitlines()[-2:]


def test_who_only_looks_at_runs_does_not_wait_for_torch(command: Command) -> None:
    assert last_words(command, "stage=status") == [f"nothing has been run in {command.runs} yet", "no torch"]


@pytest.mark.parametrize("way", [(), ("-m", "seed=0,1")], ids=["alone", "sweep"])
def test_the_second_call_of_what_is_finished_says_the_same_without_torch(
    command: Command, way: tuple[str, ...]
) -> None:
    words = (*way, "stage=train", "train.epochs=1", "train.batch_size=500", "train.precision=fp32")
    assert command(*words).returncode == 0
    long = command(*words, "env.logits=false").stdout  # another command, whose steps are done too
    first, second = last_words(command, *words), last_words(command, *words)
    assert first == second == [[*filter(None, long.splitlines())][-1], "no torch"]


def test_what_is_not_finished_any_more_is_made_again(command: Command) -> None:
    words = ("stage=train", "train.epochs=1", "train.batch_size=500", "train.precision=fp32")
    assert command(*words).returncode == 0
    (run,) = command.runs.glob("train-*")
    for change in (
        (run / "result.json").unlink,
        (run / "picture.png").unlink,
        lambda: (run / "model.safetensors").write_bytes(b"damaged"),
    ):
        assert last_words(command, *words)[1] == "no torch"
        change()
        again = command(*words)
        if again.returncode:
            assert "delete" in again.stderr
            break
    else:
        pytest.fail("a damaged model was not seen")
    assert command(*words, "seed=-1").returncode == 1
    assert command(*words, "hydra.launcher.workers=0").returncode == 1
    (remembered,) = command.runs.glob(".finished/*")
    remembered.write_text("[]")
    assert "delete" in command(*words).stderr
