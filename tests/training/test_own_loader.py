"""The model with a person's own data loaders and trainer, without our data module and our records."""

import copy
import csv
import json
import threading
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import Callback, LightningDataModule, Trainer
from lightning.pytorch.loggers import CSVLogger
from torch import nn
from torch.utils.data import DataLoader, DistributedSampler, IterableDataset, TensorDataset

from videonorm.errors import UserError
from videonorm.evaluation.videos import as_manifest
from videonorm.layers import BatchNorm3d
from videonorm.training import (
    EvaluationRecord,
    LastCheckpoint,
    RunRecord,
    VideoClassifier,
    WarmupCosine,
    evaluation_record,
)
from videonorm.training.scoring import EpochScores

LABELS = torch.tensor([0, 1, 2, 0, 1, 2, 1])
CLIPS = torch.randn(7, 3, 2, 4, 4, generator=torch.Generator().manual_seed(0))


class Backbone(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.head = BatchNorm3d(3), nn.Linear(3, 3)

    def forward(self, clips):
        return self.head(self.norm(clips).mean(dim=(2, 3, 4)))


def classifier(**options):
    return VideoClassifier(
        Backbone(), lambda groups: torch.optim.SGD(groups, lr=0.1), WarmupCosine(), **options
    )


def trainer(folder, **options):
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    return Trainer(default_root_dir=folder, accelerator="cpu", **(quiet | {"max_steps": 3} | options))


def pairs(batch_size=2):
    return DataLoader(TensorDataset(CLIPS, LABELS), batch_size=batch_size)


def mappings():
    videos = [{"video": clip, "label": label} for clip, label in zip(CLIPS, LABELS, strict=True)]
    return DataLoader(videos, batch_size=2)


class Endless(IterableDataset):
    """Batches already made, of no known size and number."""

    def __iter__(self):
        return iter([(CLIPS[:4], LABELS[:4]), (CLIPS[4:], LABELS[4:])])


def unsized():
    return DataLoader(Endless(), batch_size=None)


@pytest.mark.parametrize("loader", [pairs, mappings, unsized])
def test_every_stage(tmp_path, loader):
    """With no callback of ours, and with the network's own accuracy."""
    model, plain = classifier(), trainer(tmp_path, enable_checkpointing=False, max_epochs=2)
    plain.fit(model, loader(), loader())
    model.eval()
    with torch.no_grad():
        scores = model(CLIPS).softmax(dim=1)
    (validated,) = plain.validate(model, loader(), verbose=False)
    (tested,) = plain.test(model, loader(), verbose=False)
    predicted = torch.cat(plain.predict(model, loader()))
    right = (scores.argmax(dim=1) == LABELS).float().mean().item()
    assert validated["val/top1"] == tested["test/top1"] == pytest.approx(right)
    assert validated["val/videos"] == 7
    torch.testing.assert_close(predicted, scores)


def test_clips_without_labels_can_be_predicted(tmp_path):
    model = classifier()
    predicted = trainer(tmp_path).predict(model, DataLoader(CLIPS, batch_size=3))
    assert torch.cat(predicted).shape == (7, 3)


def test_records_hold_what_is_known(tmp_path):
    """With our callbacks, another's logger, and going on from the checkpoint."""
    records = [RunRecord(), EvaluationRecord(), LastCheckpoint()]
    options = {"callbacks": records, "logger": CSVLogger(tmp_path), "log_every_n_steps": 1}
    trainer(tmp_path, **options).fit(classifier(lr_per_256_clips=12.8), pairs(), pairs())
    record = json.loads((tmp_path / "run.json").read_text())
    known = {"status": "done", "batch_size": 2, "accumulate": 1, "world_size": 1, "global_batch": 2}
    known |= {
        "statistics_batch": 2,
        "num_frames": 2,
        "frames_per_step": 4,
        "clips_seen": 6,
        "frames_seen": 12,
    }
    known |= {
        "frames_seen": 12,
        "frame_stride": None,
        "bad_videos": None,
        "lr": pytest.approx(0.1),
        "val_videos": 7,
    }
    assert {name: record[name] for name in known} == known
    with open(tmp_path / "val.csv", newline="") as file:
        assert [(row["path"], row["label"]) for row in csv.DictReader(file)] == [
            (str(row), str(label)) for row, label in enumerate(LABELS.tolist())
        ]

    options |= {"callbacks": [RunRecord(), LastCheckpoint()], "max_steps": 5}
    last = tmp_path / "checkpoints" / "last.ckpt"
    trainer(tmp_path, **options).fit(classifier(lr_per_256_clips=12.8), pairs(), ckpt_path=last)
    record = json.loads((tmp_path / "run.json").read_text())
    assert (record["step"], record["clips_seen"]) == (5, 9 + 1)  # the last batch of an epoch is one clip


def test_what_a_loader_does_not_tell(tmp_path):
    trainer(tmp_path, callbacks=[RunRecord()], max_steps=2).fit(classifier(), unsized())
    record = json.loads((tmp_path / "run.json").read_text())
    assert (record["batch_size"], record["global_batch"], record["batches_per_epoch"]) == (None, None, None)
    assert (record["clips_seen"], record["num_frames"]) == (7, 2)
    with pytest.raises(UserError, match=r"lr_per_256_clips \(1\) must be null, or the data loader say"):
        trainer(tmp_path).fit(classifier(lr_per_256_clips=1), unsized())


class Theirs(LightningDataModule):
    batch_size = 7

    def train_dataloader(self):
        return pairs(self.batch_size)


def test_another_data_module(tmp_path):
    model = classifier(lr_per_256_clips=256)
    trainer(tmp_path, max_steps=1).fit(model, datamodule=Theirs())
    assert model.base_lr == 7


@pytest.mark.parametrize(
    "batch, said",
    [
        ([CLIPS], r"1 of Tensor"),
        ({"clip": CLIPS, "label": LABELS}, "a mapping with clip, label"),
        ((CLIPS[0], LABELS), "2 of Tensor"),
    ],
)
def test_other_batches_are_refused(tmp_path, batch, said):
    with pytest.raises(UserError, match=rf"batch \({said}\) must be \(clips, labels\) or"):
        trainer(tmp_path).fit(classifier(), DataLoader([batch], batch_size=None))


def test_several_loaders_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"data loaders to evaluate on \(2\) must be one"):
        trainer(tmp_path).validate(classifier(), [pairs(), pairs()], verbose=False)


def test_a_step_of_more_batches_than_an_epoch_has(tmp_path):
    with pytest.raises(UserError, match=r"trainer.accumulate_grad_batches \(5\) must be at most .* \(4\)"):
        trainer(tmp_path, accumulate_grad_batches=5).fit(classifier(), pairs())


def test_videos_that_two_processes_share_count_once():
    """Seven videos, dealt out in turn; the sampler gives the first a second time to even the shares out."""
    meet, parts, tables = threading.Barrier(2), {}, {}

    def judge(rank):
        def reduce(tensor, how):
            parts[rank] = tensor
            meet.wait(10)
            both = torch.stack([parts[0], parts[1]])
            meet.wait(10)
            return both.sum(dim=0) if how == "sum" else both.amax(dim=0)

        sampler = DistributedSampler(CLIPS, num_replicas=2, rank=rank, shuffle=False)
        videos = DataLoader(TensorDataset(CLIPS, LABELS), batch_size=3, sampler=sampler)
        scores = EpochScores(videos, 3, torch.device("cpu"), rank, world_size=2)
        for batch in videos:
            scores.add(batch, network)
        tables[rank] = scores.finish("model", reduce)

    def network(clips):
        return clips.mean(dim=(2, 3, 4))

    threads = [threading.Thread(target=judge, args=(rank,)) for rank in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    for table in tables.values():
        torch.testing.assert_close(table.probabilities, network(CLIPS).softmax(dim=1))
        assert table.labels.tolist() == LABELS.tolist() and table.scored.all()


def test_a_last_step_of_fewer_batches_weighs_as_much_less(tmp_path):
    """Three batches, two a step: the learning rate of the second step is for half of its clips."""
    model, grads, networks = classifier(), [], []

    class Watch(Callback):
        def on_before_optimizer_step(self, trainer, pl_module, optimizer):
            grads.append(pl_module.backbone.head.weight.grad.clone())
            networks.append(copy.deepcopy(pl_module.backbone))

    loader = DataLoader(TensorDataset(CLIPS[:6], LABELS[:6]), batch_size=2)
    trainer(tmp_path, callbacks=[Watch()], accumulate_grad_batches=2, max_steps=2).fit(model, loader)
    loss = torch.nn.functional.cross_entropy(networks[1](CLIPS[4:6]), LABELS[4:6])
    (whole,) = torch.autograd.grad(loss, networks[1].head.weight)
    assert len(grads) == 2
    torch.testing.assert_close(grads[1], whole / 2)


def test_scores_that_cannot_be_written_are_printed(tmp_path, monkeypatch, capsys):
    def full(path, content):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(evaluation_record, "write_json", full)
    with pytest.raises(OSError, match="No space left"):
        trainer(tmp_path, callbacks=[EvaluationRecord()]).test(classifier(), pairs(), verbose=False)
    printed = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("{"))
    assert json.loads(printed)["videos"] == 7


def test_a_url_is_told_without_its_signature():
    manifest = as_manifest(["https://me:secret@host/a.mp4?token=abc"], 3)
    loader = SimpleNamespace(dataset=SimpleNamespace(manifest=manifest))
    scores = EpochScores(loader, 3, torch.device("cpu"))
    assert [video.path for video in scores.videos] == ["https://***@host/a.mp4?token=***"]
