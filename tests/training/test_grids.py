"""The arithmetic of a multigrid training, without one."""

import math

import pytest

from videonorm.training.grids import Phase, Plan, Shape, lay_out

LONG = [(0.25, 0.5**0.5), (0.5, 0.5**0.5), (0.5, 1), (1, 1)]
SHORT = [0.5, 0.5**0.5]
FULL = Shape(16, 224, 8)


def plan(phases, videos=400, clips_per_video=1, accumulate=1, max_steps=-1, max_epochs=-1):
    how = {"clips_per_video": clips_per_video, "frame_stride": 2, "accumulate": accumulate}
    return Plan(phases, videos=videos, max_steps=max_steps, max_epochs=max_epochs, **how)


def test_shapes_are_those_of_pyslowfast():
    """T, S and relative B that its code gives for 16 frames at 224 pixels, long and short cycle."""
    phases = lay_out(FULL, LONG, SHORT, [0.0], 0.2)
    assert [[(s.num_frames, s.crop_size, s.batch_size // 8) for s in phase.shapes] for phase in phases] == [
        [(4, 112, 16), (4, 158, 8), (4, 158, 8)],
        [(8, 112, 8), (8, 158, 4), (8, 158, 4)],
        [(8, 112, 8), (8, 158, 4), (8, 224, 2)],
        [(16, 112, 4), (16, 158, 2), (16, 224, 1)],
        [(16, 224, 1)],
    ]
    assert [phase.lr_factor for phase in phases] == [8, 4, 2, 1, 1]
    assert [phase.shapes[-1].stretch for phase in phases] == [4, 2, 2, 1, 1]
    assert [phase.start for phase in phases] == pytest.approx([0, 0.2, 0.4, 0.6, 0.8])


@pytest.mark.parametrize("rule, factors", [("sqrt", [math.sqrt(8), 1]), ("constant", [1, 1])])
def test_learning_rate_rules(rule, factors):
    phases = lay_out(FULL, [LONG[0], LONG[3]], [], [0.0], 0, rule)
    assert [phase.lr_factor for phase in phases] == pytest.approx(factors)


def test_a_cycle_in_each_stage_and_as_many_steps_of_each_of_its_shapes():
    lengths = plan(lay_out(FULL, LONG, [], [0.0, 0.5], 0.25), videos=6400, max_steps=800)
    batches = [shape for epoch in range(30) for shape in lengths.batches(epoch)]
    assert len(batches) == 800
    runs = [0, *(i for i in range(1, 800) if batches[i] != batches[i - 1])]
    assert runs == [0, 100, 200, 300, 400, 450, 500, 550]  # the last of them goes on in the fine-tuning
    assert [lengths.lr_factor(i / 800) for i in runs] == [8, 4, 2, 1] * 2


@pytest.mark.parametrize("short", [[], SHORT])
@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("epochs", [1, 5, 40])
def test_epochs_are_one_pass_each(short, accumulate, epochs):
    videos = 401
    whole = plan(
        lay_out(Shape(16, 32, 2), LONG, short, [0.0, 0.4], 0.2), videos, 2, accumulate, max_epochs=epochs
    )
    largest = max(shape.batch_size for shape in whole.shapes)
    steps = 0
    for epoch in range(epochs):
        batches = whole.batches(epoch)
        clips = sum(shape.batch_size for shape in batches)
        assert clips <= 2 * videos
        if epoch < epochs - 1:
            assert clips > 2 * videos - largest  # but for those that fill no batch
        for first in range(0, len(batches), accumulate):
            assert set(batches[first : first + accumulate]) == {whole.shape(steps)}
            steps += 1
        assert [videos for videos, _ in whole.videos_and_clips(epoch)] == [s.batch_size // 2 for s in batches]
    assert steps == whole.total_steps and not whole.batches(epochs)
    assert sum(s.batch_size for s in whole.batches(epochs - 1)) > 2 * videos - 4 * largest * accumulate


def test_steps_of_many_epochs_are_found_without_walking_them():
    """By leaps: the same as step by step."""
    phases = lay_out(Shape(8, 224, 8), LONG, SHORT, [0.0, 0.3, 0.6], 0.1)
    whole = plan(phases, videos=4999, accumulate=2, max_epochs=50)
    walked = sum(math.ceil(len(whole.batches(epoch)) / 2) for epoch in range(50))
    assert walked == whole.total_steps


def test_what_ends_first_is_the_length():
    phases = [Phase(0.0, (Shape(4, 8, 4),))]
    assert plan(phases, videos=10, max_epochs=3).total_steps == 6
    assert plan(phases, videos=10, max_epochs=3, max_steps=5).total_steps == 5
    assert plan(phases, videos=10, max_epochs=3, max_steps=7).total_steps == 6
    assert plan(phases, videos=10, max_steps=7).total_steps == 7


def test_tiny_shapes_stay_shapes():
    assert Shape(2, 4, 1).scaled(0.25, 0.1) == Shape(1, 1, 32, 2)
