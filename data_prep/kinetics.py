"""Published annotations and a folder of videos -> a manifest for each split, class names, what is wrong."""

import argparse
import csv
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TextIO

from annotations import (
    ClassNames,
    Listed,
    Listing,
    Split,
    class_folders,
    diving48,
    hmdb51,
    kinetics,
    path_label_lists,
    something_something,
    spaced,
    split_of_folder,
    ucf101,
)
from script import positive, printable, seconds
from script import run as run_script

from videonorm.errors import UserError

if TYPE_CHECKING:
    from av.container import InputContainer
    from rich.console import Console
    from workers import Failed

DESCRIPTION = """\
Turn the published annotations of a data set, and the folder with its videos, into manifests for videonorm:
train.csv, val.csv and test.csv of the videos that can be used, classes.txt with the class names in the
published order, and problems.csv with what is missing, duplicate, unreadable, unlabelled or not listed.
"""
EXAMPLES = """\
examples:
  python data_prep/kinetics.py kinetics --videos k400 --out data/kinetics400
  python data_prep/kinetics.py kinetics --videos clips --annotations train.csv validate.csv --out data/k700
  python data_prep/kinetics.py folders --videos k400/videos --out data/kinetics400
  python data_prep/kinetics.py lists --videos k400 --train train.csv --val val.csv --out data/k400
  python data_prep/kinetics.py ucf101 --videos UCF-101 --annotations ucfTrainTestlist --out data/ucf101
  python data_prep/kinetics.py hmdb51 --videos hmdb51 --annotations splits --fold 2 --out data/hmdb51_2
  python data_prep/kinetics.py ssv2 --videos 20bn-something-something-v2 --annotations labels --out data/ssv2
  python data_prep/kinetics.py diving48 --videos rgb --annotations . --out data/diving48
"""
COLUMNS = (
    *("path", "label", "class_name", "split", "start_seconds", "end_seconds"),
    *("duration_seconds", "fps", "frames", "width", "height", "codec", "status"),
)

PICTURES_TRIED = 100  # until one can be decoded


class Header(NamedTuple):
    """What a file says of its best video stream; None where it does not."""

    duration_seconds: float | None = None
    fps: float | None = None  # average
    frames: int | None = None
    width: int | None = None  # pixels of the upright picture
    height: int | None = None
    codec: str | None = None


class Problem(NamedTuple):
    """A row of problems.csv; its video is in no manifest, unless it is a duplicate in two splits."""

    status: str  # missing, duplicate, unreadable, unlabelled or unlisted
    split: str
    path: str  # or the name as listed, where there is no file
    label: int | str
    class_name: str
    where: str  # the list and line
    reason: str


class Row(NamedTuple):
    """A listed video and the files that may serve for it, the best first."""

    listed: Listed
    paths: list[str]  # absolute


class Usable(NamedTuple):
    """A row of a manifest."""

    listed: Listed
    path: str  # absolute
    header: Header
    status: str  # ok, replacement (from the replacement set); or either and "not probed"


class Videos:
    """The video files below a folder, found by name whatever their suffix is."""

    def __init__(self, root: Path, skip: Path | None = None) -> None:
        from videonorm.data.manifest import VIDEO_SUFFIXES

        self.root = root.absolute()
        self._suffixes = VIDEO_SUFFIXES
        self.paths = sorted(self._walk(skip))  # relative to the root
        self._by_path: dict[str, list[str]] = defaultdict(list)
        self._by_end: dict[str, list[str]] = defaultdict(list)  # by file name, and by folder and file name
        for path in self.paths:
            key = self._key(path)
            self._by_path[key].append(path)
            parts = key.split(os.sep)
            self._by_end[parts[-1]].append(path)
            if len(parts) > 1:
                self._by_end[os.sep.join(parts[-2:])].append(path)

    def _walk(self, skip: Path | None) -> Iterator[str]:
        seen = set()
        for folder, folders, names in os.walk(self.root, followlinks=True):
            real = os.path.realpath(folder)
            if real in seen or (skip is not None and real == os.path.realpath(skip)):
                folders.clear()  # a link back up, or the replacement set
                continue
            seen.add(real)
            folders[:] = sorted(name for name in folders if name[0] != ".")
            for name in names:
                # ._x.mp4 is what macOS puts into tar files, and no video
                if name[0] != "." and name.lower().endswith(self._suffixes):
                    yield os.path.relpath(os.path.join(folder, name), self.root)

    def _key(self, path: str) -> str:
        stem, suffix = os.path.splitext(path)
        return spaced(stem if suffix.lower() in self._suffixes else path)

    def find(self, name: str, split: Split) -> list[str]:
        """Absolute paths of the files that can be meant, the best first."""
        if os.path.isabs(name):
            if name.startswith(str(self.root) + os.sep):
                name = os.path.relpath(name, self.root)
            elif os.path.lexists(name):
                return [name]  # or the list was made on another machine
        name = os.path.normpath(name)
        key = self._key(name)
        end = os.sep.join(key.split(os.sep)[-2:])
        if os.sep not in name:
            found = self._by_end.get(key, [])
        elif key in self._by_path:
            found = self._by_path[key]
        else:  # below other folders, but the training list's class/1.mp4 is not val/class/1.mp4; or in none
            found = [path for path in self._by_end.get(end, []) if self._split_of(path) in (None, split)]
            found = found or self._by_path.get(os.path.basename(key), [])
        best = sorted(found, key=lambda path: (path != name, self._split_of(path) != split, path))
        return [os.path.join(self.root, path) for path in best]

    def _split_of(self, path: str) -> Split | None:
        return next(filter(None, map(split_of_folder, path.split(os.sep)[:-1])), None)


def read_header(path: str) -> Header:
    """Read a video's header, and decode one picture, which alone tells how it is rotated.

    Raises:
        BadVideoError: no video, or a file that ends before what its header lists.
    """
    import av

    from videonorm.data.decoding.container import DECODER_ERRORS, open_container, video_stream
    from videonorm.data.decoding.location import BadVideoError

    with open_container(path) as container:
        try:
            stream = video_stream(path, container)
            if "mp4" in container.format.name:  # lists every frame's place in the file, there or not
                size = os.path.getsize(path)
                cut = sum(entry.pos + entry.size > size for entry in stream.index_entries)
                if cut:
                    total = len(stream.index_entries)
                    raise BadVideoError(path, f"is truncated: it ends before {cut} of its {total} frames")
            if stream.duration and stream.time_base:
                duration = float(stream.duration * stream.time_base)
            else:
                duration = (container.duration or 0) / av.time_base
            rate = stream.average_rate or stream.guessed_rate
            context = stream.codec_context
            if not context.width or not context.height:
                raise BadVideoError(path, "has no picture size in its header")
            size = context.width, context.height
            frames, codec = stream.frames or None, context.codec.canonical_name
            upright = size[::-1] if _is_turned(path, container) else size
            return Header(duration or None, float(rate) if rate else None, frames, *upright, codec)
        except DECODER_ERRORS as error:
            if isinstance(error, BadVideoError):
                raise
            raise BadVideoError(path, f"cannot be read: {error}") from None


def _is_turned(path: str, container: "InputContainer") -> bool:
    """Whether the first picture that can be decoded is to be shown turned by 90 degrees."""
    from videonorm.data.decoding.container import decode_all

    pictures = islice(decode_all(path, container), PICTURES_TRIED)
    return any(picture.rotation % 180 == 90 for picture in islice(filter(None, pictures), 1))


def match(listing: Listing, videos: Videos, replacement: Videos | None) -> tuple[list[Row], list[Problem]]:
    """Find the file of each listed video; what is missing, unlabelled or duplicate is a problem."""
    labelled = {video.split for video in listing.videos if video.label is not None}
    rows: list[Row] = []
    problems: list[Problem] = []
    seen: dict[tuple[str, float | None, float | None], dict[Split, Listed]] = defaultdict(dict)
    used: set[str] = set()
    copies: dict[str, str] = {}  # a further file of the same name -> the one used

    def note(status: str, video: Listed, reason: str) -> None:
        problems.append(_problem(status, video, video.name, reason, listing.class_names))

    for video in listing.videos:
        found = videos.find(video.name, video.split)
        better = replacement.find(os.path.basename(video.name), video.split) if replacement else []
        used.update(found[:1])
        copies.update((path, found[0]) for path in found[1:])
        if video.label is None and video.split in labelled:
            note("unlabelled", video, "has no label, as others of its split have")
            continue
        # A bare name is the publisher's name of the video; a path may be one of several links to a file.
        file = os.path.realpath(found[0]) if found and os.sep in video.name else video.name
        listed = seen[file, video.start_seconds, video.end_seconds]
        if first := listed.get(video.split):
            another = "" if first.label == video.label else ", with another label"
            note("duplicate", video, f"is the same video as in {first.where}{another}")
            continue
        if listed:
            first = next(iter(listed.values()))
            note("duplicate", video, f"is in split {first.split} too, in {first.where}")
        listed[video.split] = video
        paths = [*better[:1], *found[:1]]
        if not paths:
            note("missing", video, "has no file")
        elif any("\r" in path for path in paths):
            note("unreadable", video, "has a carriage return in its path, which a manifest cannot hold")
        else:
            rows.append(Row(video, paths))
    for relative in videos.paths:
        path = os.path.join(videos.root, relative)
        if path in used:
            continue
        if path not in copies:
            problems.append(Problem("unlisted", "", path, "", "", "", "is in no list"))
        elif os.path.realpath(path) != os.path.realpath(copies[path]):  # a link is no second copy
            reason = f"has the same name as {copies[path]}, which is used"
            problems.append(Problem("duplicate", "", path, "", "", "", reason))
    return rows, problems


def _problem(status: str, video: Listed, path: str, reason: str, class_names: list[str] | None) -> Problem:
    return Problem(status, video.split, path, *_label_and_name(video, class_names), video.where, reason)


def probe_headers(
    rows: list[Row], jobs: int, time_limit: float, console: "Console"
) -> dict[str, Header | str]:
    """The header of each file, or the reason why it cannot be used."""
    from rich.progress import track
    from workers import Failed, run_all

    paths = list(dict.fromkeys(path for row in rows for path in row.paths))
    results = run_all(_header_or_reason, paths, jobs=jobs, time_limit=time_limit)
    return {
        paths[number]: result.reason if isinstance(result, Failed) else result
        for number, result in track(results, "Headers", len(paths), console=console, transient=True)
    }


def _header_or_reason(path: str) -> "Header | Failed":
    from workers import Failed

    from videonorm.data.decoding.location import BadVideoError

    try:
        return read_header(path)
    except BadVideoError as error:
        return Failed(error.reason)


def build(
    listing: Listing,
    videos: Videos,
    replacement: Videos | None,
    out: Path,
    *,
    jobs: int,
    time_limit: float,
    probe: bool,
    console: "Console",
) -> tuple[list[Usable], list[Problem]]:
    """Write train.csv, val.csv, test.csv (those with videos), classes.txt and problems.csv into ``out``.

    Raises:
        UserError: none of the listed videos has a file, or the folder cannot be written.
    """
    if not listing.videos:
        raise UserError("the annotations must list at least one video")
    rows, problems = match(listing, videos, replacement)
    if not rows:
        raise UserError(
            f"--videos ({videos.root}) must hold the videos of the lists: "
            f"none of {len(listing.videos)} is there, such as {listing.videos[0].name}"
        )
    headers = probe_headers(rows, jobs, time_limit, console) if probe else {}
    usable: list[Usable] = []
    for video, paths in rows:
        # A broken replacement leaves the file itself.
        path = next((path for path in paths if isinstance(headers.get(path), Header)), paths[0])
        header = headers.get(path, Header())
        reason = header if isinstance(header, str) else _too_short(video, header)
        if reason or isinstance(header, str):
            problems.append(_problem("unreadable", video, path, reason, listing.class_names))
            continue
        replaced = replacement is not None and path.startswith(str(replacement.root) + os.sep)
        status = " ".join(["replacement"] * replaced + ["not probed"] * (not probe)) or "ok"
        usable.append(Usable(video, path, header, status))
    try:
        _write(listing, usable, problems, out)
    except OSError as error:
        raise UserError(f"--out ({out}) must be a folder that can be written: {error.strerror}") from None
    return usable, problems


def _too_short(video: Listed, header: Header) -> str:
    start, length = video.start_seconds, header.duration_seconds
    if start is None or length is None or length > start:
        return ""
    return f"ends at {length:g} s, before start_seconds ({start:g})"


def _write(listing: Listing, usable: list[Usable], problems: list[Problem], out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    files: dict[Split, list[Usable]] = defaultdict(list)
    for video in usable:
        files[video.listed.split].append(video)
    if listing.one_held_out and "test" in files:
        files["val"] = files["test"]
    for split, rows in files.items():
        _write_csv(
            out / f"{split}.csv", COLUMNS, (_cells(row, split, out, listing.class_names) for row in rows)
        )
    if listing.class_names is not None:
        text = "".join(f"{name}\n" for name in listing.class_names)
        _replace(out / "classes.txt", lambda file: file.write(text))
    # Unlike a line feed, a bare carriage return would not be quoted, and end the row.
    shown = (problem._replace(path=problem.path.replace("\r", "\\r")) for problem in problems)
    _write_csv(out / "problems.csv", Problem._fields, shown)


def _cells(video: Usable, split: Split, out: Path, class_names: list[str] | None) -> tuple[object, ...]:
    path = video.path
    below = str(out.absolute()) + os.sep
    if path.startswith(below):  # a folder that holds manifest and videos can be moved as one
        path = path.removeprefix(below)
        path = path if path == path.lstrip() else f"./{path}"
    label, name = _label_and_name(video.listed, class_names)
    numbers = (video.listed.start_seconds, video.listed.end_seconds, *video.header)
    cells = ("" if x is None else round(x, 4) if isinstance(x, float) else x for x in numbers)
    return (path, label, name, split, *cells, video.status)


def _label_and_name(video: Listed, class_names: list[str] | None) -> tuple[int | str, str]:
    if video.label is None:
        return "", ""
    return video.label, class_names[video.label] if class_names is not None else ""


def _write_csv(path: Path, columns: Sequence[str], rows: Iterable[Iterable[object]]) -> None:
    def write(file: TextIO) -> None:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)

    _replace(path, write)


def _replace(path: Path, write: Callable[[TextIO], object]) -> None:
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    with open(unfinished, "w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        write(file)
    os.replace(unfinished, path)


def show(
    listing: Listing,
    usable: list[Usable],
    problems: list[Problem],
    videos: Videos,
    out: Path,
    console: "Console",
) -> None:
    """Print a table of the splits, and what needs the reader's attention."""
    from rich.table import Table
    from rich.text import Text

    table = Table(header_style="bold", border_style="dim")
    table.add_column("split")
    kinds = ("missing", "unreadable", "duplicate", "unlabelled")
    for heading in ("listed", "usable", "replaced", *kinds, "hours"):
        table.add_column(heading, justify="right")
    counts = Counter((problem.split, problem.status) for problem in problems)
    splits: list[Split] = ["train", "val", "test"]
    for split in splits:
        rows = [video for video in usable if video.listed.split == split]
        listed = sum(video.split == split for video in listing.videos)
        if listed:
            replaced = sum(video.status.startswith("replacement") for video in rows)
            hours = sum(video.header.duration_seconds or 0.0 for video in rows) / 3600
            cells = (listed, len(rows), replaced, *(counts[split, kind] for kind in kinds))
            table.add_row(split, *(f"{cell:,}" for cell in cells), f"{hours:,.1f}" if hours else "-")
    console.print(table)
    lines = []
    if listing.class_names is not None:
        lines.append(f"classes, in the published order: {len(listing.class_names)}, in {out / 'classes.txt'}")
        if empty := set(range(len(listing.class_names))) - {video.listed.label for video in usable}:
            first = listing.class_names[min(empty)]
            lines.append(f"classes without a video that can be used: {len(empty)}, the first is {first}")
    if listing.one_held_out:
        lines.append("val.csv and test.csv hold the same videos: the publisher has one held-out list")
    for split in splits:
        if any(video.listed.split == split and video.listed.label is None for video in usable):
            lines.append(f"{split}.csv has no labels, as published: nothing can be trained or scored on it")
    if copies := counts["", "duplicate"]:
        lines.append(f"files with the name of another, which is used: {copies:,}")
    if unlisted := counts["", "unlisted"]:
        lines.append(f"files that are in no list: {unlisted:,}")
    if problems:
        lines.append(f"problems, each with its reason: {len(problems):,}, in {out / 'problems.csv'}")
    for line in lines:
        console.print(Text(printable(line)), soft_wrap=True)


def parser() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(
        prog="kinetics.py",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--videos", type=Path, required=True, metavar="DIR", help="where the videos are")
    common.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write to")
    common.add_argument(
        "--no-probe",
        action="store_true",
        help="open no video: what only files tell stays empty",
    )
    common.add_argument(
        "--jobs",
        type=positive,
        default=os.cpu_count() or 1,
        metavar="N",
        help="videos read at a time (default: as many as there are cores)",
    )
    common.add_argument(
        "--time-limit", type=seconds, default=60.0, metavar="S", help="seconds for a video (default: 60)"
    )
    classes = argparse.ArgumentParser(add_help=False)
    classes.add_argument(
        "--classes",
        type=Path,
        metavar="FILE",
        help="class names in their order: one a line (MMAction2's label_map.txt), or JSON of name: label",
    )
    annotations = argparse.ArgumentParser(add_help=False)
    annotations.add_argument(
        "--annotations", type=Path, required=True, metavar="DIR", help="folder with the published files"
    )
    fold = argparse.ArgumentParser(add_help=False)
    fold.add_argument(
        "--fold", type=int, choices=(1, 2, 3), default=1, help="which of its three splits (default: 1)"
    )

    layouts = options.add_subparsers(dest="layout", required=True, metavar="LAYOUT")

    def add(name: str, text: str, *parents: argparse.ArgumentParser) -> argparse.ArgumentParser:
        return layouts.add_parser(
            name, help=text, description=f"{text}.", parents=[common, *parents], allow_abbrev=False
        )

    layout = add("kinetics", "official CSVs of K400, K600, K700-2020; clips ID_START_END anywhere", classes)
    layout.add_argument(
        "--annotations",
        type=Path,
        nargs="+",
        metavar="FILE",
        help="the official CSVs (default: VIDEOS/annotations/*.csv, as cvdfoundation has them)",
    )
    layout.add_argument(
        "--replacement",
        type=Path,
        metavar="DIR",
        help="clips to use in place of those of the same name (default: VIDEOS/replacement, if it is there)",
    )
    layout.add_argument(
        "--untrimmed",
        action="store_true",
        help="the files are whole videos called ID; start and end go to the manifest",
    )
    layout = add("folders", "a folder for each class, in folders train, val, test or in none", classes)
    layout.add_argument(
        "--split",
        choices=("train", "val", "test"),
        default="train",
        help="what the videos are where there are no folders of splits (default: train)",
    )
    layout = add("lists", "MMAction2's and PySlowFast's lists of 'path label'", classes)
    for split in ("train", "val", "test"):
        layout.add_argument(f"--{split}", type=Path, metavar="FILE", help=f"the {split} list")
    layout.add_argument(
        "--separator", metavar="TEXT", help="what stands between path and label (default: blanks or tabs)"
    )
    add("ucf101", "UCF101: trainlist01.txt, testlist01.txt, classInd.txt", annotations, fold)
    add("hmdb51", "HMDB51: CLASS_test_split1.txt", annotations, fold)
    add("ssv2", "Something-Something v2: labels.json, {train,validation,test}.json", annotations)
    add(
        "diving48",
        "Diving48: Diving48_V2_{train,test}.json, Diving48_vocab.json",
        annotations,
    )
    return options


def main(argv: list[str]) -> int:
    """Run the script; returns the exit code.

    Raises:
        UserError: an option, a list or a folder cannot be used.
    """
    options = parser().parse_args(argv)
    from rich.console import Console

    _check_folder("--videos", options.videos)
    if options.out.exists():
        _check_folder("--out", options.out)
    messages = Console(stderr=True, highlight=False)
    skip = None
    if options.layout == "kinetics":
        if options.replacement is not None:
            _check_folder("--replacement", options.replacement)
        elif (options.videos / "replacement").is_dir():
            options.replacement = options.videos / "replacement"
        skip = options.replacement
    with messages.status("Looking for videos"):
        videos = Videos(options.videos, skip)
        replacement = Videos(skip) if skip else None
    listing = _read(options, videos)
    usable, problems = build(
        listing,
        videos,
        replacement,
        options.out,
        jobs=options.jobs,
        time_limit=options.time_limit,
        probe=not options.no_probe,
        console=messages,
    )
    console = Console(highlight=False)
    console = console if console.is_terminal else Console(highlight=False, width=120)
    show(listing, usable, problems, videos, options.out, console)
    return 0


def _read(options: argparse.Namespace, videos: Videos) -> Listing:
    classes = ClassNames.read(options.classes) if getattr(options, "classes", None) else None
    if options.layout in ("ucf101", "hmdb51", "ssv2", "diving48"):
        _check_folder("--annotations", options.annotations)
    match options.layout:
        case "kinetics":
            folder = options.videos / "annotations"
            files = options.annotations or sorted(folder.glob("*.csv"))
            if not files:
                raise UserError(f"--annotations must name the official CSVs: there is no *.csv in {folder}")
            return kinetics(files, classes, untrimmed=options.untrimmed)
        case "folders":
            return class_folders(options.videos, videos.paths, classes, options.split)
        case "lists":
            lists: dict[Split, Path | None] = {
                "train": options.train,
                "val": options.val,
                "test": options.test,
            }
            given = {split: file for split, file in lists.items() if file is not None}
            if not given:
                raise UserError("--train, --val or --test must name a list")
            if options.separator == "":
                raise UserError("--separator () must not be empty")
            return path_label_lists(given, classes, options.separator)
        case "ucf101":
            return ucf101(options.annotations, options.fold)
        case "hmdb51":
            return hmdb51(options.annotations, options.fold)
        case "ssv2":
            return something_something(options.annotations)
        case _:
            return diving48(options.annotations)


def _check_folder(option: str, path: Path) -> None:
    if not path.is_dir():
        raise UserError(f"{option} ({path}) must be a folder{' that exists' * (not path.exists())}")


if __name__ == "__main__":
    run_script(main)
