"""The help of the training commands says what jsonargparse would take, without importing Lightning for it."""

import re

import pytest

from videonorm.errors import UserError
from videonorm.training_options import check_names, help_of, options, sections

# What jsonargparse and Lightning's CLI add, and our help says otherwise or not at all.
LEFT_OUT = r"--(\w+|.*\.help|.*\+|weights_only|verbose|return_predictions)"


@pytest.mark.parametrize("command", ["fit", "validate", "test", "predict"])
def test_the_options_are_those_of_the_parser(command):
    from videonorm.training.cli import TrainingCLI

    class ParserOnly(TrainingCLI):
        def parse_arguments(self, parser, args):
            self.parser = parser
            raise StopIteration

    cli = ParserOnly.__new__(ParserOnly)
    with pytest.raises(StopIteration):
        cli.__init__(command, [command])
    of_command = cli._parser(command)
    real = {option for option in of_command._option_string_actions if not re.fullmatch(LEFT_OUT, option)}
    shown = set(re.findall(r"^  (--\w+\.\w+)", help_of(command).format_help(), flags=re.MULTILINE))
    assert shown == {option for option in real if option.startswith("--")}


def test_every_option_of_ours_is_explained():
    for section in sections():
        for option in options(section):
            assert option.text, f"{section.name}.{option.name}"


def test_defaults_and_texts():
    text = " ".join(help_of("fit").format_help().split())
    assert "--data.num_frames INT frames of a clip, T (default: 16)" in text
    assert "--data.mean FLOAT|LIST of red, green and blue in [0, 1] (default: [0.45, 0.45, 0.45])" in text
    assert "--model.scheduler_interval step|epoch" in text
    assert "--trainer.max_steps INT Stop training after this number of steps (default: -1)" in text
    assert re.search(r"--model.backbone CLASS .*?\(must be given\)", text)


@pytest.mark.parametrize(
    ("option", "hint"),
    [
        ("--data.num_frame", r" \(did you mean --data.num_frames\?\)"),
        ("--trainer.max_step=3", r" \(did you mean --trainer.max_steps\?\)"),
        ("--model.xyzzy", ""),
    ],
)
def test_a_mistyped_option(option, hint):
    with pytest.raises(UserError, match=f"^{option.partition('=')[0]} is no option{hint}$"):
        check_names(["-c", "recipe.yaml", option, "8"])


def test_options_that_jsonargparse_knows_pass():
    check_names(
        ["--data.augment+=a.B", "--model.backbone.init_args.depth", "50", "--trainer.callbacks.help", "X"]
    )
    check_names(["--data", "data.yaml", "--last_checkpoint.every_n_train_steps=5", "--data.source.root=x"])
