"""Whether batch norm has enough clips: what is expected of it, of which clips."""

import csv
import itertools
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from videonorm.errors import UserError
from videonorm.frontier import fitting
from videonorm.frontier import recipe as recipe_module
from videonorm.frontier.command import main
from videonorm.frontier.networks import Idle, Recorder
from videonorm.frontier.statistics import cells, layers, sentences
from videonorm.layers import GroupNorm3d
from videonorm.models import ResNet3d


def test_a_layer_that_never_varies_has_no_number():
    means, variances = np.ones((4, 2)), np.array([[0.0, 1.0]] * 4)
    written = {"a.mean": means[:, :1], "a.variance": variances[:, :1]}
    written |= {"b.mean": means[:, 1:], "b.variance": variances[:, 1:]}
    dead, alive = layers(written, 8, 1, [2], "n")
    assert np.isnan(dead.n_eff) and not dead.is_short and cells([dead, alive])[0].worst is alive


def moments(contrasts):
    """Two layers of clips whose means are alike and whose variances are not."""
    spread = np.array(contrasts, dtype=np.float64)[:, None] ** 2
    rng = np.random.default_rng(0)
    means = rng.normal(scale=1e-3, size=spread.shape)
    return {"a.mean": means, "a.variance": spread, "b.mean": means, "b.variance": spread}


def test_the_verdict():
    unsteady = cells(layers(moments([1, 4, 10, 20]), 16, 1, [1, 2, 8], "n"))
    assert [cell.fails for cell in unsteady] == [False, True, False] and unsteady[0].is_refused
    assert [cell.short for cell in unsteady[1:]] == [2, 0]
    assert sentences(unsteady)[0] == (
        "BN will fail here: at B=2, T=16 the statistics of 2 of 2 layers rest on fewer than 5 independent "
        "values."
    )
    assert sentences(unsteady)[1].startswith("Of a single clip it takes no statistics")
    steady = cells(layers(moments([9, 10, 11]), 16, 1, [2, 4], "n"))
    (sentence,) = sentences(steady)
    assert sentence.startswith("BN is not expected to fail: at worst, at B=2, T=16,")
    twice = cells([replace(row, num_frames=of) for of in (8, 16) for row in unsteady[1].layers])
    assert sentences(twice)[1] == "So it will at B=2, T=16."


def network():
    torch.manual_seed(0)
    return ResNet3d(10, "r3d", width=4, num_classes=5, norm=lambda c: GroupNorm3d(c, 2))


def test_moments_are_those_of_single_clips_where_batch_norms_are(tmp_path):
    out = tmp_path / "moments.npz"
    recorder = Recorder(network(), None, passes=2, out=str(out)).train()
    stem = network().stem[0] if isinstance(network().stem, torch.nn.Sequential) else network().stem
    batches = [torch.randn(2, 3, 4, 16, 16) * 7 for _ in range(3)]
    for batch in batches:
        logits = recorder(batch)
    assert logits.shape == (2, 5) and logits.requires_grad
    written = dict(np.load(out))
    assert len(written) == 2 * 12 and all(array.shape[0] == 4 for array in written.values())
    first = stem.conv(torch.cat(batches[:2])).detach().double().numpy()  # the third came too late
    name = next(iter(written)).removesuffix(".mean")
    np.testing.assert_allclose(written[f"{name}.mean"], first.mean(axis=(2, 3, 4)), atol=1e-5)
    np.testing.assert_allclose(written[f"{name}.variance"], first.var(axis=(2, 3, 4)), rtol=1e-4)
    # Behind a batch norm, and no group norm, the clips of a batch keep their contrasts.
    kinds = {type(module).__name__ for module in recorder.modules()}
    assert "BatchNorm3d" in kinds and "GroupNorm3d" not in kinds
    trained = [name for name, parameter in recorder.named_parameters() if parameter.requires_grad]
    assert trained == ["idle.classifier.weight", "idle.classifier.bias"]


def test_a_network_without_norms():
    with pytest.raises(UserError, match=r"backbone \(Sequential\) must have norms over"):
        Recorder(torch.nn.Sequential(torch.nn.Linear(2, 3)), None, 1, "x")


def test_an_idle_network_has_the_classes_of_the_other():
    assert Idle(network())(torch.zeros(3, 3, 2, 8, 8)).shape == (3, 5)


def test_from_options_to_table_picture_and_sentence(tmp_path, monkeypatch, capsys):
    asked = []

    def feed(settings, network, folder, *, data, trainer):
        asked.append((network["init_args"]["passes"], data, trainer))
        np.savez(network["init_args"]["out"], **moments([1, 4, 10, 20]))

    recipe = SimpleNamespace(backbone={}, settings={"data": {"frame_stride": 3}}, num_frames=16, batch_size=2)
    monkeypatch.setattr(fitting, "feed", feed)
    monkeypatch.setattr(recipe_module, "read_recipe", lambda configs: recipe)
    out = tmp_path / "s.csv"
    options = ["statistics", "-c", "r.yaml", "--out", str(out), "--batches", "3"]
    main([*options, "--num_frames", "8", "16", "--batch_size", "2", "8"])
    shape = {"batch_size": 16, "clips_per_video": 1}
    assert asked == [(3, {"num_frames": T, **shape}, {"max_steps": 3}) for T in (8, 16)]
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    found = [(row["num_frames"], row["batch_size"], row["layer"]) for row in rows]
    assert found == list(itertools.product(("8", "16"), ("2", "8"), ("a", "b")))
    assert {row["network"] for row in rows} == {"as initialized, with batch norms"}
    assert float(rows[0]["n_eff_variance"]) < 5 < float(rows[2]["n_eff_variance"])
    assert out.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    assert {row["frame_stride"] for row in rows} == {"3"}
    assert [row["is_short"] for row in rows] == ["True", "True", "False", "False"] * 2
    printed = capsys.readouterr().out
    assert "BN will fail here: at B=2, T=8 the" in printed and "\nA prediction, not a result: " in printed
    main([*options, "--num_frames", "4", "8", "--span", "16"])
    assert [of[1] for of in asked[2:]] == [
        {"num_frames": T, **shape, "frame_stride": 16 // T, "frames_per_second": None} for T in (4, 8)
    ]
    with pytest.raises(UserError, match=r"--span \(16\) must be a multiple of --num_frames \(3\)"):
        main([*options, "--num_frames", "3", "--span", "16"])


@pytest.mark.slow
def test_the_whole_road(tmp_path):
    """From a recipe's file, by its own loader, through a network that is new and one that is trained."""
    configs = Path(__file__).parents[2] / "configs"
    (tmp_path / "small.yaml").write_text(
        "model: {backbone: {init_args: {width: 4}}}\n"
        "data: {source: {class_path: videonorm.data.MotionClips,"
        " init_args: {num_train: 16, num_val: 4, num_test: 4}}}\n"
        "trainer: {max_steps: 2, val_check_interval: 2}\n"
    )
    recipe = ["-c", str(configs / "motion_r10.yaml"), "-c", str(tmp_path / "small.yaml")]
    run = ["--trainer.default_root_dir", str(tmp_path / "run"), "--data.num_frames", "2"]
    trained = tmp_path / "run" / "checkpoints" / "last.ckpt"
    fitting.fit([*recipe, *run])
    out = tmp_path / "s.csv"
    for options, network in (
        ([], "as initialized, with batch norms"),
        (["--ckpt", str(trained)], str(trained)),
    ):
        shape = ["--num_frames", "4", "--batch_size", "2", "8", "--batches", "2", "--out", str(out)]
        main(["statistics", *recipe, *shape, *options])
        rows = list(csv.DictReader(out.open()))
        assert len(rows) == 2 * 12 and {row["network"] for row in rows} == {network}
        assert {row["clips"] for row in rows} == {"32"}
        assert all(float(row["n_eff_mean"]) > 1 and float(row["n_eff_variance"]) > 1 for row in rows)
