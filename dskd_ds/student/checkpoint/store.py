"""Saves and loads checkpoints that are complete or ignored, in a layout of their own.

Each rank writes what it holds of weights and moments (slice_files.py) and its small states
(run_state.py). A checkpoint is complete when it has a manifest, which rank 0 writes last and by
rename, with the size and hash of every file. Nothing is unpickled; still, no file is opened before
its hash has been compared, and no checkpoint with a file that the manifest does not list is loaded.
The ranks that load may be other ranks than those that saved, under another ZeRO stage.
"""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from dskd_ds.files.manifest import refuse_unlisted_files
from dskd_ds.observe.best_checkpoint import HeldoutScore
from dskd_ds.spec import RunSpec
from dskd_ds.student.checkpoint.dictionaries import DICTIONARIES, refuse_other_dictionaries
from dskd_ds.student.checkpoint.files import (
    Manifest,
    all_gather_problem,
    broadcast_manifest,
    file_prefix,
)
from dskd_ds.student.checkpoint.folders import (
    LAYOUT,
    abandon_after,
    checkpoint_dir,
    complete_tags,
    oldest,
    refuse_damaged,
    refuse_other_layout,
    refuse_other_student,
    remove_all,
    remove_incomplete,
    set_aside,
    tag_of,
)
from dskd_ds.student.checkpoint.held_state import HeldState
from dskd_ds.student.checkpoint.saving import RankContent, Saving
from dskd_ds.student.checkpoint.slice_files import SUFFIX, SavedSlices
from dskd_ds.student.checkpoint.zero_stages import held_state
from dskd_ds.student.collectives import ask_rank_0, run_on_rank_0
from dskd_ds.student.deepspeed_engine import Engine
from dskd_ds.student.run_state import Stateful


@dataclass(frozen=True)
class Progress:
    """How far a run is."""

    step: int = 0
    """Optimiser steps done, from the start of the run."""
    tokens: int = 0
    """Tokens that all ranks have read, from the start of the run."""


class Checkpoints:
    """The checkpoints of one run. Its public methods are collective calls, unless they say no."""

    def __init__(
        self,
        engine: Engine,
        spec: RunSpec,
        init_fingerprint: str,
        states: Mapping[str, Stateful],
        dictionaries: Mapping[str, str] | None = None,
    ) -> None:
        """init_fingerprint: of the model that training started from. states: by name.

        dictionaries: folder -> digest of those that the run opens; None: it opens none.
        """
        self._engine, self._spec = engine, spec
        self._init_fingerprint = init_fingerprint
        self._dictionaries = dict(dictionaries or {})
        self._states = dict(states)
        self._of_weights: set[str] = set()
        self._folder = checkpoint_dir(spec)
        self._saving: Saving | None = None
        self._deletes_old = True
        self._removing: threading.Thread | None = None

    def keep_state(self, name: str, state: Stateful, goes_with_weights: bool = False) -> None:
        """Save and load a further state. Not collective; call it on all ranks before `resume`.

        goes_with_weights: a rollback takes it back too.
        """
        self._states[name] = state
        if goes_with_weights:
            self._of_weights.add(name)

    def save(
        self,
        progress: Progress,
        in_background: bool = False,
        heldout: HeldoutScore | None = None,
        deletes_old: bool = True,
    ) -> None:
        """Save a checkpoint, unless a complete one of this step exists.

        in_background: only copy what this rank writes, and let a thread write it.
        `complete_save` must be called then; until it is, the checkpoint is incomplete.
        heldout: of the present weights, if it was measured.
        deletes_old: delete all but the newest `[checkpoint] keep` checkpoints and, with
        `keep_best`, the best, when this one is complete.
        Raises SaveError on all ranks if one of them cannot write; the earlier checkpoints stay.
        """
        assert self._saving is None, "the save before must be completed first"
        self._wait_for_removal()
        tag = tag_of(progress.step)
        # Rank 0 decides for all ranks, because another node may see new files of a shared folder
        # late.
        if tag in ask_rank_0(complete_tags, self._spec):
            return
        held = held_state(self._engine)
        self._saving = Saving(self._folder / tag, self._facts(progress, held, heldout))
        self._deletes_old = deletes_old
        states = {name: state.state_dict() for name, state in self._states.items()}
        if in_background:
            copies = [piece.to_host() for piece in held.own_slices()]
            self._saving.write_in_background(RankContent(copies, states))
        else:
            self._saving.write(RankContent(held.own_slices(), states))
            self.complete_save()

    @property
    def is_saving(self) -> bool:
        """Whether a save in the background is to be completed; the same on all ranks."""
        return self._saving is not None

    def is_save_written(self) -> bool:
        """Whether this rank's part of a save in the background is written. Not collective."""
        return self._saving is not None and self._saving.is_written

    def complete_save(self) -> None:
        """Wait for a save in the background, if there is one, and make it complete.

        Then old checkpoints are deleted; after a save in the background, by a thread as well.
        Raises SaveError on all ranks if one of them could not write; the earlier checkpoints stay.
        """
        saving, self._saving = self._saving, None
        if saving:
            saving.complete()
            if self._deletes_old:
                run_on_rank_0(self._remove_oldest)
            if not saving.is_in_background:
                self._wait_for_removal()

    def _remove_oldest(self) -> None:
        """Start to delete what is not kept: of 1.2 GB the file system takes 0.3 s to let go.

        Only prints a warning if the old ones cannot be listed: the new checkpoint is complete.
        """
        try:
            old = oldest(self._spec)
        except OSError as error:
            print(f"{self._folder}: old checkpoints cannot be listed: {error}", file=sys.stderr)
            return
        if old:
            self._removing = threading.Thread(target=remove_all, args=[old])
            self._removing.start()

    def _wait_for_removal(self) -> None:
        """Wait until this rank has deleted what it started to delete. Not collective."""
        if self._removing is not None:
            self._removing.join()

    def _facts(
        self, progress: Progress, held: HeldState, heldout: HeldoutScore | None
    ) -> dict[str, object]:
        """Return what the manifest says about the checkpoint besides its files."""
        parameter = next(iter(self._engine.module.parameters()))
        return {
            "layout": LAYOUT,
            "step": progress.step,
            "tokens": progress.tokens,
            "adam_step": held.adam_step(),
            "num_students": self._spec.topology.num_students,
            "init": self._init_fingerprint,
            "dtype": str(parameter.dtype).removeprefix("torch."),
            **({DICTIONARIES: self._dictionaries} if self._dictionaries else {}),
            **(heldout.as_facts() if heldout else {}),
        }

    def resume(self) -> Progress:
        """Load the newest checkpoint whose files are whole, if any, with all states.

        Returns the steps and tokens done; none for a new run. A damaged checkpoint is passed over
        with a warning on stderr. Raises InputError if all checkpoints are damaged, if one has a
        file that its manifest does not list, or if the newest whole one is of another layout,
        student or sense dictionary.
        """
        self._wait_for_removal()
        found = self._newest_whole()
        run_on_rank_0(remove_incomplete, self._spec)
        if found is None:
            return Progress()
        tag, manifest = found
        self._load_weights(tag, manifest)
        self._load_states(tag, manifest, names=self._states.keys())
        facts = manifest["facts"]
        return Progress(int(facts["step"]), int(facts["tokens"]))

    def restore_weights(self, before: int) -> Progress | None:
        """Load weights and moments of the newest whole checkpoint, and what goes with the weights.

        before: only checkpoints with fewer steps than this are looked at. Those of more steps are
        renamed: their weights were given up, so nothing may go back to them.
        Returns when it was saved, or None if there is none. Raises InputError as `resume` does.
        """
        self._wait_for_removal()
        found = self._newest_whole(before)
        if found is None:
            return None
        tag, manifest = found
        self._load_weights(tag, manifest)
        self._load_states(tag, manifest, names=self._of_weights)
        run_on_rank_0(abandon_after, self._spec, tag)
        return Progress(int(manifest["facts"]["step"]), int(manifest["facts"]["tokens"]))

    def _newest_whole(self, before: int | None = None) -> tuple[str, Manifest] | None:
        """Return folder name and manifest of the newest checkpoint whose files are whole.

        before: only checkpoints with fewer steps than this are looked at; None: all.
        """
        damaged: dict[str, str] = {}  # the folder name of each -> its problem
        tags: list[str] = ask_rank_0(complete_tags, self._spec)
        if before is not None:
            tags = [tag for tag in tags if tag < tag_of(before)]
        for tag in reversed(tags):
            folder = self._folder / tag
            manifest = broadcast_manifest(folder)
            facts, files, problem = manifest["facts"], manifest["files"], manifest["problem"]
            if problem is None:
                run_on_rank_0(refuse_other_layout, folder, facts)
                run_on_rank_0(refuse_other_student, folder, facts, self._init_fingerprint)
                run_on_rank_0(refuse_other_dictionaries, folder, facts, self._dictionaries)
                run_on_rank_0(refuse_unlisted_files, folder, files)
                problem = all_gather_problem(folder, files)
            if problem is None:
                run_on_rank_0(set_aside, self._folder, damaged, tag)
                return tag, manifest
            damaged[tag] = problem
        run_on_rank_0(refuse_damaged, self._folder, damaged)
        return None

    def _load_weights(self, tag: str, manifest: Manifest) -> None:
        """Load weights and moments of a checkpoint whose files are whole."""
        names = [name for name in manifest["files"] if name.endswith(SUFFIX)]
        with SavedSlices(self._folder / tag / name for name in names) as saved:
            held_state(self._engine).load(saved, int(manifest["facts"]["adam_step"]))

    def _load_states(self, tag: str, manifest: Manifest, names: Collection[str]) -> None:
        """Load some of the small states of a checkpoint whose files are whole."""
        num_saved = int(manifest["facts"]["num_students"])
        paths = [self._folder / tag / f"{file_prefix(rank)}.json" for rank in range(num_saved)]
        saved = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
        for name in names:
            # A state that this version added is not in an older checkpoint.
            of_ranks = [states[name] for states in saved if name in states]
            if of_ranks:
                self._states[name].load_state_dict(of_ranks)
