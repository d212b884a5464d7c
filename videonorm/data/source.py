"""Where videos come from: files that a user has (``Manifests``), or generated ones (``MotionClips``)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from videonorm.data.manifest import Manifest, read_manifest
from videonorm.data.splits import Split


class Source(Protocol):
    """Videos with labels for up to three splits."""

    @property
    def class_names(self) -> list[str] | None:
        """Names by label, where they are known."""

    def settle_class_names(self, class_names: Sequence[str]) -> None:
        """Label videos as a network does that was trained before: by the place of their class's name here.

        Raises:
            UserError, here or from ``manifest``: a class that the network does not know.
        """

    def prepare(self) -> None:
        """Make files that are missing. Called once on each machine before use."""

    def manifest(self, split: Split) -> Manifest | None:
        """The videos of a split, ``None`` where the source has no such split."""

    def best_possible_top1(
        self, num_frames: int, frame_stride: int | None, frames_per_second: float | None = None
    ) -> float | None:
        """The accuracy that no model can pass on single clips, as a fraction, where that is known.

        Args:
            frame_stride, frames_per_second: one of them, see ``Sampling``.
        """


class Manifests:
    """A manifest for each split; see ``read_manifest`` for what it can be.

    The training manifest, or the first given without one, settles the class names and their order for all,
    unless a network that was trained before has (``settle_class_names``).
    Where labels are bare numbers, it is the model's number of classes that bounds them: a class may have no
    training video.

    Args:
        train, val, test: file or folder; one CSV with the column ``split``, or one folder with the folders
            train, val, test, may serve for several. That for test may have no labels: it can be predicted,
            not scored.
        root: folder or URL that relative paths start from; by default the folder of each manifest.
        class_names: names by label, where the manifests do not settle them.
    """

    def __init__(
        self,
        train: str | Path | None = None,
        val: str | Path | None = None,
        test: str | Path | None = None,
        root: str | Path | None = None,
        class_names: Sequence[str] | None = None,
    ) -> None:
        self._paths: dict[Split, str | Path | None] = {"train": train, "val": val, "test": test}
        self._root = root
        self._class_names = class_names
        self._settled: list[str] | None = None
        self._manifests: dict[Split, Manifest | None] = {}

    @property
    def class_names(self) -> list[str] | None:
        if self._settled is not None:
            return self._settled
        first = self.manifest(self._first)
        return first.class_names if first else None

    @property
    def _first(self) -> Split:
        return next((split for split, path in self._paths.items() if path is not None), "train")

    def settle_class_names(self, class_names: Sequence[str]) -> None:
        self._settled = list(class_names)
        self._manifests.clear()

    def prepare(self) -> None:
        """Nothing to make: the files are the user's."""

    def manifest(self, split: Split) -> Manifest | None:
        path, names = self._paths[split], self._settled or self._class_names
        if path is not None and split not in self._manifests:
            self._manifests[split] = read_manifest(
                path,
                self._root,
                split=split,
                class_names=names if split == self._first else self.class_names,
                labels_required=split != "test",
            )
        return self._manifests.get(split)

    def best_possible_top1(
        self, num_frames: int, frame_stride: int | None, frames_per_second: float | None = None
    ) -> float | None:
        return None
