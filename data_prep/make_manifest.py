"""Turn the published annotations of a data set, and the folder with its videos, into manifests for videonorm:
train.csv, val.csv and test.csv of the videos that can be used, classes.txt with the class names in the
published order, and problems.csv with what is missing, duplicate, unreadable, unlabelled or not listed.

examples:
  python data_prep/make_manifest.py kinetics --videos k400 --out data/kinetics400
  python data_prep/make_manifest.py kinetics --videos clips --annotations train.csv val.csv --out data/k700
  python data_prep/make_manifest.py folders --videos k400/videos --out data/kinetics400
  python data_prep/make_manifest.py lists --videos k400 --train train.csv --val val.csv --out data/k400
  python data_prep/make_manifest.py ucf101 --videos UCF-101 --annotations ucfTrainTestlist --out data/ucf101
  python data_prep/make_manifest.py hmdb51 --videos hmdb51 --annotations splits --fold 2 --out data/hmdb51_2
  python data_prep/make_manifest.py ssv2 --videos 20bn-something-something-v2 --annotations labels --out ssv2
  python data_prep/make_manifest.py diving48 --videos rgb --annotations . --out data/diving48
"""

from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from script import add_out_folder, add_work, help_of, run, writing

from videonorm.errors import UserError
from videonorm.files import check_writable
from videonorm.options import Parser

if TYPE_CHECKING:
    from listing import Listing

    from videonorm.data import Split

LAYOUTS = {
    "kinetics": "official CSVs of K400, K600, K700-2020; clips ID_START_END anywhere",
    "folders": "a folder for each class, in folders train, val, test or in none",
    "lists": "MMAction2's and PySlowFast's lists of 'path label'",
    "ucf101": "UCF101: trainlist01.txt, testlist01.txt, classInd.txt",
    "hmdb51": "HMDB51: CLASS_test_split1.txt",
    "ssv2": "Something-Something v2: labels.json, {train,validation,test}.json",
    "diving48": "Diving48: Diving48_V2_{train,test}.json, Diving48_vocab.json",
}
WRITABLE = "a folder that can be written"
SPLITS: "tuple[Split, ...]" = ("train", "val", "test")


def parser() -> Parser:
    options = Parser(prog="make_manifest.py", **help_of(__doc__))
    layouts = options.add_subparsers(dest="layout", required=True, metavar="LAYOUT")
    layout: dict[str, Parser] = {}
    for name, text in LAYOUTS.items():
        layout[name] = one = layouts.add_parser(name, help=text, description=f"{text}.")
        one.add_argument("--videos", type=Path, required=True, metavar="DIR", help="where the videos are")
        add_out_folder(one)
        one.add_argument(
            "--no_probe", action="store_true", help="open no video: what only files tell stays empty"
        )
        add_work(one, time_limit_seconds=60)
    for name in ("kinetics", "folders", "lists"):
        layout[name].add_argument(
            "--classes",
            type=Path,
            metavar="FILE",
            help="class names in their order: one a line (MMAction2's label_map.txt), or JSON of name: label",
        )
    for name in ("ucf101", "hmdb51", "ssv2", "diving48"):
        layout[name].add_argument(
            "--annotations", type=Path, required=True, metavar="DIR", help="folder with the published files"
        )
    for name in ("ucf101", "hmdb51"):
        layout[name].add_argument(
            "--fold", type=int, choices=(1, 2, 3), default=1, help="which of its three splits (default: 1)"
        )
    layout["kinetics"].add_argument(
        "--annotations",
        type=Path,
        nargs="+",
        metavar="FILE",
        help="the official CSVs (default: VIDEOS/annotations/*.csv, as cvdfoundation has them)",
    )
    layout["kinetics"].add_argument(
        "--replacement",
        type=Path,
        metavar="DIR",
        help="clips to use in place of those of the same name (default: VIDEOS/replacement, if it is there)",
    )
    layout["kinetics"].add_argument(
        "--untrimmed",
        action="store_true",
        help="the files are whole videos called ID; start and end go to the manifest",
    )
    layout["folders"].add_argument(
        "--split",
        choices=SPLITS,
        default="train",
        help="what the videos are where there are no folders of splits (default: train)",
    )
    for split in SPLITS:
        layout["lists"].add_argument(f"--{split}", type=Path, metavar="FILE", help=f"the {split} list")
    layout["lists"].add_argument(
        "--separator", metavar="TEXT", help="what stands between path and label (default: blanks or tabs)"
    )
    return options


def main(argv: list[str]) -> int:
    """Run the script; returns the exit code. Raises UserError for what it is given and cannot use."""
    options = parser().parse_args(argv)
    _check_folder("--videos", options.videos)
    if options.out.exists():
        _check_folder("--out", options.out)
    replacement = None
    if options.layout == "kinetics":
        replacement = options.replacement
        if replacement is not None:
            _check_folder("--replacement", replacement)
        elif (options.videos / "replacement").is_dir():
            replacement = options.videos / "replacement"

    from matching import Videos, match
    from rich.console import Console
    from usable import show, usable_of, write_all

    with Console(stderr=True).status("Looking for videos"):
        videos = Videos(options.videos, replacement)
        replacements = Videos(replacement) if replacement else None
    listing = _read(options)
    if not listing.videos:
        raise UserError("the annotations must list at least one video")
    matches, problems = match(listing, videos, replacements)
    if not matches:
        raise UserError(
            f"--videos ({videos.root}) must hold the videos of the lists: "
            f"none of {len(listing.videos)} is there, such as {listing.videos[0].name}"
        )
    with writing(options.out, WRITABLE):
        check_writable(options.out / "problems.csv")
    usable, unreadable = usable_of(matches, replacements, options)
    with writing(options.out, WRITABLE):
        write_all(listing, usable, problems + unreadable, options.out)
    show(listing, usable, problems + unreadable, options.out)
    return 0


def _read(options: Namespace) -> "Listing":
    import annotations as published
    from listing import ClassNames

    if options.layout in ("ucf101", "hmdb51", "ssv2", "diving48"):
        _check_folder("--annotations", options.annotations)
        classes = None
    else:
        classes = ClassNames.read(options.classes) if options.classes else None
    match options.layout:
        case "kinetics":
            folder = options.videos / "annotations"
            files = options.annotations or sorted(folder.glob("*.csv"))
            if not files:
                raise UserError(f"--annotations must name the official CSVs: there is no *.csv in {folder}")
            return published.kinetics(files, classes, untrimmed=options.untrimmed)
        case "folders":
            return published.class_folders(options.videos, classes, options.split)
        case "lists":
            given: dict[Split, Path | None] = {split: getattr(options, split) for split in SPLITS}
            lists = {split: file for split, file in given.items() if file is not None}
            if not lists:
                raise UserError("--train, --val or --test must name a list")
            if options.separator == "":
                raise UserError("--separator () must not be empty")
            return published.path_label_lists(lists, classes, options.separator)
        case "ucf101":
            return published.ucf101(options.annotations, options.fold)
        case "hmdb51":
            return published.hmdb51(options.annotations, options.fold)
        case "ssv2":
            return published.something_something(options.annotations)
        case _:
            return published.diving48(options.annotations)


def _check_folder(option: str, path: Path) -> None:
    if not path.is_dir():
        raise UserError(f"{option} ({path}) must be a folder{' that exists' * (not path.exists())}")


if __name__ == "__main__":
    run(main)
