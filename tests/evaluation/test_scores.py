import pytest
import torch

from videonorm.errors import UserError
from videonorm.evaluation.scores import VideoScores, within


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
    nothing = VideoScores(2, 3).metrics()
    assert nothing.pop("videos") == 0 and all(value != value for value in nothing.values())


def test_a_video_seen_by_two_processes_counts_once():
    """Five videos over two processes: the sampler gives video 0 to both."""
    right, wrong = [[2.0, 0.0, 0.0]], [[0.0, 2.0, 0.0]]
    shares = [{0: (0, right), 2: (0, wrong), 4: (0, wrong)}, {1: (0, right), 3: (0, wrong), 0: (0, right)}]
    tables = [filled(share) for share in shares]
    whole = filled(shares[0] | shares[1])

    pairs = iter([(tables[1].probabilities, whole.probabilities), (tables[1]._facts, whole._facts)])
    tables[0].gather(lambda mine: mine + next(pairs)[0])

    torch.testing.assert_close(tables[0].probabilities, whole.probabilities)
    assert tables[0].metrics() == pytest.approx(whole.metrics())
    assert tables[0].metrics()["videos"] == 5 and tables[0].metrics()["top1"] == pytest.approx(2 / 5)


def of(*probabilities):
    """A score table of videos with these probabilities of one view; the label of each is given first."""
    scores = VideoScores(len(probabilities), len(probabilities[0][1]))
    for row, (label, values) in enumerate(probabilities):
        scores.add(torch.tensor([row]), torch.tensor([label]), torch.tensor([[values]]).log())
    return scores


@pytest.mark.parametrize("places", [1, 2, 3, 5])
def test_a_tie_counts_as_the_mean_over_all_orders(places):
    values = torch.tensor([0.3, 0.1, 0.3, 0.0, 0.3, 0.0])
    for label in range(6):
        hits = []
        for seed in range(4000):
            order = torch.randperm(6, generator=torch.Generator().manual_seed(seed))
            ranked = order[values[order].argsort(descending=True, stable=True)]
            hits.append(label in ranked[:places].tolist())
        chance = within(places, values, torch.tensor(label)).item()
        assert chance == pytest.approx(sum(hits) / len(hits), abs=0.03)


def test_equal_scores_of_a_video_and_of_a_view():
    metrics = filled({0: (2, [[1.0, 1.0, 1.0]])}, num_classes=3).metrics()
    assert metrics["top1"] == metrics["clip_top1"] == pytest.approx(1 / 3) and metrics["top5"] == 1.0


def test_top5_does_not_go_by_class_number_where_softmax_underflows():
    logits = torch.tensor([1e4] + [0.0] * 9)
    scores = VideoScores(10, 10)
    scores.add(torch.arange(10), torch.arange(10), logits.repeat(10, 1, 1))
    assert scores.within(5).tolist() == pytest.approx([1.0] + [4 / 9] * 9)
    assert scores.rank.tolist() == [1.0] + [6.0] * 9


def test_rank():
    scores = of((0, [0.2, 0.5, 0.3]), (0, [0.4, 0.4, 0.2]), (1, [0.4, 0.4, 0.2]), (2, [0.4, 0.4, 0.2]))
    assert scores.rank.tolist() == [3, 1.5, 1.5, 3]


def test_accuracies_by_hand():
    first, second = [0.5, 0.3, 0.2], [0.3, 0.5, 0.2]
    scores = of((0, first), (0, first), (0, second), (2, first))
    metrics = scores.metrics()
    assert metrics["top1"] == pytest.approx(2 / 4)
    assert metrics["mean_class_accuracy"] == pytest.approx((2 / 3 + 0) / 2)
    assert scores.classes(["left", "right", "still"]) == [
        {"label": 0, "name": "left", "videos": 3, "top1": pytest.approx(2 / 3), "top5": 1.0},
        {"label": 2, "name": "still", "videos": 1, "top1": 0.0, "top5": 1.0},
    ]


def test_scores_that_are_not_finite_are_an_error():
    scores = filled({0: (0, [[1.0, 0.0, 0.0]]), 3: (1, [[float("nan"), 0.0, 0.0]])})
    with pytest.raises(UserError, match="the model must give finite scores, .* 1 of 2 videos, such as row 3"):
        scores.check_finite("the model", lambda row: f"row {row}")
    assert torch.isnan(scores.within(1)[3])
    filled({0: (0, [[1.0, 0.0, -float("inf")]])}).check_finite("the model", str)
