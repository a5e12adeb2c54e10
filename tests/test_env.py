import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from pruning import env
from pruning.env import Env, WandbSettings
from pruning.errors import UserError

RESOLVE = env.resolve_precision.__wrapped__  # without the cache


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A machine that says that it has these GPUs."""
    has: dict[str, Any] = {"count": 2, "capability": (9, 0)}
    monkeypatch.setattr(torch.cuda, "device_count", lambda: has["count"])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has["count"] > 0)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: has["capability"])
    return has


def test_it_goes_to_plain_values_and_back_in_another_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = WandbSettings(mode="offline", project=None, group="g", tags=("a", "b"))
    made = Env(runs=tmp_path / "a", data=Path("b"), device="cpu", threads=2, wandb=wandb)
    monkeypatch.chdir(tmp_path)
    plain = json.loads(json.dumps(made.to_json()))
    monkeypatch.chdir("/")
    assert Env.from_config(plain) == Env(runs=tmp_path / "a", data=tmp_path / "b", device="cpu", threads=2, wandb=wandb)
    here = {"runs", "data", "imports", "snapshots", "resident_gb", "logits", "wandb"}
    assert set(plain) == {*here, "device", "threads", "deterministic", "cuda_graph"}
    assert "options" not in plain["wandb"]
    assert Env.from_config({"runs": "~/x"}).runs == Path("~/x").expanduser()


def test_what_is_wrong_is_refused() -> None:
    cases: list[tuple[dict[str, Any], str]] = [
        ({"threads": 0}, "env.threads must be in [1, 4096], got 0"),
        ({"runs": 3}, "env.runs must be a path, got 3"),
        ({"imports": "a"}, "env.imports must be a list of words like [a,b], got 'a'"),
        ({"wandb": {"mode": "off"}}, "env.wandb.mode must be one of disabled, offline, online, got 'off'"),
        ({"wandb": {"tag": ["a"]}}, "a setting of env.wandb must be one of entity, group, mode, project, tags, got"),
    ]
    for node, text in cases:
        with pytest.raises(UserError, match=f"^{re.escape(text)}"):
            Env.from_config(node)


def test_devices_that_are_there_are_taken_and_others_refused(gpus: dict[str, Any]) -> None:
    for asked, found in {"auto": "cuda", "cpu": "cpu", "cuda": "cuda", "cuda:1": "cuda:1"}.items():
        assert Env(device=asked).torch_device() == torch.device(found)
    gpus["count"] = 0
    assert Env().torch_device() == torch.device("cpu")
    for count, device, text in [
        (2, "gpu", " must be auto, cpu, cuda, cuda:N or mps, got 'gpu'"),
        (2, "cuda:x", " must be auto, cpu, cuda, cuda:N or mps, got 'cuda:x'"),
        (2, "cuda:2", "=cuda:2: this machine has 2 CUDA devices; try env.device=auto"),
        (0, "cuda", "=cuda: this machine has 0 CUDA devices; try env.device=auto"),
    ]:
        gpus["count"] = count
        with pytest.raises(UserError, match=f"^env.device{re.escape(text)}$"):
            Env(device=device).torch_device()


def test_auto_is_bf16_where_the_device_computes_in_it(gpus: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    arm, old = {"bf16", "asimd"}, {"avx", "avx2", "avx512f"}
    flags: dict[str, list[Any]] = {"bf16": [{"avx512_bf16", "avx"}, {"amx_bf16"}, arm], "fp32": [old, set()]}
    capabilities: dict[str, list[Any]] = {"bf16": [(9, 0), (8, 0)], "fp32": [(7, 5)]}
    for device, known in (("cpu", flags), ("cuda", capabilities)):
        for found, able in [(name, able) for name in known for able in known[name]]:
            gpus["capability"] = able
            monkeypatch.setattr(env, "cpu_flags", lambda able=able: able)
            asked = [RESOLVE(wanted, torch.device(device)) for wanted in ("auto", "bf16", "fp32")]
            assert asked == [found, "bf16", "fp32"], able


def test_a_wrong_precision_is_refused() -> None:
    assert Env(device="cpu").precision("auto") == env.resolve_precision("auto", torch.device("cpu"))
    with pytest.raises(UserError, match=r"^precision must be one of auto, bf16, fp32, tf32, got 'fp16'") as caught:
        Env(device="cpu").precision("fp16")
    assert caught.value.parameter == "precision"
    with pytest.raises(UserError, match=r"^precision=tf32 needs a GPU that has it; on cpu try precision=fp32$"):
        Env(device="cpu").precision("tf32")


def test_the_processor_is_read_from_the_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "processor\t: 0\nmodel name\t: Chip: 3 GHz\nflags\t\t: avx avx512_bf16\n\nprocessor\t: 1\nflags\t: other\n"
    monkeypatch.setattr(Path, "read_text", lambda path: text)
    assert (env.cpu_flags(), env.device_name(torch.device("cpu"))) == ({"avx", "avx512_bf16"}, "Chip: 3 GHz")
    monkeypatch.setattr(Path, "read_text", lambda path: (tmp_path / "none").read_bytes())  # there is no such file
    assert env.cpu_flags() == set()
    assert isinstance(env.device_name(torch.device("cpu")), str)


def test_extensions_are_imported_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "an_extension.py").write_text("LOADED = True\n")
    (tmp_path / "a_broken_one.py").write_text("import no_such_library\n")
    for name, missing in (("an_extension", "an_extension"), ("a_broken_one", "no_such_library")):
        with pytest.raises(UserError) as caught:
            Env.from_config({"imports": ["json", name]})
        reason = f"No module named '{missing}'"
        text = f"env.imports: {name} cannot be imported ({reason}); is its directory on PYTHONPATH?"
        assert (str(caught.value), caught.value.parameter) == (text, "env.imports")
        monkeypatch.syspath_prepend(tmp_path)
    assert Env.from_config({"imports": ["an_extension", "json"]}).imports == ("an_extension", "json")
    assert sys.modules.pop("an_extension").LOADED


def test_a_process_is_prepared(monkeypatch: pytest.MonkeyPatch) -> None:
    set_to: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", set_to.append)
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    cudnn = torch.backends.cudnn
    for name in ("benchmark", "deterministic"):
        monkeypatch.setattr(cudnn, name, getattr(cudnn, name))
    Env(threads=3, deterministic=False).prepare()
    assert (cudnn.benchmark, cudnn.deterministic, os.environ.get("CUBLAS_WORKSPACE_CONFIG")) == (True, False, None)
    Env().prepare()
    assert (cudnn.benchmark, cudnn.deterministic, os.environ["CUBLAS_WORKSPACE_CONFIG"]) == (False, True, ":4096:8")
    assert set_to == [3]  # null leaves torch's own number
