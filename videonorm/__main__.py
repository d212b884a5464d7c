"""The command line: `videonorm COMMAND ...`, or `python -m videonorm COMMAND ...`.

Each command is imported only when it is called, so that help and a mistyped command answer at once.
"""

import atexit
import gc
import importlib
import os
import signal
import sys
import warnings

from videonorm import __version__
from videonorm.errors import UserError
from videonorm.messages import did_you_mean, of_file, of_warning

# command -> (module, what it does); the module's `main(argv)` is the command.
TRAINING = "videonorm.training_options"
COMMANDS = {
    "fit": (TRAINING, "train a model from a YAML recipe; resumes with --ckpt_path"),
    "validate": (TRAINING, "score a training checkpoint on the validation videos"),
    "test": (TRAINING, "score a training checkpoint on the test videos, 10 x 3 views each"),
    "predict": (TRAINING, "write a training checkpoint's class scores of every video"),
    "sweep": ("videonorm.sweep.command", "train norm x clip length x batch size; table, plots, report"),
    "study": ("videonorm.study.command", "test claims about normalization: each ends in a verdict"),
    "frontier": ("videonorm.frontier.command", "say what fits in a GPU: clip length x batch size, per norm"),
    "import": ("videonorm.import_weights", "turn weights that others trained into a checkpoint"),
    "convert": ("videonorm.convert", "swap the norms of a checkpoint, fold them, re-estimate statistics"),
    "export": ("videonorm.evaluation.export", "turn a checkpoint into an artifact: safetensors, pt2, onnx"),
    "evaluate": ("videonorm.evaluation.evaluate", "score an exported artifact on a manifest of videos"),
    "classify": (
        "videonorm.evaluation.classify",
        "say what an artifact sees in videos; timelines of long ones",
    ),
    "features": ("videonorm.evaluation.features", "write what an artifact knows of videos before it decides"),
    "explain": ("videonorm.evaluation.explain", "draw where in a video an artifact sees a class"),
    "bench": ("videonorm.bench.command", "measure kernels and training steps beside their peers"),
    "doctor": ("videonorm.doctor", "say what this machine has and what would run on it"),
}
EXITS = "Exit codes: 0 done; 2 a mistake, or a file that cannot be written; 130, 143 stopped; 1 all else."


def usage() -> str:
    width = max(map(len, COMMANDS))
    rows = "\n".join(f"  {name:{width}}  {text}" for name, (_, text) in COMMANDS.items())
    return (
        "usage: videonorm COMMAND [options]\n\n"
        "Longer clips or larger batches? Train video models with any normalization and measure it.\n\n"
        f"commands:\n{rows}\n\n"
        "`videonorm COMMAND --help` lists a command's options; `videonorm --version` prints the version.\n"
        f"{EXITS}"
    )


def run(command: str, options: list[str]) -> None:
    if command in ("-h", "--help"):
        print(usage())
        return
    if command == "--version":
        print(f"videonorm {__version__}")
        return
    if command not in COMMANDS:
        hint = did_you_mean(command, COMMANDS)
        raise UserError(f"command ({command}) must be one of {', '.join(COMMANDS)}{hint}")
    module = importlib.import_module(COMMANDS[command][0])
    # The four commands of training share one main, which needs the command's name.
    module.main([command, *options] if module.__name__ == TRAINING else options)


def main() -> None:
    warnings.formatwarning = of_warning
    atexit.register(gc.freeze)  # or it ends by looking for garbage in all of torch, which takes a second
    command, *options = sys.argv[1:] or ["--help"]
    try:
        run(command, options)
        sys.stdout.flush()
    except UserError as error:
        print(f"videonorm: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # such as of `| head`, which has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains once more
        sys.exit(128 + signal.SIGPIPE)
    except OSError as error:
        if error.errno is None:  # a library's own, which is no matter of files or devices
            raise
        print(f"videonorm: {of_file(error)}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
