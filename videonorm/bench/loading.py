"""What the loading benchmarks share: cases, and rows made of the answers of several rounds."""

from collections.abc import Iterable, Sequence
from statistics import median

from videonorm.bench.records import Row
from videonorm.bench.trial import Plan

Clip = tuple[int, int]  # num_frames, frame_stride

CASE_COLUMNS = {
    "quick": "1 if made with --quick: not for publication",
    "case": "T x stride @ short side",
    "files": "how the videos are stored: gop250 as downloaded, gop12_fast transcoded, packed as JPEG",
    "num_frames": "T, frames of a clip",
    "frame_stride": "frames of the video from one to the next",
    "short_side": "pixels of the frames' shorter side; the decode limits do not scale",
}


def new_case(clip: Clip, short_side: int | None, files: str) -> Row:
    name = f"{clip[0]}x{clip[1]}"
    return {
        "case": name if short_side is None else f"{name}@{short_side}",
        "files": files,
        "num_frames": clip[0],
        "frame_stride": clip[1],
        "short_side": short_side,
    }


def crop_size(short_side: int) -> int:
    """The crop that goes with a short side: 112 of 128, 224 of 256."""
    return short_side * 7 // 8


def medians(plans: Sequence[Plan], answers: Iterable[Row]) -> list[Row]:
    """A row for each contender and case that answered: its error, or the medians of its figures."""
    taken: dict[tuple[str, int], list[Row]] = {}
    for answer in answers:
        taken.setdefault((answer["loader"], answer["case"]), []).append(answer)
    rows = []
    for plan in plans:
        for number, case in enumerate(plan.cases):
            found = taken.get((plan.loader, number), [])
            if not found:
                continue  # the run was stopped before
            row = case | {"loader": plan.loader, "rounds": len(found)}
            error = next((answer["error"] for answer in found if answer.get("error")), None)
            if error:
                rows.append(row | {"error": error})
                continue
            figures = [name for name in found[0] if name not in ("loader", "case")]
            rows.append(row | {name: median(answer[name] for answer in found) for name in figures})
    return rows


def add_ratio(rows: Sequence[Row], column: str, figure: str, loader: str, same: Sequence[str]) -> None:
    """Enter the figure of each row over that of a loader in the row that is alike in the columns `same`."""
    known = {tuple(row[name] for name in same): row.get(figure) for row in rows if row["loader"] == loader}
    for row in rows:
        base, own = known.get(tuple(row[name] for name in same)), row.get(figure)
        if base and own:
            row[column] = own / base
