import gc
import multiprocessing

import pytest
import torch

from videonorm.data.shared_memory import Inbox, Outbox


def send(connection):
    """Sends tensors of the sizes it is asked for, and says how many buffers it has."""
    torch.set_num_threads(1)  # OpenMP does not survive a fork
    outbox = Outbox()
    number = 0
    while size := connection.recv():
        number += 1
        connection.send((outbox.post(outbox.empty((size,)).fill_(number % 256)), len(outbox._buffers)))


@pytest.fixture
def receive():
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    process = context.Process(target=send, args=(theirs,), daemon=True)
    process.start()
    inbox = Inbox()

    def receive(size):
        ours.send(size)
        parcel, buffers = ours.recv()
        return inbox.open(parcel), buffers

    yield receive
    ours.send(0)
    process.join()


def test_a_tensor_is_not_overwritten_while_any_view_of_it_lives(receive):
    first, _ = receive(1000)
    view = first.numpy().reshape(10, 100)[3:5]  # of the same storage, without the tensor
    del first
    gc.collect()
    for number in range(2, 12):
        tensor, buffers = receive(1000)
        assert (tensor == number).all() and buffers <= 3
        del tensor
    assert (view == 1).all()


def test_buffers_are_used_again(receive):
    for number in range(1, 50):
        tensor, buffers = receive(2**20 + number)
        assert (tensor == number).all()
        del tensor
        assert buffers <= 2


def test_what_was_needed_for_a_while_is_given_back(receive):
    kept = [receive(5_000_000)[0] for _ in range(20)]
    assert [tensor[-1].item() for tensor in kept] == list(range(1, 21))
    assert receive(5_000_000)[1] == 21
    kept.clear()
    for _ in range(3):
        _, buffers = receive(5_000_000)
    assert buffers <= 5


def test_tensors_made_before_one_is_posted_do_not_share_memory():
    outbox = Outbox()
    for _ in range(3):
        tensors = [outbox.empty((size,)).fill_(size) for size in (10, 20, 30)]
        assert [tensor[0].item() for tensor in tensors] == [10, 20, 30]
        parcel = outbox.post(tensors[-1][:7])
        assert parcel.shape == (7,)
    assert len(outbox._buffers) <= 5


def test_sizes_may_change(receive):
    for number, size in enumerate([10, 3_000_000, 10, 9_000_000, 1, 9_000_001], start=1):
        tensor, _ = receive(size)
        assert tensor.shape == (size,) and (tensor == number).all()


def test_parents_of_dead_processes_forget_their_buffers():
    context = multiprocessing.get_context("fork")
    inbox = Inbox()
    for _ in range(3):
        ours, theirs = context.Pipe()
        process = context.Process(target=send, args=(theirs,), daemon=True)
        process.start()
        ours.send(100)
        tensor = inbox.open(ours.recv()[0])
        process.kill()
        process.join()
        assert torch.equal(tensor, torch.ones(100, dtype=torch.uint8))
        assert len(inbox._buffers) == 1
