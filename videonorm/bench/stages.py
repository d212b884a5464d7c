"""The stages of `videonorm bench all`, in the order of their worth: what each runs, and what it needs."""

import importlib.util
import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from videonorm.machine import available_cores

# I3D-R50 at 224 pixels, N x C x T x H x W: stem and stages of 8 frames x 16 clips and of 64 frames x 1 clip.
SHAPES = (
    *("16x64x8x112x112", "16x256x8x56x56", "16x64x8x56x56", "1x256x64x56x56", "1x64x64x112x112"),
    *("16x512x4x28x28", "1x1024x32x14x14", "16x256x4x14x14", "1x512x32x7x7"),
)
PEERS = ("ours", "ours_grouped", "bn", "torch_gn", "torch_gn_autocast", "timm", "copy")
SANITIZERS = ("memcheck", "racecheck", "synccheck", "initcheck")
CLIPS_GIB = "24"
NEEDS_GPU = "needs a GPU"


@dataclass(frozen=True)
class Stage:
    """A command, which is run in a process of its own.

    Attributes:
        name: of its log, and of the file of its results if it has one.
        about: what it tells.
        weight: how much of the time it may have, beside the other stages that are still to come.
        command: with the program.
        has_rows: whether it writes results as they come, to NAME.csv.partial and in the end to NAME.csv.
        missing: why it cannot be run here, if so.
        environment: added to this process's own.
    """

    name: str
    about: str
    weight: float
    command: tuple[str, ...]
    has_rows: bool = True
    missing: str | None = None
    environment: Mapping[str, str] = field(default_factory=dict)


def new_stages(out: Path, device: str) -> list[Stage]:
    """Those of a device, cpu or cuda, which write their results to a folder; on a CPU with tiny shapes."""
    on_gpu = device == "cuda"

    def bench(name: str, about: str, weight: float, what: str, full: str, tiny: str | None) -> Stage:
        """A benchmark with its options on a GPU, and on a CPU; None: it needs a GPU."""
        command = [sys.executable, "-m", "videonorm", "bench", what, "--out", str(out / f"{name}.csv")]
        command += [] if what == "host" else ["--device", device]
        command += (full if on_gpu or tiny is None else tiny).split()
        missing = NEEDS_GPU if tiny is None and not on_gpu else None
        return Stage(name, about, weight, tuple(command), missing=missing)

    doctor = (sys.executable, "-m", "videonorm", "doctor")
    shapes, peers = " ".join(SHAPES), " ".join(PEERS)
    replayed = "--contender bn_replayed gn_replayed gn_ws_replayed"
    return [
        # Compiling is slow, and what is compiled the others find.
        Stage("doctor", "what the machine has; compiles every kernel", 150, doctor, has_rows=False),
        _tests(on_gpu),
        bench(
            *("kernels", "the shapes that tell most: ours beside its peers, pass by pass", 80, "kernels"),
            f"--dtype bfloat16 --op gn_relu gn_add_relu ws --net r3d-50 --shape {shapes} --contender {peers}"
            " --repeats 8",
            "--quick --repeats 1 --op gn_relu ws --shape 2x64x2x6x6 --contender ours ours_grouped bn copy",
        ),
        bench(
            *("step", "a training step of i3d-50, norm beside norm: time and memory", 140, "step"),
            "--net i3d-50 --size 8x16 64x1 32x4 64x2 --repeats 4",
            "--quick --size 2x2 --repeats 1 --contender bn gn_ws gn_ws_recompute",
        ),
        bench("host", "the time in which the host queues a norm and a step", 80, "host", "", "--repeats 9"),
        bench(
            *("replay", "the same steps as CUDA graphs: what the host costs", 60, "step"),
            f"--net i3d-50 --size 8x16 64x1 --repeats 4 {replayed}",
            None,
        ),
        bench(
            *("profile", "where the time of a step goes, by kind of kernel", 50, "profile"),
            "--net i3d-50 --size 8x16 64x1 --repeats 2",
            "--quick --size 2x2 --repeats 1 --contender bn gn_ws",
        ),
        *(_sanitizer(tool, device) for tool in SANITIZERS),
        bench(
            *("clips", f"the most clips of 32 frames whose step fits in {CLIPS_GIB} GiB", 60, "step"),
            f"--net i3d-50 --size --max_clips {CLIPS_GIB} --contender bn gn_ws gn_ws_recompute gn_torch",
            None,
        ),
        bench(
            *("all_kernels", "all shapes of all networks, as far as time goes", 60, "kernels"),
            f"--net i3d-50 r3d-50 r3d-18 vgg3d-11 --contender {peers} --repeats 6",
            "--quick --repeats 1",
        ),
    ]


def _tests(on_gpu: bool) -> Stage:
    """The tests that need a GPU, which are in the repository and in no wheel."""
    tests = Path(__file__).parents[2] / "tests" / "gpu"
    missing = None
    if not on_gpu:
        missing = NEEDS_GPU
    elif not (tests / "test_group_norm.py").exists():
        missing = "tests/gpu is not here: it comes with the repository"
    elif importlib.util.find_spec("pytest") is None:
        missing = "pytest is not installed"
    command = [sys.executable, "-m", "pytest", str(tests), "-p", "no:cacheprovider", "-vv", "--tb=short"]
    if importlib.util.find_spec("xdist"):
        command += ["-n", str(min(4, available_cores()))]
    required = {"VIDEONORM_REQUIRE_CUDA": "1"}
    about = "tests/gpu: what the kernels compute, against float64"
    return Stage("tests", about, 100, tuple(command), False, missing, required)


def _sanitizer(tool: str, device: str) -> Stage:
    """One of compute-sanitizer's tools over every kernel; it comes with the CUDA toolkit."""
    toolkits = [os.environ[name] for name in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(name)]
    folders = os.pathsep.join([os.environ.get("PATH", os.defpath), *(f"{root}/bin" for root in toolkits)])
    found = shutil.which("compute-sanitizer", path=folders)
    missing = None
    if device != "cuda":
        missing = NEEDS_GPU
    elif found is None:
        missing = "compute-sanitizer is neither in PATH nor in CUDA_HOME/bin: it comes with the CUDA toolkit"
    watch = (found or "compute-sanitizer", "--tool", tool, "--error-exitcode", "9")
    command = (*watch, sys.executable, "-m", "videonorm.bench.every_kernel", device)
    # Else one allocation holds all tensors, and what is read beside one is in the next.
    alone = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    about = f"compute-sanitizer's {tool} over every kernel"
    return Stage(tool, about, 15, command, False, missing, alone)
