import pytest
import torch

from videonorm.training.scores import VideoScores


def filled(rows, num_videos=5, num_classes=3):
    """Scores of some videos: row -> label, logits (V, K)."""
    scores = VideoScores(num_videos, num_classes)
    for row, (label, logits) in rows.items():
        scores.add(torch.tensor([row]), torch.tensor([label]), torch.tensor([logits]))
    return scores


def test_softmax_is_averaged_over_views():
    logits = torch.randn(4, 6, 7, generator=torch.Generator().manual_seed(0))
    scores = VideoScores(4, 7)
    returned = scores.add(torch.arange(4), torch.zeros(4, dtype=torch.long), logits)
    torch.testing.assert_close(returned, logits.softmax(dim=2).mean(dim=1))
    torch.testing.assert_close(scores.probabilities, returned)


def test_video_is_right_though_one_of_its_clips_is_wrong():
    scores = filled({0: (1, [[0.0, 5.0, 0.0], [1.0, 0.9, 0.0]])})
    metrics = scores.metrics()
    assert metrics["top1"] == 1.0 and metrics["clip_top1"] == 0.5 and metrics["videos"] == 1
    expected = torch.nn.functional.cross_entropy(
        torch.tensor([[0.0, 5.0, 0.0], [1.0, 0.9, 0.0]]), torch.tensor([1, 1])
    )
    assert metrics["loss"] == pytest.approx(expected.item())


def test_top5_of_many_and_of_few_classes():
    logits = torch.arange(8.0).repeat(3, 1, 1)  # class 7 first, class 0 last
    scores = VideoScores(3, 8)
    scores.add(torch.arange(3), torch.tensor([7, 3, 2]), logits)
    assert scores.metrics()["top1"] == pytest.approx(1 / 3)
    assert scores.metrics()["top5"] == pytest.approx(2 / 3)
    assert filled({0: (2, [[9.0, 1.0, 0.0]])}).metrics()["top5"] == 1.0


def test_videos_without_scores_do_not_count():
    scores = filled({3: (0, [[1.0, 0.0, 0.0]])})
    assert scores.scored.tolist() == [False, False, False, True, False]
    assert scores.metrics()["videos"] == 1 and scores.metrics()["top1"] == 1.0
    assert VideoScores(2, 3).metrics()["videos"] == 0


def test_a_video_seen_by_two_processes_counts_once():
    """Five videos over two processes: the sampler gives video 0 to both."""
    right, wrong = [[2.0, 0.0, 0.0]], [[0.0, 2.0, 0.0]]
    shares = [{0: (0, right), 2: (0, wrong), 4: (0, wrong)}, {1: (0, right), 3: (0, wrong), 0: (0, right)}]
    tables = [filled(share) for share in shares]
    whole = filled(shares[0] | shares[1])

    pairs = iter([(tables[1].probabilities, whole.probabilities), (tables[1].facts, whole.facts)])
    tables[0].gather(lambda mine: mine + next(pairs)[0])

    torch.testing.assert_close(tables[0].probabilities, whole.probabilities)
    assert tables[0].metrics() == pytest.approx(whole.metrics())
    assert tables[0].metrics()["videos"] == 5 and tables[0].metrics()["top1"] == pytest.approx(2 / 5)
