"""`.pt2` files made to harm: a command in each leaves a mark, by every way into the reader of torch."""

import io
import json
import pickle
import random
import re
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from videonorm.data.clip_spec import ClipSpec
from videonorm.errors import UserError
from videonorm.evaluation.artifact import Card, load_artifact
from videonorm.evaluation.program import save_program, trace

CPU = torch.device("cpu")
CARD = Card(
    {"class_path": "a.Net"}, ClipSpec(4, 1, 8, None, [0.45] * 3, [0.225] * 3, "linspace", "loop"), 2, None
)
Members = dict[str, bytes]


class Net(nn.Module):
    """Has sizes of B and T in its graph, and a constant that is no weight."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv3d(3, 2, 1)
        self.register_buffer("scale", torch.tensor([2.0, 3.0]), persistent=False)

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        x = self.conv(clips)
        return x.view(x.shape[0], 2, x.shape[2] * 64).mean(2) * self.scale


class Opens:
    """Unpickling it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self.path), "w")


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> tuple[Members, Net]:
    """The members of a program, and its network."""
    torch.manual_seed(0)
    path, network = tmp_path_factory.mktemp("program") / "model.pt2", Net().eval()
    save_program(trace(network, CARD), CARD, path)
    with zipfile.ZipFile(path) as archive:
        return {f"model/{name.partition('/')[2]}": archive.read(name) for name in archive.namelist()}, network


def written(path: Path, members: Members) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def changed(
    members: Members, change: Callable[[dict[str, Any]], object], name: str = "models/model.json"
) -> Members:
    fields = json.loads(members[f"model/{name}"])
    change(fields)
    return {**members, f"model/{name}": json.dumps(fields).encode()}


def torch_pickle(path: Path) -> bytes:
    buffer = io.BytesIO()
    torch.save(Opens(path), buffer)
    return buffer.getvalue()


def node(program: dict[str, Any], target: str) -> dict[str, Any]:
    """The first node that calls it."""
    nodes = program["graph_module"]["graph"]["nodes"]
    return next(node for node in nodes if node["target"].endswith(target))


def as_pickle(table: str, name: str) -> Callable[[Members, Path], Members]:
    """A weight or constant whose table says that it is a pickle."""

    def change(members: Members, mark: Path) -> Members:
        def say_so(fields: dict[str, Any]) -> None:
            next(iter(fields["config"].values()))["use_pickle"] = True

        config = f"data/{table}/model_{table}_config.json"
        return {**changed(members, say_so, config), f"model/data/{table}/{name}": torch_pickle(mark)}

    return change


def custom_object(members: Members, mark: Path) -> Members:
    def name_it(fields: dict[str, Any]) -> None:
        entry = {"is_param": False, "use_pickle": True, "tensor_meta": None}
        fields["config"]["object"] = {"path_name": "opaque_obj_0", **entry}

    content = {"model/data/constants/opaque_obj_0": pickle.dumps(Opens(mark))}
    return {**changed(members, name_it, "data/constants/model_constants_config.json"), **content}


def calls(target: str, *args: str) -> Callable[[Members, Path], Members]:
    """The first operator is another one, with texts for arguments."""

    def change(members: Members, mark: Path) -> Members:
        texts = [arg.format(mark=mark) for arg in args]
        inputs = [{"name": "", "arg": {"as_string": text}, "kind": 1} for text in texts]
        return changed(members, lambda p: node(p, "conv3d.default").update(target=target, inputs=inputs))

    return change


def older_format(members: Members, mark: Path) -> Members:
    """That of torch 2.7, which its loader falls back to."""
    of = {name: torch_pickle(mark) for name in ("state_dict", "constants", "example_inputs")}
    parts = {f"serialized_{name}.pt": content for name, content in of.items()}
    return {
        "version": b"8.1",
        "serialized_exported_program.json": members["model/models/model.json"],
        **parts,
    }


PICKLE = "has a pickle in it"
REFUSED: dict[str, tuple[Callable[[Members, Path], Members], str]] = {
    "sample_inputs": (
        lambda members, mark: {**members, "model/data/sample_inputs/model.pt": torch_pickle(mark)},
        PICKLE,
    ),
    "weight": (as_pickle("weights", "weight_0"), PICKLE),
    "constant": (as_pickle("constants", "tensor_0"), PICKLE),
    "custom_object": (custom_object, "has a member 'model/data/constants/opaque_obj_0'"),
    "old_weights": (
        lambda members, mark: {**members, "model/data/weights/model.pt": torch_pickle(mark)},
        "has a member 'model/data/weights/model.pt'",
    ),
    "old_constants": (
        lambda members, mark: {**members, "model/data/constants/model.pt": torch_pickle(mark)},
        "has a member 'model/data/constants/model.pt'",
    ),
    "older_format": (older_format, "has a member 'version'"),
    "function": (calls("torch.os.system", "touch {mark}"), "has an operator 'torch.os.system'"),
    "nested_operator": (
        calls("torch.ops.aten.conv3d.default.os.system", "touch {mark}"),
        "has an operator 'torch.ops.aten.conv3d.default.os.system'",
    ),
    "file_operator": (
        calls("torch.ops.aten.from_file.default", "{mark}"),
        "has an operator 'torch.ops.aten.from_file.default'",
    ),
    "operator_in_place": (calls("torch.ops.aten.relu_.default"), "operator 'torch.ops.aten.relu_.default'"),
    "operator_with_out": (calls("torch.ops.aten.mul.out"), "has an operator 'torch.ops.aten.mul.out'"),
    "library": (
        lambda members, mark: {**members, "model/data/aotinductor/model/model.so": b"\x7fELF"},
        "has a member 'model/data/aotinductor/model/model.so'",
    ),
    "second_program": (
        lambda members, mark: {**members, "model/models/other.json": members["model/models/model.json"]},
        "has a member 'model/models/other.json'",
    ),
    "no_card": (
        lambda members, mark: {n: of for n, of in members.items() if n != "model/extra/model.json"},
        "has no extra/model.json",
    ),
    "other_folder": (lambda members, mark: {**members, "other/byteorder": b"little"}, "has a member 'other/"),
    "above": (lambda members, mark: {**members, "model/../../mark": b""}, "has a member 'model/../../mark'"),
    "absolute": (lambda members, mark: {**members, str(mark): b""}, "has a member '/"),
    "byte_order": (lambda members, mark: {**members, "model/byteorder": b"big"}, "has the byte order 'big'"),
    "other_crop": (
        lambda members, mark: changed(members, lambda c: c["input"].update(crop_size=16), "extra/model.json"),
        "must have the program's crop_size, and has 16 instead of 8 x 8",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_export_does_not_write_is_refused(
    program: tuple[Members, Net], tmp_path: Path, name: str
) -> None:
    change, message = REFUSED[name]
    path = written(tmp_path / "bad.pt2", change(program[0], tmp_path / "mark"))
    with pytest.raises(UserError) as caught:
        load_artifact(path, CPU)
    assert str(path) in str(caught.value) and message in str(caught.value) and "\n" not in str(caught.value)
    assert [file.name for file in tmp_path.iterdir()] == ["bad.pt2"]


def symbol(members: Members, mark: Path) -> Members:
    def change(program: dict[str, Any]) -> None:
        of = next(iter(program["graph_module"]["graph"]["sym_int_values"].values()))
        of["as_expr"]["expr_str"] = f"open({str(mark)!r}, 'w')"

    return changed(members, change)


def guard(members: Members, mark: Path) -> Members:
    return changed(members, lambda p: p.update(guards_code=[f"open({str(mark)!r}, 'w') is not None"]))


def name_of_a_value(members: Members, mark: Path) -> Members:
    text = members["model/models/model.json"].decode()
    evil = f"clips=open({str(mark)!r}, 'w')"
    assert text.count('"clips"') > 2
    return {**members, "model/models/model.json": text.replace('"clips"', json.dumps(evil)).encode()}


NOT_READ = {"symbol": symbol, "guard": guard, "name": name_of_a_value}


@pytest.mark.parametrize("name", NOT_READ)
def test_source_code_in_a_program_is_not_read(
    program: tuple[Members, Net], tmp_path: Path, name: str
) -> None:
    members, network = program
    artifact = load_artifact(written(tmp_path / "bad.pt2", NOT_READ[name](members, tmp_path / "mark")), CPU)
    clips = torch.randn(3, 3, 5, 8, 8)
    with torch.inference_mode():
        torch.testing.assert_close(artifact.network(clips), network(clips))
    assert [file.name for file in tmp_path.iterdir()] == ["bad.pt2"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sample_inputs", "weight", "symbol", "name"])
def test_torch_runs_these_commands(program: tuple[Members, Net], tmp_path: Path, name: str) -> None:
    """Or the tests above would show nothing."""
    mark = tmp_path / "mark"
    change = NOT_READ[name] if name in NOT_READ else REFUSED[name][0]
    path = written(tmp_path / "bad.pt2", change(program[0], mark))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            load_artifact(path, CPU, trust=True).network(torch.randn(2, 3, 5, 8, 8))
        except Exception as error:
            print(error)  # it has run by then
    assert mark.exists()


def test_the_program_gives_what_its_network_does(program: tuple[Members, Net], tmp_path: Path) -> None:
    """By both readers; and the file that export writes holds no pickle and no archive."""
    members, network = program
    assert members["model/data/sample_inputs/model.pt"] == b""
    assert not [name for name, content in members.items() if content.startswith((b"PK", b"\x80"))]
    path = written(tmp_path / "good.pt2", members)
    for trust in (False, True):
        artifact = load_artifact(path, CPU, trust)
        assert artifact.card == CARD
        for num_clips, num_frames in ((1, 1), (3, 5)):
            clips = torch.randn(num_clips, 3, num_frames, 8, 8)
            torch.testing.assert_close(artifact.network(clips), network(clips))
        with pytest.raises((UserError, RuntimeError), match="must have the program's size|to be equal to 8"):
            artifact.network(torch.zeros(1, 3, 4, 16, 16))
    meta = load_artifact(path, torch.device("meta")).network(torch.empty(2, 3, 4, 8, 8, device="meta"))
    assert meta.is_meta and meta.shape == (2, 2)


def damaged(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        load_artifact(path, CPU).network(torch.randn(1, 3, 4, 8, 8))
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    return str(caught.value)


def test_archives_that_are_not_what_they_seem(program: tuple[Members, Net], tmp_path: Path) -> None:
    path = written(tmp_path / "bad.pt2", program[0])
    good = path.read_bytes()
    for end in (0, 100, len(good) // 2, len(good) - 1):
        assert "is no whole zip archive" in damaged(path, good[:end])
    assert "something before the archive" in damaged(path, b"#!/bin/sh\n" + good)
    flipped = bytearray(good)
    flipped[good.index(program[0]["model/data/weights/weight_0"])] ^= 1
    assert "is no whole zip archive (Bad CRC-32" in damaged(path, bytes(flipped))
    # The two places that name a member differ.
    inside = good.replace(b"model/byteorder", b"model/anything!", 1)
    assert "is no whole zip archive (File name in directory" in damaged(path, inside)
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w") as archive:
        warnings.simplefilter("ignore")  # of the name, which is there already
        for name, content in [*program[0].items(), ("model/extra/model.json", b"{}")]:
            archive.writestr(name, content)
    assert "has two members 'model/extra/model.json'" in damaged(path, path.read_bytes())
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in {**program[0], "model/data/weights/weight_9": bytes(10**6)}.items():
            archive.writestr(name, content)
    assert "has a compressed member 'model/" in damaged(path, path.read_bytes())


def test_fields_that_cannot_be(program: tuple[Members, Net], tmp_path: Path) -> None:
    members, path = program[0], tmp_path / "bad.pt2"

    def refused(message: str, members: Members) -> None:
        assert message in damaged(path, written(path, members).read_bytes())

    def of_weights(**fields: Any) -> Members:
        def change(table: dict[str, Any]) -> None:
            table["config"]["conv.weight"]["tensor_meta"].update(fields)

        return changed(members, change, "data/weights/model_weights_config.json")

    refused("is damaged", {**members, "model/models/model.json": b"[" * 10**5})
    refused("is damaged", {**members, "model/models/model.json": b"\xff"})
    refused("is damaged", {**members, "model/models/model.json": b"[]"})
    refused("model.json must be JSON", {**members, "model/extra/model.json": b"{"})
    refused("model.json must be a model card", {**members, "model/extra/model.json": b"[]"})
    refused("out of bounds for storage", of_weights(sizes=[{"as_int": 10**6}] * 5))
    refused("has a tensor of the size", of_weights(storage_offset={"as_int": -1}))
    refused("is damaged (KeyError", of_weights(dtype=99))
    specs = "output_specs"
    refused(
        "has 1 inputs and the outputs []",
        changed(members, lambda p: p["graph_module"]["signature"].update({specs: [{}]})),
    )
    # Operators with arguments that do not fit, and numbers that grow without end.
    refused(
        "must run on clips of the shape (1, 3, 4, 8, 8)",
        of_weights(sizes=[{"as_int": of} for of in (2, 2, 1, 1, 1)]),
    )

    def grow(program: dict[str, Any]) -> None:
        nodes = program["graph_module"]["graph"]["nodes"]
        product = node(program, "_operator.mul")
        name = product["outputs"][0]["as_sym_int"]["as_name"]
        size = {"as_sym_int": {"as_name": name}}
        inputs = [{"name": "", "arg": of, "kind": 1} for of in (size, size)]
        nodes[nodes.index(product) + 1 : 0] = [{**product, "inputs": inputs}] * 100

    refused("sizes must be below 2^63", changed(members, grow))


@pytest.mark.slow
def test_bytes_and_fields_changed_at_random(program: tuple[Members, Net], tmp_path: Path) -> None:
    """Whatever is changed, it is refused in a sentence, or gives scores."""
    path, rng = written(tmp_path / "bad.pt2", program[0]), random.Random(0)
    good = path.read_bytes()
    table = good.index(b"PK\x01\x02")
    text = program[0]["model/models/model.json"].decode()
    numbers = [match.span() for match in re.finditer(r"(?<=: )(\d+|\"\w+\"|null|\[\]|\{\})", text)]
    for of in range(400):
        bad = bytearray(good)
        for _ in range(3):
            bad[rng.randrange(table if of % 2 else 0, len(bad))] = rng.randrange(256)
        start, end = rng.choice(numbers)
        field = (
            text[:start] + rng.choice(["-1", "1e400", '"x"', "[[]]", '{"a": 1}', "null", "true"]) + text[end:]
        )
        fields = {**program[0], "model/models/model.json": field.encode()}
        for content in (bytes(bad), written(path, fields).read_bytes()):
            path.write_bytes(content)
            try:
                load_artifact(path, CPU).network(torch.randn(1, 3, 4, 8, 8))
            except UserError as error:
                assert "\n" not in str(error)
