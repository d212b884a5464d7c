"""Cores, devices, versions."""

import subprocess
import sys

import pytest
import torch

from videonorm import machine
from videonorm.errors import UserError


def test_it_imports_no_torch():
    code = (
        "import sys, videonorm.machine, videonorm.files, videonorm.options; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize(
    ("files", "own", "quotas"),
    [
        ({}, "0::/\n", []),
        ({"cpu.max": "max 100000\n"}, "0::/\n", []),
        ({"cpu.max": "150000 100000\n"}, "0::/\n", [1.5]),
        # a job of a cluster: the limit may be at any level above the process
        ({"a/cpu.max": "400000 100000\n", "a/b/cpu.max": "max 100000\n"}, "0::/a/b\n", [4.0]),
        # a container, which sees its own group at the root under a name that it cannot see
        ({"cpu.max": "200000 100000\n"}, "0::/docker/f00\n", [2.0]),
        (
            {"cpu/job/cpu.cfs_quota_us": "300000\n", "cpu/job/cpu.cfs_period_us": "100000\n"},
            "5:cpu,cpuacct:/job\n4:memory:/job\n",
            [3.0],
        ),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, "5:cpu:/\n", []),
    ],
)
def test_quotas_of_control_groups(tmp_path, files, own, quotas):
    for name, text in files.items():
        (tmp_path / "fs" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "fs" / name).write_text(text)
    (tmp_path / "own").write_text(own)
    assert sorted(set(machine._cpu_quotas(tmp_path / "fs", tmp_path / "own"))) == quotas


def test_cores_are_those_of_affinity_and_quota(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda of: set(range(16)), raising=False)
    monkeypatch.setattr(machine, "_cpu_quotas", lambda: [])
    assert machine.available_cores() == 16
    monkeypatch.setattr(machine, "_cpu_quotas", lambda: [6.5, 4.9])
    assert machine.available_cores() == 4
    monkeypatch.setattr(machine, "_cpu_quotas", lambda: [0.5])
    assert machine.available_cores() == 1


def test_devices():
    assert machine.choose_device("cpu") == torch.device("cpu")
    assert machine.choose_device().type == ("cuda" if torch.cuda.is_available() else "cpu")
    for name in ("gpu", "mps", "xpu:0"):
        with pytest.raises(UserError, match=rf"device \({name}\) must be auto, cpu or cuda"):
            machine.choose_device(name)
    with pytest.raises(UserError, match=r"device \(cuda:99\) must be present"):
        machine.choose_device("cuda:99")


def test_versions():
    found = machine.versions("numpy", "no-such-package")
    assert found["torch"] and found["numpy"] and found["no-such-package"] is None
