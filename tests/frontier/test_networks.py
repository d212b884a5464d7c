import torch

from videonorm.data.clip_spec import ClipSpec
from videonorm.evaluation.checkpoint import Checkpoint, build_backbone, load_checkpoint, save_checkpoint
from videonorm.frontier.networks import Estimator
from videonorm.layers import precise_statistics


def test_the_estimator_writes_the_network_with_the_statistics_of_its_batches(tmp_path):
    torch.manual_seed(0)
    arguments = {"depth": 10, "width": 4, "num_classes": 3, "norm": "videonorm.layers.SubBatchNorm3d"}
    backbone = {"class_path": "videonorm.models.ResNet3d", "init_args": arguments}
    spec = ClipSpec(2, 1, 16, None, [0.45] * 3, [0.225] * 3, "linspace", "loop")
    network = build_backbone(backbone, "the test")
    save_checkpoint(tmp_path / "a.ckpt", Checkpoint(network, backbone, spec, ["x", "y", "z"], 7, 1, "0.1.0"))
    batches = torch.randn(3, 4, 3, 2, 16, 16)

    estimator = Estimator(str(tmp_path / "a.ckpt"), 2, str(tmp_path / "b.ckpt"), trust=False).train()
    for number, clips in enumerate(batches):  # the third one is not asked for
        assert (tmp_path / "b.ckpt").exists() == (number == 2)
        assert estimator(clips).shape == (4, 3)
    with precise_statistics(network), torch.no_grad():
        for clips in batches[:2]:
            network(clips)
    written = load_checkpoint(tmp_path / "b.ckpt")
    assert (written.step, written.epoch, written.class_names) == (7, 1, ["x", "y", "z"])
    for name, value in network.state_dict().items():
        torch.testing.assert_close(written.network.state_dict()[name], value, msg=name)
