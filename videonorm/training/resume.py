"""What a run that goes on takes over from its checkpoint, and what it must have in common with it."""

from collections.abc import Iterator, Mapping
from typing import Any

from videonorm.errors import UserError
from videonorm.evaluation.checkpoint import check_weights

# Settings of the model and the clips that leave no trace in a checkpoint, nor in what is recorded of a run.
FREE = {
    "model.backbone.init_args.recompute",
    "model.compile",
    "model.cuda_graph",
    "data.source",
    "data.num_test_clips",
    "data.num_test_crops",
    "data.num_workers",
    "data.time_limit_seconds",
    "data.decoder",
    "data.max_bad_fraction",
    "data.cache_mib",
    "data.channels_last",
}
OF_THE_TRAINER = (
    "accumulate_grad_batches",
    "gradient_clip_val",
    "gradient_clip_algorithm",
    "limit_train_batches",
    "overfit_batches",
)
CHANGE_CLIPS = ("Multigrid",)  # callbacks
NAMED = 3  # differences, in an error


def settled(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a resolved configuration that a checkpoint holds the consequences of.

    Weights, the optimizer's state and its learning rate, the place in the order of clips: a run that goes on
    has these from its checkpoint, whatever it is asked for.
    """
    of_trainer = {name: config["trainer"][name] for name in OF_THE_TRAINER}
    callbacks = config["trainer"]["callbacks"] or []
    callbacks = [callbacks] if isinstance(callbacks, Mapping) else callbacks  # of one alone
    of_trainer["callbacks"] = [of for of in callbacks if str(_class(of)).endswith(CHANGE_CLIPS)]
    parts = {name: config[name] for name in ("seed_everything", "model", "data")}
    return _without_free({**parts, "trainer": of_trainer}, "")  # type: ignore[no-any-return]


def _without_free(value: Any, prefix: str) -> Any:
    if not isinstance(value, Mapping):
        return value
    return {
        name: _without_free(of, f"{prefix}{name}.") for name, of in value.items() if prefix + name not in FREE
    }


def check_settings(asked: Mapping[str, Any], checkpoint: Mapping[str, Any], path: str) -> None:
    """Refuse settings that a run cannot change any more.

    Args:
        asked: as ``settled`` gives them.
        checkpoint: all of it. One that another version wrote may know fewer settings, or none.

    Raises:
        UserError: it names the first that differ.
    """
    before = checkpoint.get("videonorm", {}).get("settings", {})
    differ = [
        f"{key} ({_text(new)}) must be {_text(old)}" for key, new, old in _differences(asked, before, "")
    ]
    if differ:
        more = f", and {len(differ) - NAMED} more" if len(differ) > NAMED else ""
        raise UserError(
            f"{'; '.join(differ[:NAMED])}{more}, as in the run that goes on from ckpt_path ({path}); "
            "other settings are another run, in another trainer.default_root_dir"
        )


def _differences(new: Any, old: Any, key: str) -> Iterator[tuple[str, Any, Any]]:
    """What differs among the keys that both have: another version may have another set of arguments."""
    if not (isinstance(new, Mapping) and isinstance(old, Mapping)) or _class(new) != _class(old):
        if _class(new) != _class(old):  # the arguments are then others, too
            yield key, _class(new), _class(old)
        return
    for name in (name for name in old if name in new):
        yield from _differences(new[name], old[name], f"{key}.{name}" if key else name)


def _class(value: Any) -> Any:
    return value.get("class_path") if isinstance(value, Mapping) else value


def check_world_size(world_size: int, checkpoint: Mapping[str, Any], path: str) -> None:
    """Raise UserError for another number of devices: they share a step's clips, and the order of all."""
    before = checkpoint.get("videonorm", {}).get("world_size", world_size)
    if before != world_size:
        raise UserError(
            f"devices ({world_size}) must be {before}, as in the run that goes on from ckpt_path ({path})"
        )


def _text(value: Any) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def check_state(
    weights: Mapping[str, Any], checkpoint: Mapping[str, Any], path: str, *, training: bool
) -> None:
    """Refuse a checkpoint of another network, or one to go on from that holds a network only.

    Args:
        weights: those of the network that it is for.

    Raises:
        UserError: it names the first weights that differ.
    """
    check_weights(weights, checkpoint["state_dict"], f"ckpt_path ({path})")
    missing = [name for name in ("loops", "optimizer_states", "lr_schedulers") if name not in checkpoint]
    if training and missing:
        raise UserError(
            f"ckpt_path ({path}) must hold the state of a training to go on with, and {missing[0]} is missing"
        )


def settle_progress(checkpoint: Mapping[str, Any], *, counts_steps: bool) -> None:
    """Put the counters of Lightning's loops in a checkpoint to the place in the epoch where it was written.

    Where training ends in the middle of an epoch, they say that the epoch is over: the rest of its clips
    would be left out. At the end of an epoch, they go on with an epoch of no batches, or begin one uncounted.

    Args:
        counts_steps: whether ``trainer.max_steps`` is set. Lightning then takes every run that goes on for
            one in the middle of an epoch.
    """
    loops = checkpoint["loops"]["fit_loop"]
    epochs, batches = loops["epoch_progress"], loops["epoch_loop.batch_progress"]
    begun, ready = epochs["current"]["started"], batches["current"]["ready"]
    if not begun or not ready:
        return
    over = batches["is_last_batch"]
    gone = 0 if over else 1  # epochs begun that are not over
    for counters in epochs.values():
        counters.update(ready=counters["started"])
        counters.update(processed=counters["started"] - gone, completed=counters["started"] - gone)
    if over:  # makes room for the next, which need not have as many batches
        batches["current"]["ready"] = 0
    # As at the end of a batch, which is then completed.
    for counters in (batches["total"], batches["current"]):
        counters.update(started=counters["ready"], processed=counters["ready"])
        counters.update(completed=counters["ready"] - 1)
    batches["is_last_batch"] = False
    completes = counts_steps or not over
    loops["epoch_loop.state_dict"]["_batches_that_stepped"] = checkpoint["global_step"] - completes
