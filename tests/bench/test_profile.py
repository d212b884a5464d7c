"""`videonorm bench profile`: which kind a kernel is of, and what is made of the profiler's events."""

from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch

from videonorm.bench import profile
from videonorm.bench.profile import ALL, COLUMNS, KINDS, OTHER, kind_of, measure
from videonorm.bench.records import Records
from videonorm.bench.tables import new_tables
from videonorm.bench.trainer import Case

CPU = torch.device("cpu")
CASE = Case("r3d-18", crop_size=16, num_frames=2, batch_size=2, width=16, num_groups=4)


@pytest.mark.parametrize(
    "name, kind",
    [
        ("grad_x_relu", "our group norm"),
        ("moments", "our group norm"),
        ("weight_standardize_backward", "our weight standardization"),
        ("void at::native::batch_norm_backward_reduce_channels_last_kernel<float>", "batch norm"),
        ("void cudnn::bn_fw_tr_1C11_kernel_NCHW<float, float, int, 512>", "batch norm"),
        ("void at::native::RowwiseMomentsCUDAKernel<float>", "torch's group norm"),
        ("void at::native::multi_tensor_apply_kernel<FusedSgd>", "optimizer"),
        ("void cudnn::ops::nchwToNhwcKernel<float>", "layout"),
        ("sm90_xmma_fprop_implicit_gemm_bf16bf16_bf16f32", "convolution, matmul"),
        ("void at::native::max_pool3d_with_indices_single_out_frame<float>", "pooling"),
        ("void at::native::vectorized_elementwise_kernel<4, at::native::FillFunctor<float>>", "memory"),
        ("void at::native::reduce_kernel<512, 1, MeanOps<float>>", "reduction"),
        ("void at::native::vectorized_elementwise_kernel<4, CUDAFunctor_add<BFloat16>>", "elementwise"),
        ("a_kernel_of_somebody_else", OTHER),
    ],
)
def test_kinds(name, kind):
    assert kind_of([name]) == kind


def test_an_operator_is_of_the_outermost_kind():
    assert kind_of(["videonorm::group_norm", "aten::native_group_norm", "aten::empty"]) == "our group norm"
    assert kind_of(["aten::thing", "aten::native_group_norm", "aten::empty"]) == "torch's group norm"
    node = "autograd::engine::evaluate_function: group_normBackward"
    assert kind_of([node, "aten::sum"]) == "our group norm"


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    with Records(tmp_path_factory.mktemp("profile") / "profile.csv", COLUMNS) as records:
        records.add(measure(CASE, ("bn", "gn_ws"), 1, CPU))
    return records.rows


def test_a_step_on_the_cpu(rows):
    assert not any(row["error"] for row in rows)
    for name, ours in (("bn", False), ("gn_ws", True)):
        of_name = {row["kind"]: row for row in rows if row["contender"] == name}
        assert list(of_name) == [*KINDS, OTHER, ALL]
        times = {kind: float(row["milliseconds"]) for kind, row in of_name.items()}
        total = times.pop(ALL)
        assert sum(times.values()) == pytest.approx(total, rel=1e-3)
        launches = {kind: int(row["launches"]) for kind, row in of_name.items()}
        assert bool(launches["our group norm"]) == bool(launches["our weight standardization"]) == ours
        assert bool(launches["batch norm"]) != ours
        assert launches["convolution, matmul"] and launches["optimizer"]
        assert float(of_name["optimizer"]["share"]) == pytest.approx(times["optimizer"] / total, rel=1e-3)


def test_the_table_has_a_line_a_kind(rows):
    (table,) = new_tables(rows)
    assert table.header == ["net", "T x B", "kind", "bn", "gn_ws"]
    assert [line[2] for line in table.rows] == [*KINDS, OTHER, ALL]
    assert table.rows[0][3] == "" and table.rows[0][4] and "(100 %," in table.rows[-1][3]


def test_on_a_gpu_the_events_are_the_device_s(monkeypatch):
    """With a profiler that says what one on a GPU would."""

    def event(name, device, time):
        return SimpleNamespace(
            name=name,
            device_type=SimpleNamespace(name=device),
            time_range=SimpleNamespace(elapsed_us=lambda: time),
        )

    steps = [event("moments", "CUDA", 30.0), event("implicit_gemm", "CUDA", 70.0)]
    events = [*steps, *steps, event("cudaLaunchKernel", "CPU", 1e6)]
    monkeypatch.setattr(
        torch.profiler, "profile", lambda activities: nullcontext(SimpleNamespace(events=lambda: events))
    )
    times = {}
    monkeypatch.setattr("videonorm.bench.trainer.new_step", lambda case, name, device: lambda: None)
    monkeypatch.setattr("videonorm.bench.trainer.wait", lambda device: None)
    profile._watch(CASE, "gn", 2, torch.device("cuda"), times)
    assert times == {"our group norm": [30.0, 30.0], "convolution, matmul": [70.0, 70.0]}


def test_a_contender_that_fails_is_a_row(monkeypatch):
    def fail(*arguments):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr("videonorm.bench.trainer.new_step", fail)
    (row,) = measure(CASE, ("gn",), 1, CPU)
    assert (row["kind"], row["error"]) == (ALL, "OutOfMemoryError: CUDA out of memory.")
