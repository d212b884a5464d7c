"""`videonorm fit | validate | test | predict`: LightningCLI with our model, data and run folder."""

import inspect
import logging
import pkgutil
import signal
import traceback
import warnings
from contextlib import nullcontext
from enum import Enum
from pathlib import Path
from typing import Any

import jsonargparse
import yaml
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities.exceptions import SIGTERMException

from videonorm.errors import UserError
from videonorm.evaluation.checkpoint import read_checkpoint
from videonorm.files import check_writable
from videonorm.messages import one_line, one_sentence
from videonorm.training.callbacks import BadVideoReport, LastCheckpoint, LogInterval, ModelLine, ProgressBar
from videonorm.training.classifier import VideoClassifier
from videonorm.training.datamodule import VideoDataModule
from videonorm.training.evaluation_record import EvaluationRecord
from videonorm.training.fit_loop import EndingFitLoop
from videonorm.training.interruption import Interruption, Stopped
from videonorm.training.out_of_memory import is_out_of_memory, limited_to_memory
from videonorm.training.resume import check_settings, check_state, check_world_size, settled
from videonorm.training.run_folder import (
    FolderLock,
    MetricsTable,
    WholeCheckpointIO,
    check_unused,
    folder_of,
)
from videonorm.training.run_record import RunRecord

# Warnings about what is meant to be as it is.
NOISE = (
    r"isinstance\(treespec, LeafSpec\)",  # its own code, with torch 2.15
    r"Checkpoint directory .* exists and is not empty",  # a resumed run
    r"callbacks used to create the checkpoint need to be provided",  # an evaluated one
    r"does not have many workers",  # on a CPU, training has the cores
    r"smaller than the logging interval",  # the interval is fitted to the run
)


# Defaults of Lightning's callbacks, which YAML has no word for.
yaml.SafeDumper.add_multi_representer(Enum, lambda dumper, value: dumper.represent_data(value.value))


class TrainingCLI(LightningCLI):
    """The command line over VideoClassifier and VideoDataModule.

    Args:
        command: the one to build a parser for; building all four takes a second.
        argv: the command and its options.
    """

    def __init__(self, command: str, argv: list[str]) -> None:
        self.command = command
        # `--data.num_frame` is a mistake, not an abbreviation.
        strict = {"exit_on_error": False, "allow_abbrev": False}
        super().__init__(
            VideoClassifier,
            VideoDataModule,
            save_config_callback=None,
            seed_everything_default=0,
            parser_kwargs={"prog": "videonorm", command: strict, **strict},
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
            args=argv,
        )

    def _parse_ckpt_path(self) -> None:
        """Nothing: Lightning would import and build what the hyper-parameters of a checkpoint name."""

    def _run_subcommand(self, subcommand: str) -> None:
        on_cpu = self.trainer.strategy.root_device.type == "cpu"
        with limited_to_memory() if on_cpu else nullcontext():
            try:
                super()._run_subcommand(subcommand)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                data = self.datamodule
                raise UserError(
                    f"num_frames ({data.num_frames}) x batch_size ({data.batch_size}) at crop_size "
                    f"({data.crop_size}) must fit in memory: {one_line(error)}"
                ) from error

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]
        return {self.command: LightningCLI.subcommands()[self.command]}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_lightning_class_args(LastCheckpoint, "last_checkpoint")

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        self.config = parser.parse_args(args)
        command, config = self.config.subcommand, self.config[self.config.subcommand]
        judged = command != "fit" and config.ckpt_path not in (None, "last", "best")
        if config.trainer.default_root_dir is None:
            named = folder_of(config.ckpt_path) if judged else default_run_folder(config)
            config.trainer.default_root_dir = str(named)
        folder = Path(config.trainer.default_root_dir)
        if config.ckpt_path in ("last", "best"):
            path = folder / "checkpoints" / f"{config.ckpt_path}.ckpt"
            # A run that was killed before its first checkpoint is continued from its beginning.
            config.ckpt_path = None if command == "fit" and not path.exists() else str(path)
        elif not config.ckpt_path and command != "fit":
            raise UserError(f"ckpt_path (null) must name a checkpoint for videonorm {command}")
        elif not config.ckpt_path:
            check_unused(folder)
        try:
            check_writable(folder / "run.json")
        except OSError as error:
            raise UserError(
                f"trainer.default_root_dir ({folder}) must be a folder that can be written: {error.strerror}"
            ) from error
        if config.trainer.sync_batchnorm:  # makes torch's layers, in whose place ours refuse to be put
            raise UserError(
                "trainer.sync_batchnorm (true) must be false: videonorm.layers.SyncBatchNorm3d is "
                "synchronized, see configs/norm/sync_bn.yaml"
            )
        if command == "fit":
            check_learning_rate(config.model)
        self.text = self._parser(command).dump(config, skip_none=False)
        self.settings = settled(yaml.safe_load(self.text))
        if config.ckpt_path:  # in whose place the weights of the checkpoint come
            config.model.weights = config.model.new = None
        # Before anything else is done, and long before anything is written.
        self.checkpoint = read_checkpoint(config.ckpt_path, "ckpt_path") if config.ckpt_path else None
        if self.checkpoint and command == "fit":
            check_settings(self.settings, self.checkpoint, config.ckpt_path)

    def instantiate_classes(self) -> None:
        super().instantiate_classes()
        if self.checkpoint is None:
            return
        training, path = self.subcommand == "fit", self.config[self.subcommand].ckpt_path
        check_state(self.model.state_dict(), self.checkpoint, path, training=training)
        if training:
            check_world_size(self.trainer.world_size, self.checkpoint, path)
        class_names = self.checkpoint.get("videonorm", {}).get("class_names")
        if class_names is not None:  # of the network that is judged, or trained on
            self.datamodule.source.settle_class_names(class_names)
        self.checkpoint = None  # Lightning reads it again

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        config, objects = self.config[self.subcommand], self.config_init[self.subcommand].trainer
        folder = Path(config.trainer.default_root_dir)
        # What is said at the end is said behind the bar.
        bar = [ProgressBar()] if config.trainer.enable_progress_bar is not False else []
        callbacks: list[Callback] = [*bar, BadVideoReport(), EvaluationRecord()]
        interruption = Interruption(folder / "checkpoints" / "last.ckpt")
        lock = []
        if self.subcommand == "fit":
            lock = [FolderLock(folder, resumes=bool(config.ckpt_path))]
            best = ModelCheckpoint(
                dirpath=folder / "checkpoints",
                filename="best",
                monitor="val/top1",
                mode="max",
                save_on_train_epoch_end=False,  # but after each validation
                enable_version_counter=False,
            )
            backbone = yaml.safe_load(self.text)["model"]["backbone"]
            record = RunRecord(backbone, config.seed_everything, self.settings, self.text)
            callbacks += [record, best]
            if config.trainer.log_every_n_steps is None:
                callbacks.append(LogInterval())
            if config.trainer.enable_model_summary is None:
                kwargs["enable_model_summary"] = False
                callbacks.append(ModelLine())
        loggers: list[Any] = []
        if self.subcommand == "fit":  # whatever others there are, metrics.csv is always written
            table = MetricsTable(folder, resume=bool(config.ckpt_path))
            tensorboard = TensorBoardLogger(folder, name="tensorboard", version="")
            match objects.logger:
                case None | True:
                    loggers = [table, tensorboard]
                case False:
                    loggers = [table]
                case asked:
                    loggers = [*_as_list(asked), table]
        kwargs["logger"] = loggers or objects.logger or False
        trainer = super().instantiate_trainer(
            **kwargs,
            # Behind the others, as what they do at the end of a batch belongs to what is saved; and until all
            # have written what they know, the folder is held.
            callbacks=[*_as_list(objects.callbacks), *callbacks, interruption, *lock],
            plugins=[*_as_list(objects.plugins), WholeCheckpointIO()],
        )
        EndingFitLoop(trainer)
        return trainer


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def check_learning_rate(model: jsonargparse.Namespace) -> None:
    """Raise UserError for an optimizer's learning rate beside one for 256 clips, which takes its place."""
    lr = model.optimizer.get("init_args", {}).get("lr")
    if model.lr_per_256_clips is None or lr is None:
        return
    of_class = inspect.signature(pkgutil.resolve_name(model.optimizer.class_path)).parameters["lr"]
    if lr != of_class.default and of_class.default is not of_class.empty:
        raise UserError(
            f"model.optimizer.init_args.lr ({lr:g}) must be left out beside model.lr_per_256_clips "
            f"({model.lr_per_256_clips:g}), which takes its place"
        )


def default_run_folder(config: jsonargparse.Namespace) -> str:
    """`runs/` and the configuration files, clip and batch: `runs/motion_r18_gn_ws_16x4_b8`, or 16@12.5fps."""
    files = [Path(str(path)).stem for path in config.config or []]
    rate = config.data.frames_per_second
    pace = f"x{config.data.frame_stride}" if rate is None else f"@{rate:g}fps"
    seed = f"_s{config.seed_everything}" if config.seed_everything else ""
    return (
        str(
            Path("runs") / "_".join([*files, f"{config.data.num_frames}{pace}", f"b{config.data.batch_size}"])
        )
        + seed
    )


def main(argv: list[str]) -> None:
    """Run `argv`: a command and its options.

    Raises:
        UserError: the configuration, or a file that it names, cannot be used.
    """
    for name in ("lightning.pytorch", "lightning.fabric"):  # what it chats at level INFO, run.json says
        logging.getLogger(name).setLevel(logging.WARNING)
    for noise in NOISE:
        warnings.filterwarnings("ignore", f".*{noise}")
    try:
        TrainingCLI(argv[0], argv)
    except SIGTERMException as error:  # before the first batch
        raise Stopped(signal.SIGTERM) from error
    except SystemExit as error:
        if isinstance(error.__context__, KeyboardInterrupt):  # the same, of which Lightning makes exit code 1
            raise Stopped(signal.SIGINT) from error
        raise
    except jsonargparse.ArgumentError as error:
        raise UserError(one_sentence(str(error))) from error
    except UserError as error:
        raise UserError(str(error)) from error
    except MisconfigurationException as error:
        raise UserError(str(error).partition("\n")[0]) from error
    except ModuleNotFoundError as error:
        if _raised_in(error) == "lightning":  # what a callback or logger of its needs
            raise UserError(one_line(error)) from error
        raise
    except ValueError as error:
        match _raised_in(error):
            case "videonorm":  # layers and models raise sentences about a setting
                raise UserError(str(error)) from error
            case "jsonargparse":  # while it made the objects
                raise UserError(one_sentence(str(error))) from error
        raise


def _raised_in(error: BaseException) -> str:
    """The package whose code raised an error."""
    *_, (frame, _line) = traceback.walk_tb(error.__traceback__)
    return str(frame.f_globals["__name__"]).partition(".")[0]
