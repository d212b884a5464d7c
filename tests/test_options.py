"""Options refuse a wrong value with what it must be."""

import argparse

import pytest

from videonorm.errors import UserError
from videonorm.options import Parser, fraction, positive_integer, product_of, seconds, whole_number

clip = product_of(2, "frames x stride, as 8x8")


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (positive_integer, "12", 12),
        (whole_number, "0", 0),
        (seconds, "0.5", 0.5),
        (fraction, "0", 0.0),
        (fraction, "1", 1.0),
        (clip, "16x4", (16, 4)),
    ],
)
def test_value(kind, text, value):
    assert kind(text) == value


@pytest.mark.parametrize(
    ("kind", "texts", "wanted"),
    [
        (positive_integer, ["0", "-1", "1.5", "x", "", "²"], "must be a whole number, 1 or more"),
        (whole_number, ["-1", "x"], "must be a whole number, 0 or more"),
        (seconds, ["0", "-1", "inf", "nan", "x"], "must be a number of seconds above 0"),
        (fraction, ["-0.1", "1.1", "nan", "x"], "must be a number from 0 to 1"),
        (clip, ["8", "8x", "x8", "0x8", "8x8x8"], "must be frames x stride, as 8x8"),
    ],
)
def test_refusal(kind, texts, wanted):
    for text in texts:
        with pytest.raises(argparse.ArgumentTypeError) as raised:
            kind(text)
        assert str(raised.value) == f"({text}) {wanted}"


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["--num-clips", "3"], "--num-clips is no option here; did you mean --num_clips? (see it --help)"),
        (["--num_clip=3"], "--num_clip is no option here; did you mean --num_clips? (see it --help)"),
        (["--verbose"], "--verbose is no option here (see it --help)"),
        (["--num_clips", "3", "more"], "unrecognized arguments: more (see it --help)"),
        (["--num_clips", "0"], "argument --num_clips: (0) must be a whole number, 1 or more (see it --help)"),
    ],
)
def test_a_mistake_is_one_sentence(argv, sentence):
    parser = Parser(prog="it")
    parser.add_argument("--num_clips", type=positive_integer, required=True)
    assert parser.parse_args(["--num_clips", "3"]).num_clips == 3
    with pytest.raises(UserError) as raised:
        parser.parse_args(argv)
    assert str(raised.value) == sentence


def test_help_wraps_a_paragraph_and_keeps_lines():
    parser = Parser(prog="it", description="word " * 60, epilog="examples:\n  it --this\n  it --that")
    lines = parser.format_help().splitlines()
    assert max(map(len, lines)) < 120 and "  it --that" in lines
