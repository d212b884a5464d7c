import pytest
from torch.utils.data import Dataset

from videonorm.training.loader import EpochSampler, ResumableLoader


class Numbers(Dataset):
    """Eleven items, each the pair of its index and the epoch that the data set was told."""

    epoch = None

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __len__(self):
        return 11

    def __getitem__(self, index):
        return index, self.epoch


def make_loader(num_replicas=1, rank=0, seed=0):
    data = Numbers()
    sampler = EpochSampler(data, num_replicas, rank, seed)
    return ResumableLoader(data, batch_size=2, sampler=sampler, drop_last=True, collate_fn=list)


def epoch(loader, number):
    loader.sampler.set_epoch(number)
    return list(loader)


def test_order_follows_from_seed_and_epoch():
    first, again, second, other = (
        epoch(make_loader(seed=seed), number) for seed, number in [(0, 0), (0, 0), (0, 1), (1, 0)]
    )
    assert first == again and len(first) == 5
    assert [index for batch in first for index, _ in batch] != [
        index for batch in second for index, _ in batch
    ]
    assert first != other
    assert {number for batch in second for _, number in batch} == {1}


@pytest.mark.parametrize("handed_out", range(5))
def test_resumes_in_the_middle_of_an_epoch(handed_out):
    whole = make_loader()
    unbroken = epoch(whole, 3)

    broken = make_loader()
    broken.sampler.set_epoch(3)
    batches = iter(broken)
    for _ in range(handed_out):
        next(batches)
    resumed = make_loader()
    resumed.load_state_dict(broken.state_dict())
    assert len(resumed) == 5  # of the epoch, not of the rest
    assert epoch(resumed, 3) == unbroken[handed_out:]
    assert epoch(resumed, 4) == epoch(whole, 4)  # the next one is whole again


def test_a_finished_epoch_leaves_nothing_out():
    loader = make_loader()
    epoch(loader, 0)
    assert loader.state_dict() == {"batches": 0}


def test_processes_share_the_clips_out():
    seen = [
        [index for batch in epoch(make_loader(num_replicas=2, rank=rank), 0) for index, _ in batch]
        for rank in (0, 1)
    ]
    assert len(seen[0]) == len(seen[1]) == 4 and not set(seen[0]) & set(seen[1])
