"""A `.pt2` file read as data: its members are checked, then its operators are called one after the other.

torch.export's own loader runs what a file asks for. It unpickles sample inputs, weights and constants, hands
the strings of sizes and guards to `eval`, writes the names of values into Python source, looks operators up
anywhere below `torch`, and loads compiled libraries. So it never sees a file that is not trusted: what is
read here is numbers, names that are looked up in the lists below, and bytes of weights.

What remains: the operators are torch's own, with arguments that the file chooses. A file can ask for more
memory or time than there is, and a fault in one of these operators would be a fault here.
"""

import json
import operator
import os
import re
import struct
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.fx import Graph, Interpreter, Node

from videonorm.errors import UserError
from videonorm.messages import first_line

CARD_MEMBER = "extra/model.json"
PROGRAM_MEMBER = "models/model.json"
INPUTS_MEMBER = "data/sample_inputs/model.pt"  # torch's loader wants it; empty, or it would be a pickle
MEMBERS = re.compile(
    r"archive_format|archive_version|byteorder|\.data/version|\.data/serialization_id|"
    rf"{CARD_MEMBER}|{PROGRAM_MEMBER}|{INPUTS_MEMBER}|"
    r"data/weights/(model_weights_config\.json|weight_\d+)|"
    r"data/constants/(model_constants_config\.json|tensor_\d+)",
    re.ASCII,
)
LARGEST_TEXT = 64 * 2**20  # bytes of a JSON member; a network of 100 layers has about 2 MB

# Functional ones of torch.ops.aten, in any overload: what networks for clips are made of.
OPERATORS = """
conv1d conv2d conv3d convolution linear addmm mm bmm baddbmm matmul scaled_dot_product_attention
batch_norm _native_batch_norm_legit_no_training group_norm native_group_norm layer_norm native_layer_norm
relu hardtanh leaky_relu elu celu selu gelu silu mish prelu sigmoid hardsigmoid hardswish tanh softplus
softmax _softmax log_softmax _log_softmax dropout
max_pool2d max_pool3d max_pool2d_with_indices max_pool3d_with_indices avg_pool2d avg_pool3d
adaptive_avg_pool2d adaptive_avg_pool3d _adaptive_avg_pool2d _adaptive_avg_pool3d
upsample_nearest2d upsample_bilinear2d upsample_nearest3d upsample_trilinear3d
add sub rsub mul div floor_divide remainder neg abs sign square sqrt rsqrt reciprocal exp log pow erf sin
cos floor ceil round clamp clamp_min clamp_max minimum maximum where eq ne lt le gt ge logical_and
logical_or logical_not
mean sum var std var_mean amax amin max min argmax cumsum linalg_vector_norm
sym_size view reshape _unsafe_view flatten permute transpose t unsqueeze squeeze expand expand_as repeat
repeat_interleave cat stack split split_with_sizes chunk unbind slice select narrow index index_select
gather roll flip pad constant_pad_nd clone contiguous alias detach type_as to _to_copy
arange full full_like new_full zeros zeros_like new_zeros ones ones_like new_ones scalar_tensor
masked_fill fill copy slice_scatter select_scatter
"""
SIZE_OPERATORS: dict[str, Callable[..., Any]] = {
    **{
        f"_operator.{name}": getattr(operator, name)
        for name in ("add", "sub", "mul", "floordiv", "mod", "neg")
    },
    **{f"_operator.{name}": getattr(operator, name) for name in ("eq", "ne", "lt", "le", "gt", "ge")},
    "torch.sym_max": max,
    "torch.sym_min": min,
}
# The numbers of torch's serialization, torch/_export/serde/schema.py.
DTYPES = {
    1: torch.uint8,
    2: torch.int8,
    3: torch.int16,
    4: torch.int32,
    5: torch.int64,
    6: torch.float16,
    7: torch.float32,
    8: torch.float64,
    12: torch.bool,
    13: torch.bfloat16,
}
MEMORY_FORMATS = {
    1: torch.contiguous_format,
    2: torch.channels_last,
    3: torch.channels_last_3d,
    4: torch.preserve_format,
}
STRIDED, KEYWORD = 7, 2


# Whatever JSON of another shape, or tensors that do not fit, make of what follows.
DAMAGE = (LookupError, TypeError, AttributeError, ValueError, RuntimeError, ArithmeticError)


class _ForeignError(Exception):
    """What `videonorm export` would not have written; completes the sentence "the program has ..."."""


Size = tuple[int | None, int | None]  # (H, W); None where any will do


class ReadProgram(NamedTuple):
    """`network` maps clips (B, 3, T, H, W) of the size (H, W) = `crop` to logits (B, K)."""

    network: Callable[[Tensor], Tensor]
    crop: Size
    card: str  # JSON


def check_size(clips: Tensor, crop: Size) -> None:
    """Raise UserError unless `clips` (B, 3, T, H, W) are of the size (H, W) = `crop`."""
    if clips.dim() != 5 or any(
        of not in (None, size) for size, of in zip(clips.shape[3:], crop, strict=True)
    ):
        needs = " x ".join("any" if of is None else str(of) for of in crop)
        raise UserError(f"clips {tuple(clips.shape)} must have the program's size, {needs}")


def read_program(path: Path, device: torch.device) -> ReadProgram:
    """Read a program that `videonorm export` has written, onto `device`, and run no code of the file.

    Raises:
        UserError: the file cannot be read, or holds what export does not write.
    """
    not_ours = f"{path} must be a program made by `videonorm export`"
    try:
        with path.open("rb") as file, zipfile.ZipFile(file) as archive:
            members = _members(archive, os.fstat(file.fileno()).st_size)
            graph, given, crop, card = _Reader(archive, members, device).read()
    except _ForeignError as error:
        raise UserError(
            f"{not_ours}, and has {error}; --trust reads it all the same, and lets it run any code"
        ) from error
    except (zipfile.BadZipFile, struct.error, EOFError) as error:
        raise UserError(f"{not_ours}, and is no whole zip archive ({first_line(error)})") from error
    except DAMAGE as error:
        raise UserError(
            f"{not_ours}, and is damaged ({type(error).__name__}: {first_line(error)})"
        ) from error
    interpreter = Interpreter(nn.Module(), graph=graph)
    interpreter.extra_traceback = False

    def network(clips: Tensor) -> Tensor:
        check_size(clips, crop)  # a network with a pool at its end would not notice
        try:
            logits: Tensor = interpreter.run(clips, initial_env=dict(given))
        except torch.OutOfMemoryError:
            raise
        except DAMAGE as error:
            raise UserError(
                f"{path} must run on clips of the shape {tuple(clips.shape)} ({first_line(error)})"
            ) from error
        return logits

    return ReadProgram(network, crop, card)


def _members(archive: zipfile.ZipFile, file_size: int) -> dict[str, zipfile.ZipInfo]:
    """The members by their names below the one folder that holds them, each of them known and as it seems."""
    found: dict[str, zipfile.ZipInfo] = {}
    folders = set()
    for info in archive.infolist():
        folder, _, name = info.filename.partition("/")
        folders.add(folder)
        if len(folders) != 1 or folder in ("", ".", "..") or not MEMBERS.fullmatch(name):
            raise _ForeignError(f"a member {info.filename!r}")
        if name in found:
            raise _ForeignError(f"two members {info.filename!r}")
        if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
            raise _ForeignError(f"a compressed member {info.filename!r}")
        found[name] = info
    if sum(info.file_size for info in found.values()) > file_size:
        raise _ForeignError("members that overlap")
    if found and min(info.header_offset for info in found.values()) != 0:
        raise _ForeignError("something before the archive")
    if INPUTS_MEMBER in found and found[INPUTS_MEMBER].file_size:
        raise _ForeignError(f"a pickle in it ({INPUTS_MEMBER}), as older versions wrote: export it again")
    return found


class _Reader:
    """The parts of one archive, whose members were checked."""

    def __init__(
        self, archive: zipfile.ZipFile, members: dict[str, zipfile.ZipInfo], device: torch.device
    ) -> None:
        self.archive = archive
        self.members = members
        self.device = device

    def read(self) -> tuple[Graph, dict[Node, Tensor], Size, str]:
        if CARD_MEMBER not in self.members:
            raise _ForeignError(f"no {CARD_MEMBER}")
        if (order := self._bytes("byteorder").decode()) != sys.byteorder:
            raise _ForeignError(f"the byte order {order!r} of another machine")
        module = json.loads(self._text(PROGRAM_MEMBER))["graph_module"]
        weights = self._tensors("weights", "model_weights_config.json")
        constants = self._tensors("constants", "model_constants_config.json")
        graph, given, crop = _graph(module, weights, constants, self.device)
        return graph, given, crop, self._text(CARD_MEMBER)

    def _bytes(self, name: str) -> bytes:
        return self.archive.read(self.members[name])

    def _text(self, name: str) -> str:
        if self.members[name].file_size > LARGEST_TEXT:
            raise _ForeignError(f"{name} of {self.members[name].file_size} bytes")
        return self._bytes(name).decode()

    def _tensors(self, folder: str, config: str) -> dict[str, Tensor]:
        """The tensors that a table of the archive names, those that share memory sharing it again."""
        tensors: dict[str, Tensor] = {}
        flat: dict[tuple[str, torch.dtype], Tensor] = {}
        for name, entry in json.loads(self._text(f"data/{folder}/{config}"))["config"].items():
            if entry["use_pickle"]:
                raise _ForeignError(f"a pickle in it, for {name!r}")
            meta = entry["tensor_meta"]
            member, dtype = f"data/{folder}/{entry['path_name']}", DTYPES[meta["dtype"]]
            if (member, dtype) not in flat:
                content = bytearray(self._bytes(member))
                flat[member, dtype] = torch.frombuffer(content, dtype=dtype) if content else torch.empty(0)
            size, stride = ([_whole(of) for of in meta[key]] for key in ("sizes", "strides"))
            start = _whole(meta["storage_offset"])
            if 0 in size:
                tensor = torch.empty(size, dtype=dtype)
            else:  # which checks that it stays inside
                tensor = flat[member, dtype].as_strided(size, stride, start)
            tensors[name] = tensor.to(self.device)
        return tensors


def _whole(number: dict[str, int]) -> int:
    ((kind, value),) = number.items()
    if kind != "as_int" or type(value) is not int or value < 0:
        raise _ForeignError(f"a tensor of the size {number!r}")
    return value


def _graph(
    module: dict[str, Any], weights: dict[str, Tensor], constants: dict[str, Tensor], device: torch.device
) -> tuple[Graph, dict[Node, Tensor], Size]:
    """The graph, what its placeholders but the last are given, and the height and width of its clips."""
    serialized, graph = module["graph"], Graph()
    values: dict[str, Node] = {}
    given: dict[Node, Tensor] = {}
    clips = []
    for spec in module["signature"]["input_specs"]:
        ((kind, fields),) = spec.items()
        name = (fields["arg"]["as_tensor"] if kind == "user_input" else fields["arg"])["name"]
        values[name] = node = graph.placeholder("value")
        if kind == "user_input":
            clips.append(name)
        elif kind == "parameter":
            given[node] = weights[fields["parameter_name"]]
        elif kind == "buffer":
            given[node] = (weights if fields["persistent"] else constants)[fields["buffer_name"]]
        elif kind == "tensor_constant":
            given[node] = constants[fields["tensor_constant_name"]]
        else:
            raise _ForeignError(f"an input of the kind {kind!r}")
    outputs = [kind for spec in module["signature"]["output_specs"] for kind in spec]
    if len(clips) != 1 or outputs != ["user_output"] or len(serialized["outputs"]) != 1:
        raise _ForeignError(f"{len(clips)} inputs and the outputs {outputs}")
    for node in serialized["nodes"]:
        _add_node(graph, values, node, device)
    graph.output(values[serialized["outputs"][0]["as_tensor"]["name"]])
    sizes = serialized["tensor_values"][clips[0]]["sizes"]
    if len(sizes) != 5:
        raise _ForeignError(f"clips of {len(sizes)} dimensions")
    height, width = (None if "as_expr" in size else _whole(size) for size in sizes[3:])
    return graph, given, (height, width)


def _add_node(graph: Graph, values: dict[str, Node], node: dict[str, Any], device: torch.device) -> None:
    args, kwargs = [], {}
    for given in node["inputs"]:
        value = _argument(given["arg"], values, device)
        if given["kind"] == KEYWORD:
            kwargs[given["name"]] = value
        else:
            args.append(value)
    result = graph.call_function(_operator(node["target"]), tuple(args), kwargs)
    outputs = node["outputs"]
    if len(outputs) == 1 and "as_tensors" not in outputs[0]:
        results = [result]
    else:
        outputs = outputs[0]["as_tensors"] if len(outputs) == 1 else outputs
        results = [graph.call_function(operator.getitem, (result, index)) for index in range(len(outputs))]
    for output, value in zip(outputs, results, strict=True):
        name = _name(output)
        if name is not None:
            values[name] = value


def _name(output: dict[str, Any]) -> str | None:
    """What a result of an operator is called; None for one that is none."""
    ((kind, value),) = output.items()
    if kind == "as_none":
        return None
    if kind not in ("name", "as_tensor", "as_sym_int", "as_sym_bool", "as_sym_float"):
        raise _ForeignError(f"a result of the kind {kind!r}")
    name: str = value if kind == "name" else value["name" if kind == "as_tensor" else "as_name"]
    return name


def _operator(target: str) -> Callable[..., Any]:
    """The function that a name of the lists above stands for."""
    if target in SIZE_OPERATORS:
        return _of_sizes(SIZE_OPERATORS[target])
    match = re.fullmatch(r"torch\.ops\.aten\.(\w+)\.(\w+)", target, re.ASCII)
    if match and match[1] in OPERATORS.split():
        found = getattr(getattr(torch.ops.aten, match[1]), match[2], None)
        if isinstance(found, torch._ops.OpOverload) and not found._schema.is_mutable:
            return found
    raise _ForeignError(f"an operator {target!r}")


def _of_sizes(of: Callable[..., Any]) -> Callable[..., Any]:
    """On numbers alone, and with a result that torch can take: products could grow without end."""

    def calculate(*numbers: float) -> float:
        if not all(isinstance(number, int | float) for number in numbers):
            raise TypeError("sizes must be numbers")
        result: float = of(*numbers)
        if not abs(result) < 2**63:
            raise OverflowError("sizes must be below 2^63")
        return result

    return calculate


def _argument(argument: dict[str, Any], values: dict[str, Node], device: torch.device) -> Any:
    ((kind, value),) = argument.items()
    if kind == "as_none":
        return None
    if kind == "as_tensor":
        return values[value["name"]]
    if kind == "as_tensors":
        return [values[of["name"]] for of in value]
    if kind == "as_optional_tensors":
        return [_argument(of, values, device) for of in value]
    if kind in ("as_sym_int", "as_sym_bool", "as_sym_float"):
        ((of, number),) = value.items()
        return values[number] if of == "as_name" else _number(number)
    if kind in ("as_sym_ints", "as_sym_bools", "as_sym_floats"):
        return [_argument({kind[:-1]: of}, values, device) for of in value]
    if kind in ("as_int", "as_float", "as_bool"):
        return _number(value)
    if kind in ("as_ints", "as_floats", "as_bools"):
        return [_number(of) for of in value]
    if kind == "as_string":
        return str(value)
    if kind == "as_scalar_type":
        return DTYPES[value]
    if kind == "as_memory_format":
        return MEMORY_FORMATS[value]
    if kind == "as_device":
        return device
    if kind == "as_layout" and value == STRIDED:
        return torch.strided
    raise _ForeignError(f"an argument of the kind {kind!r}")


def _number(value: float | str) -> float:
    """An infinity, which JSON lacks, is the word."""
    number = float(value) if value in ("Infinity", "-Infinity", "NaN") else value
    if not isinstance(number, int | float) or isinstance(number, int) and abs(number) >= 2**63:
        raise _ForeignError(f"an argument {value!r}"[:80])
    return number
