import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from pruning.runs import Step
from tests.runs.steps import DENSE, PRUNED, STEPS, TUNED, old

FILE = f"sha256:{'0' * 64}"


def test_ids_are_pinned_and_names_are_readable() -> None:
    """If this fails, every run that anybody has made would be made again: leave neutral values out of the hash."""
    assert [step.id for step in STEPS] == ["r6cbca61b73fd", "r6692174203b4", "r32a327c9751b"]
    assert DENSE.name == f"train-digits-resnet20-s0-{DENSE.id}"
    assert PRUNED.name == f"prune-digits-resnet20-p0.8-s0-{PRUNED.id}"


def test_all_that_decides_a_result_decides_the_id() -> None:
    changes: dict[str, Any] = {"stage": "prune", "recipe": {"epochs": 2, "lr": 0.2}, "arch": {"name": "resnet32"}}
    changes |= {"dataset": {"name": "digits", "pad": 4}, "seed": 1, "precision": "bf16", "parent": "r0"}
    changes |= {"inputs": {"teacher": "r0"}, "code": {"mine": "sha256:0"}, "version": 1}
    assert len({DENSE.id, *(replace(DENSE, **{key: value}).id for key, value in changes.items())}) == 1 + len(changes)


def test_each_role_of_an_input_decides_the_id() -> None:
    inputs = [{"a": "r1", "b": "r2"}, {"a": "r2", "b": "r1"}, {"a": "r1"}, {"c": "r1"}, {}]
    assert len({replace(TUNED, inputs=given).id for given in inputs}) == len(inputs)
    assert replace(TUNED, inputs=dict(reversed(inputs[0].items()))).id == replace(TUNED, inputs=inputs[0]).id


def test_places_and_names_and_the_order_of_keys_do_not() -> None:
    changes: dict[str, Any] = {"num_classes": 3, "sparsity": 0.5, "level": 7, "method": "random", "root": "elsewhere"}
    changes |= {"places": {"r0": "elsewhere"}, "recipe": {"lr": 0.1, "epochs": 2}}
    assert {replace(DENSE, **{key: value}).id for key, value in changes.items()} == {DENSE.id}


def test_a_step_goes_to_json_and_back() -> None:
    rich = replace(TUNED, inputs={"teacher": DENSE.id}, root="/x", places={DENSE.id: "a", PRUNED.id: "b"})
    for step in (*STEPS, rich):
        again = Step.from_json(json.loads(json.dumps(step.to_json())))
        assert again == step
        assert (again.id, again.name, again.spec) == (step.id, step.name, step.spec)


def test_the_steps_of_0_1_are_read() -> None:
    """Under their own ids, which their directories have."""
    before = [replace(step, version=1) for step in STEPS]
    assert [Step.from_json(json.loads(json.dumps(old(step)))) for step in STEPS] == before
    plain = old(PRUNED) | {"parent": FILE}
    plain["aside"] = {"root": "/images", "num_classes": 3, "file": "/m.pth.tar", "percent": 0.8, "pruned": 1, "of": 2}
    expected = replace(PRUNED, version=1, parent=FILE, places={FILE: "/m.pth.tar"}, root="/images", num_classes=3)
    assert Step.from_json(plain) == expected
    assert Step.from_json(old(DENSE) | {"aside": {}}).id == before[0].id == "r18edc34053c9"


def test_checkpoints_are_found_by_their_reference() -> None:
    step = replace(TUNED, places={PRUNED.id: PRUNED.name, FILE: "/m.pth.tar"})
    assert step.place(PRUNED.id, Path("runs")) == Path("runs") / PRUNED.name / "model.safetensors"
    assert step.place(FILE, Path("runs")) == Path("/m.pth.tar")
