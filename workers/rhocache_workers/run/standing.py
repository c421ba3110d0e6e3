"""Reads the plan and the manifest that earlier runs left in a cache."""

import hashlib
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rhocache_schemas import layout, storage
from rhocache_schemas.cache.documents import Manifest, Origin, Plan
from rhocache_schemas.cache.fingerprint import Fingerprint
from rhocache_schemas.cache.index import IndexRow
from rhocache_schemas.cache.reader import CacheReader
from rhocache_schemas.errors import CacheCorrupt, CacheIncomplete, InvalidDocument
from rhocache_schemas.job.kinds.score import ScoreSpec
from rhocache_schemas.reference import ReferenceSpec
from rhocache_workers.messages import Description

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Standing:
    plan: Plan | None
    manifest: Manifest | None  # None where it is damaged, too: a run makes a new one
    committed: CacheReader | None  # None where the index is damaged, too, and is to be made anew

    @classmethod
    def of(cls, cache: str, *, rebuild_index: bool = False) -> "Standing":
        """Read the documents of a cache, and check its index.

        ``rebuild_index`` takes the shard files as they are where the index is missing or damaged.

        Raises InvalidDocument for a damaged plan: what it was begun for is not to be guessed; and
        CacheCorrupt or CacheIncomplete for an index that is damaged or missing.
        """
        uri = layout.plan_file(cache)
        plan = Plan.read(uri) if storage.exists(uri) else None
        reader = find_readable(cache)
        if reader is None:
            return cls(plan, None, None)
        try:
            _ = reader.index
        except (CacheCorrupt, CacheIncomplete) as error:
            if not rebuild_index:
                raise
            log.warning("%s", error)
            return cls(plan, reader.manifest, None)
        return cls(plan, reader.manifest, reader)

    @property
    def index(self) -> Mapping[str, IndexRow]:
        """The committed rows by shard."""
        return {} if self.committed is None else self.committed.index

    @property
    def fingerprint(self) -> Fingerprint | None:
        begun = self.plan or self.manifest
        return begun.fingerprint if begun else None

    @property
    def dataset(self) -> str | None:
        if self.manifest is not None:
            return self.manifest.dataset
        return self.plan.spec.dataset if self.plan else None

    def origin(self, fingerprint: Fingerprint) -> Origin | None:
        """What the rows that stay were merged from, where they are of this fingerprint."""
        manifest = self.manifest
        return manifest.origin if manifest and manifest.fingerprint == fingerprint else None

    def description(self, spec: ScoreSpec, reference_sha256: str | None) -> Description | None:
        """Describe the reference as it was committed, where ``spec`` clearly asks for the same.

        None where only loading it can tell: it has another name, or its files are other ones or
        not to be seen from here.
        """
        manifest = self.manifest
        if manifest is None or self.fingerprint != manifest.fingerprint:
            return None
        made = manifest.fingerprint
        if made.is_format_1 or made.made_from != "dataset":
            return None
        if (spec.reference, spec.dtype) != (manifest.reference, made.dtype):
            return None
        if (spec.source.of_rows, spec.views.recorded) != (manifest.source.of_rows, made.views):
            return None
        if reference_sha256 is None or reference_sha256 != manifest.reference_sha256:
            return None
        return Description(
            fingerprint=manifest.fingerprint,
            dimension=manifest.dimension,
            logit_scale=manifest.logit_scale,
            logit_bias=manifest.logit_bias,
            device="",  # none was loaded
            batch_size=manifest.batch_size,
            software=manifest.software,
        )


def find_readable(cache: str) -> CacheReader | None:
    """Open a committed cache, where its manifest is not damaged."""
    try:
        return CacheReader.find(cache)
    except (InvalidDocument, CacheCorrupt):
        return None


def hash_reference(reference: ReferenceSpec) -> str | None:
    """Hash the names and bytes of a reference's files, or its name where open_clip finds it.

    None where the files can't be read from this machine.
    """
    digest = hashlib.sha256(f"{reference.model}\0{reference.pretrained}\0".encode())
    try:
        for file in _files(reference):
            with file.open("rb") as stream:
                content = hashlib.file_digest(stream, "sha256").hexdigest()
            digest.update(os.fsencode(file.name) + f"\0{content}\0".encode())
    except OSError:
        return None
    return digest.hexdigest()


def _files(reference: ReferenceSpec) -> list[Path]:
    pretrained = Path(reference.pretrained or "")
    folder = reference.local_dir
    if pretrained.name.endswith(".index.json"):  # of weights in parts, which lie beside it
        folder = pretrained.parent
    if folder is not None:
        return sorted(file for file in Path(folder).iterdir() if file.is_file())
    # Anything with a slash was a file where the reference was loaded.
    return [pretrained] if pretrained.is_file() or "/" in str(pretrained) else []
