"""A run with Lightning's EMAWeightAveraging: what is exported is the average, and the artifact says so."""

import json

import pytest
import torch
from lightning.pytorch import callbacks
from safetensors.torch import load_file

from videonorm.errors import UserError
from videonorm.evaluation.artifact import load_artifact
from videonorm.evaluation.checkpoint import load_checkpoint
from videonorm.evaluation.evaluate import evaluate_artifact
from videonorm.evaluation.export import main as export
from videonorm.training.cli import main
from videonorm.training.unfit_callbacks import check_averages

pytestmark = pytest.mark.skipif(not hasattr(callbacks, "EMAWeightAveraging"), reason="since Lightning 2.6")


def test_an_average_that_would_never_begin_is_refused(recipe, tmp_path):
    """With it a run would end with the weights that it began with."""
    options = ["--trainer.callbacks+=lightning.pytorch.callbacks.EMAWeightAveraging"]
    options += ["--trainer.callbacks.update_starting_at_step", "2", "--trainer.max_steps", "2"]
    fit = ["fit", "-c", str(recipe), "--trainer.default_root_dir", str(tmp_path / "run"), *options]
    with pytest.raises(UserError, match=r"update_starting_at_step \(2\) must be below the steps .*\(2\)"):
        main(fit)
    assert not (tmp_path / "run" / "checkpoints").exists()
    check_averages([callbacks.EMAWeightAveraging(update_starting_at_step=2)], total_steps=3)
    by_epoch = callbacks.EMAWeightAveraging(update_starting_at_step=2, update_starting_at_epoch=1)
    check_averages([by_epoch, callbacks.EMAWeightAveraging()], total_steps=2)


def test_averaged_weights_are_what_is_judged_and_exported(recipe, videos, tmp_path, capsys):
    run, folder = tmp_path / "run", tmp_path / "artifact"
    average = ["--trainer.callbacks+=lightning.pytorch.callbacks.EMAWeightAveraging"]
    average += ["--trainer.callbacks.decay", "0.5", "--trainer.max_steps", "5"]
    main(["fit", "-c", str(recipe), "--trainer.default_root_dir", str(run), *average])
    path = run / "checkpoints" / "best.ckpt"
    content = torch.load(path, weights_only=True)
    steps = content["averaging_state"]["n_averaged"]
    assert steps == content["global_step"] == 5
    capsys.readouterr()
    export(["--ckpt", str(path), "--out", str(folder)])
    assert capsys.readouterr().out.startswith("weights: averaged over 5 steps of the run\n")
    weights = load_file(folder / "weights.safetensors")
    for name, weight in weights.items():
        assert torch.equal(weight, content["state_dict"][f"backbone.{name}"])
    assert not torch.equal(weights["head.weight"], content["current_model_state"]["backbone.head.weight"])
    assert json.loads((folder / "provenance.json").read_text())["checkpoint"]["averaged_steps"] == 5
    record = json.loads((run / "run.json").read_text())
    for kind in (folder, path):
        views = {"num_clips": 1, "num_crops": 1, "device": "cpu"}
        assert evaluate_artifact(kind, videos.val, **views)["loss"] == pytest.approx(
            record["val_loss"], rel=1e-5
        )

    # Before its first step the average is what training began with, and no weights to judge a run by.
    content["averaging_state"]["n_averaged"] = torch.tensor(0)
    torch.save(content, path)
    read = load_checkpoint(path)
    assert read.averaged is None
    assert torch.equal(read.network.head.weight, content["current_model_state"]["backbone.head.weight"])
    del content["averaging_state"]["n_averaged"]
    torch.save(content, path)
    with pytest.raises(ValueError, match="must describe its model and clips, and 'n_averaged' is missing"):
        load_artifact(path, torch.device("cpu"))
