"""The messages are jsonargparse 4.53's own."""

import pytest

from videonorm.messages import arguments, of_file, one_sentence

CALLABLE = "Type collections.abc.Callable[[int], torch.nn.Module] expects a function or a callable class:"
UNION = """
  Does not validate against any of the Union subtypes
  Subtypes: [<class 'videonorm.training.schedule.Schedule'>, <class 'NoneType'>]
  Errors:
"""

CASES = {
    "type": (
        "Parser key \"data.batch_size\":\n  Expected a <class 'int'>. Got value: x",
        "data.batch_size (x) must be int",
    ),
    "literal": (
        "Parser key \"model.backbone\":\n  Problem with given class_path 'videonorm.models.ResNet3d':\n"
        '    Parser key "depth":\n      Expected a typing.Literal[18, 34]. Got value: 9',
        "model.backbone.depth (9) must be one of 18, 34",
    ),
    "misspelt_option": (
        "Parser key \"model.backbone\":\n  Problem with given class_path 'videonorm.models.ResNet3d':\n"
        "    Option 'dept' is not accepted",
        "model.backbone (videonorm.models.ResNet3d): option 'dept' is not accepted; did you mean depth?",
    ),
    "unknown_class": (
        "Parser key \"model.backbone\":\n  Problem with given class_path 'videonorm.models.ResNet3d':\n"
        '    Parser key "norm":\n\n'
        "      - Expected a path but videonorm.layers.Nix either not accessible or invalid\n"
        f"      - {CALLABLE} module 'videonorm.layers' has no attribute 'Nix'."
        " Got value: videonorm.layers.Nix",
        "model.backbone.norm (videonorm.layers.Nix): module 'videonorm.layers' has no attribute 'Nix'",
    ),
    "option_of_a_callable": (
        f"Parser key \"norm\":\n  {CALLABLE} Option 'num_group' is not accepted. Got value: "
        "Namespace(class_path='videonorm.layers.GroupNorm3d', init_args=Namespace(num_group='3'))",
        "norm (videonorm.layers.GroupNorm3d): option 'num_group' is not accepted; did you mean num_groups?",
    ),
    "option_in_a_union": (
        f'Parser key "model.scheduler":{UNION}'
        "    - Problem with given class_path 'videonorm.training.WarmupCosine':\n"
        "        Option 'warmups' is not accepted\n"
        "    - Expected a <class 'NoneType'>\n"
        "  Given value type: <class 'jsonargparse._util.NestedArg'>\n"
        "  Given value: NestedArg(key='warmups', val='3')",
        "model.scheduler (videonorm.training.WarmupCosine): option 'warmups' is not accepted; "
        "did you mean warmup?",
    ),
    "union": (
        f'Parser key "data.short_side":{UNION}'
        "    - Expected a <class 'int'>\n    - Expected a <class 'NoneType'>\n"
        "  Given value type: <class 'str'>\n  Given value: abc",
        "data.short_side (abc) must be int or null",
    ),
    "list": (
        f'Parser key "cells":{UNION}'
        "    - Expected a <class 'list'>\n    - Expected a <class 'NoneType'>\n"
        "  Given value type: <class 'int'>\n  Given value: 4",
        "cells (4) must be a list or null",
    ),
    "mapping": (
        "Parser key \"norms\":\n  Expected a <class 'dict'>. Got value: ['a']",
        "norms (['a']) must be a mapping",
    ),
    "positive": (
        f'Parser key "jobs":{UNION}'
        "    - Not of type PositiveInt: does not conform to restriction v>0\n"
        "    - Expected a typing.Literal['auto']\n  Given value type: <class 'int'>\n  Given value: 0",
        "jobs (0) must be an integer of at least 1 or one of 'auto'",
    ),
    "positive_in_a_list": (
        f'Parser key "num_frames":{UNION}'
        "    - Not of type PositiveInt: True not a number\n    - Expected a <class 'NoneType'>\n"
        "  Given value type: <class 'list'>\n  Given value: [4, True]",
        "num_frames (True) must be an integer of at least 1",
    ),
    "not_a_number": (
        "Parser key \"seeds\":\n  Not of type NonNegativeInt: invalid literal for int() with base 10: 'a'",
        "seeds (a) must be an integer of at least 0",
    ),
    "while_made": (
        f"{UNION.strip()}\n  - warmup (5.0) must be a fraction of training, from 0 to 1\n"
        f"  - {CALLABLE} no. Got value: x",
        "warmup (5.0) must be a fraction of training, from 0 to 1",
    ),
    "misspelt_class": (
        'Parser key "model.optimizer":\n'
        "  - module 'torch.optim' has no attribute 'AdaW'. Got value: torch.optim.AdaW",
        "model.optimizer (torch.optim.AdaW): module 'torch.optim' has no attribute 'AdaW'; "
        "did you mean torch.optim.AdamW?",
    ),
    "plain": ("unrecognized arguments: --bogus 1", "unrecognized arguments: --bogus 1"),
}


@pytest.mark.parametrize("message, sentence", CASES.values(), ids=CASES)
def test_one_sentence(message, sentence):
    assert one_sentence(message) == sentence


def test_arguments_that_a_class_hands_on_to_its_bases():
    class Base:
        def __init__(self, depth, **rest): ...

    class Derived(Base):
        def __init__(self, *, width=3, **rest): ...

    assert arguments(Derived) == ["width", "depth"]
    assert arguments(lambda a, b=2: None) == ["a", "b"]


def test_a_file_is_named_with_what_could_not_be_done():
    assert (
        of_file(OSError(28, "No space left on device", "a/last.ckpt"))
        == "a/last.ckpt: No space left on device"
    )
    assert of_file(TimeoutError()) == "TimeoutError"
