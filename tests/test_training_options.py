"""The help of the training commands says what jsonargparse would take, without importing Lightning for it."""

import gc
import re
import sys
from types import SimpleNamespace

import pytest

from videonorm.errors import UserError
from videonorm.training_options import check_names, help_of, main, options, sections

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
        ("--data.num_frame", r"; did you mean --data.num_frames\?"),
        ("--trainer.max_step=3", r"; did you mean --trainer.max_steps\?"),
        ("--model.xyzzy", ""),
        ("--dat.batch_size", r"; did you mean --data.batch_size\?"),
        ("--data.max_steps", r"; did you mean --trainer.max_steps\?"),
        ("--seed_everthing", r"; did you mean --seed_everything\?"),
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


RECIPES = {
    "an_option": ("data: {batchsize: 3}", r"data.batchsize is no key .*; did you mean data.batch_size\?"),
    "of_lightning": ("trainer: {max_step: 3}", r"trainer.max_step is .* did you mean trainer.max_steps\?"),
    "elsewhere": ("model: {max_epochs: 3}", r"model.max_epochs is .* did you mean trainer.max_epochs\?"),
    "a_section": ("trainr: {max_steps: 3}", r"trainr is no key .*; did you mean trainer\?"),
    "beside_a_class": (
        "model: {backbone: {class_path: a.B, init_arg: {depth: 3}}}",
        r"model.backbone.init_arg is no key beside class_path .*; did you mean init_args\?",
    ),
    "in_a_list": (
        "trainer: {callbacks: [{class_path: a.B}, {clas_path: a.C, class_path: a.C}]}",
        r"trainer.callbacks\[1\].clas_path is no key .*; did you mean class_path\?",
    ),
}


@pytest.mark.parametrize("text, message", RECIPES.values(), ids=RECIPES)
def test_a_misspelt_key_of_a_recipe(tmp_path, text, message):
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=f"^{message}$") as caught:
        check_names(["-c", str(path)])
    assert f"({path})" in str(caught.value)


def test_recipes_that_jsonargparse_knows_pass(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("seed_everything: 0\nckpt_path: null\ndata: data.yaml\nmodel: {backbone: a.B}\n")
    check_names(["-c", str(path), "-c", str(tmp_path / "none.yaml"), "--config=x.yaml"])
    for text in ("[1, 2]", "a: [", "\x00"):
        path.write_text(text)
        check_names(["-c", str(path)])


@pytest.mark.parametrize("collects", [True, False])
def test_a_training_collects_garbage_as_it_did_before_the_imports(monkeypatch, collects):
    found = []
    cli = SimpleNamespace(main=lambda argv: found.append(gc.isenabled()))
    monkeypatch.setitem(sys.modules, "videonorm.training.cli", cli)
    if not collects:
        gc.disable()
    try:
        main(["fit"])
    finally:
        gc.enable()
    assert found == [collects]
