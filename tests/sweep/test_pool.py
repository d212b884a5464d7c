import sys
import time

import pytest

from videonorm.errors import UserError
from videonorm.sweep import pool
from videonorm.sweep.ray_pool import RayPool


def test_a_core_each_without_gpus(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(pool, "visible_gpus", lambda: [])
    monkeypatch.setattr(pool, "available_cores", lambda: 8)
    assert (
        pool.environments("auto", 20, on_cpu=False) == [{"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}] * 8
    )
    assert (
        pool.environments("auto", 3, on_cpu=False) == [{"OMP_NUM_THREADS": "2", "MKL_NUM_THREADS": "2"}] * 3
    )
    assert pool.environments(16, 20, on_cpu=False) == [{"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}] * 16


def test_threads_that_the_user_has_set_are_kept(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.setattr(pool, "visible_gpus", lambda: [])
    monkeypatch.setattr(pool, "available_cores", lambda: 8)
    assert pool.environments(2, 20, on_cpu=True) == [{"OMP_NUM_THREADS": "3", "MKL_NUM_THREADS": "3"}] * 2


def test_a_gpu_each(monkeypatch):
    monkeypatch.setattr(pool, "visible_gpus", lambda: ["2", "GPU-5"])
    monkeypatch.setattr(pool, "available_cores", lambda: 8)

    def gpus(jobs):
        return [share["CUDA_VISIBLE_DEVICES"] for share in pool.environments(jobs, 20, on_cpu=False)]

    assert gpus("auto") == ["2", "GPU-5"]
    assert gpus(3) == ["2", "GPU-5", "2"]
    assert "CUDA_VISIBLE_DEVICES" not in pool.environments("auto", 20, on_cpu=True)[0]


def test_a_command_gets_its_environment_and_log(tmp_path):
    local = pool.LocalPool([{"SHARE": "a"}, {"SHARE": "b"}])
    show = [sys.executable, "-c", "import os, sys; print(os.environ['SHARE']); sys.exit(int(sys.argv[1]))"]
    for name in ("good", "bad"):
        (tmp_path / name).mkdir()
    local.start("good", [*show, "0"], tmp_path / "good" / "log.txt", 1)
    local.start("bad", [*show, "3"], tmp_path / "bad" / "log.txt", 1)
    ended = {}
    while len(ended) < 2:
        ended |= local.ended()
        time.sleep(0.01)
    assert ended == {"good": "", "bad": "exit code 3"}
    assert (tmp_path / "good" / "log.txt").read_text() == "a\n"
    assert (tmp_path / "bad" / "log.txt").read_text() == "b\n"


@pytest.mark.parametrize(
    "code, how",
    [
        (0, ""),
        (2, "exit code 2"),
        (-11, "killed by SIGSEGV"),
        (-9, "killed by SIGKILL, as Linux does when memory"),
    ],
)
def test_how_it_ended(code, how):
    assert pool.how_it_ended(code).startswith(how)


def test_ray_that_is_missing_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(
        UserError, match=r"--ray needs Ray, which is not installed: pip install 'videonorm\[ray\]'"
    ):
        RayPool("local", on_cpu=True, devices=1)
